"""A grid of CTAs to be run, as every program of the emulator is given it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .layout import LANES, Triple


@dataclass(frozen=True, kw_only=True)
class Job:
    """One launch.

    grid, block: CTAs and threads in x, y, z.  shared_bytes: dynamic shared memory of a CTA.
    parameter_block: `signature.nbytes` bytes; pointers in it are addresses of this process.
    threads: over how many threads of the host the CTAs are spread.
    cluster: CTAs of a cluster, a divisor of the grid.
    """

    grid: Triple
    block: Triple
    shared_bytes: int
    parameter_block: bytes
    threads: int = 1
    cluster: Triple = (1, 1, 1)

    @property
    def ctas(self) -> int:
        """CTAs of the grid."""
        return math.prod(self.grid)

    @property
    def warps(self) -> int:
        """Warps of a CTA."""
        return -(-math.prod(self.block) // LANES)
