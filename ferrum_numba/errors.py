"""Every error that ferrum_numba raises on purpose, in one tree.

A message names the field, what was expected, what was found, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
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


def did_you_mean(wrong: object, names: Collection[str], otherwise: str) -> str:
    """The end of a message about a name or a glob pattern that is none of `names`.

    It proposes up to three that contain `wrong` or are spelt nearly so; where there are none it
    is `otherwise`, which says where to look.
    """
    part = str(wrong).strip("*")
    near = [name for name in names if part and part in name][:3]
    near = near or difflib.get_close_matches(part, names, n=3)
    if not near:  # only its end may have been given, as in "*.qproj"
        ends = {name.rpartition(".")[2]: name for name in reversed([*names])}
        close = difflib.get_close_matches(part.rpartition(".")[2], ends, n=3)
        near = [ends[end] for end in close]
    return f"did you mean {', '.join(near)}?" if near else otherwise
