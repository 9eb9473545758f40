"""Registers and memory that a compiled kernel takes of a GPU, and how many CTAs fit on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Registers and memory of one kernel; None where the source does not say.

    source: who says so, such as "the driver, on cuda:0 (…)".
    registers: of a thread.  shared_bytes: static, of a CTA.  local_bytes: of a thread, spilled
    registers among them.  spill_store_bytes, spill_load_bytes: that spilling moves, of a thread.
    constant_bytes: without the parameters' bank.  max_threads: of a CTA.
    ctas_per_sm: that an SM holds at once, of the block and the shared memory of the launch.
    """

    source: str
    registers: int | None = None
    shared_bytes: int | None = None
    local_bytes: int | None = None
    spill_store_bytes: int | None = None
    spill_load_bytes: int | None = None
    constant_bytes: int | None = None
    max_threads: int | None = None
    ctas_per_sm: int | None = None


@dataclass(frozen=True)
class Occupancy:
    """The part of a launch that a GPU holds at once, by the driver.

    ctas_per_sm, warps_per_sm: on one SM; 0 where not even one CTA fits.  most_warps_per_sm: that
    an SM has room for.  sms: of the GPU.
    clusters: on the whole GPU, of a launch in clusters; None without.
    """

    ctas_per_sm: int
    warps_per_sm: int
    most_warps_per_sm: int
    sms: int
    clusters: int | None

    @property
    def share(self) -> float:
        """The warps that an SM holds, as a part of those that it has room for: 0 to 1."""
        return self.warps_per_sm / self.most_warps_per_sm
