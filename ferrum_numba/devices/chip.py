"""A GPU's chip as far as it decides how long a launch takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """sms: multiprocessors.  bandwidth: of the memory, bytes a microsecond.  clock: MHz.

    shared: bytes of shared memory of an SM.
    """

    sms: int
    bandwidth: float
    clock: float
    shared: int
