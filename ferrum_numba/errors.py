"""Every error that ferrum_numba raises on purpose, in one tree.

A message names the field, what was expected, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FerrumError(Exception):
    """Base of all errors of this package."""


class PtxError(FerrumError):
    """PTX text that cannot be read, or an instruction that the CPU device does not have."""


class AbiError(FerrumError):
    """PTX, sidecar, declared names and the values of a launch disagree."""


class LaunchError(FerrumError):
    """The driver, or the CPU device, refused or broke off a launch."""


class SanitizerError(LaunchError):
    """A launch on a device with checks did what it should not; `findings` says what.

    Its arrays hold what the launch left there; accesses that were not allowed were left out.
    """

    def __init__(self, message: str, findings: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.findings = list(findings)


class DeviceError(FerrumError):
    """No such device, or a device that cannot do what was asked of it."""


class CheckpointError(FerrumError):
    """A checkpoint on disk that is incomplete, inconsistent, or of a kind not read here."""


class RecordingError(FerrumError):
    """A recording that cannot be read, or that holds too little for what is asked of it."""
