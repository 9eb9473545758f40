"""Occupancy: CTAs of a kernel that an SM holds at once, by the limits of its compute capability.

Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the rounding
as in cuda_occupancy.h of the CUDA Toolkit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_REGISTERS = 65536  # of an SM, 32 bits each, in four parts that warps are dealt to
_PARTS = 4
_REGISTER_UNIT = 256  # of a warp
_SHARED_UNIT = 128  # bytes
_WARP = 32


@dataclass(frozen=True)
class Sm:
    """Limits of one SM.  shared_bytes: for all its CTAs; reserved: that each takes besides."""

    warps: int
    ctas: int
    shared_bytes: int
    reserved: int = 1024


_SMS = {
    70: Sm(64, 32, 96 << 10, reserved=0),
    72: Sm(64, 32, 96 << 10, reserved=0),
    75: Sm(32, 16, 64 << 10, reserved=0),
    80: Sm(64, 32, 164 << 10),
    86: Sm(48, 16, 100 << 10),
    87: Sm(48, 16, 164 << 10),
    89: Sm(48, 24, 100 << 10),
    90: Sm(64, 32, 228 << 10),
    100: Sm(64, 32, 228 << 10),
    103: Sm(64, 32, 228 << 10),
    120: Sm(48, 24, 100 << 10),
    121: Sm(48, 24, 100 << 10),
}


def find_sm(target: str) -> Sm | None:
    """The SM of a target such as "sm_90a"; None for one that is not in the table."""
    match = re.fullmatch(r"sm_(\d+)[af]?", target)
    return _SMS.get(int(match[1])) if match else None


def resident_ctas(sm: Sm, threads: int, registers: int, shared_bytes: int) -> int:
    """CTAs that fit on an SM at once; 0 where not even one does.

    threads, shared_bytes (static and dynamic): of a CTA.  registers: of a thread.
    """
    warps = -(-threads // _WARP)
    of_warp = max(_round_up(registers * _WARP, _REGISTER_UNIT), _REGISTER_UNIT)
    by_registers = _REGISTERS // _PARTS // of_warp * _PARTS // warps
    shared = _round_up(shared_bytes + sm.reserved, _SHARED_UNIT)
    by_shared = sm.shared_bytes // shared if shared else sm.ctas
    return min(sm.ctas, sm.warps // warps, by_registers, by_shared)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
