"""Part of a launch that is traced."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ...errors import DeviceError
from ..layout import LANES

_MAX_WARPS = 32


@dataclass(frozen=True)
class Selection:
    """Part of a launch that is traced.

    cta: (x, y, z), None for all.  warps: numbers in the CTA, None for all.  lanes: whose values are
    of interest; the events have those of all.
    lines, registers: instructions on these lines of the PTX, or that mention these registers;
    empty for all.
    limit: how many events of a launch are kept, the first ones.
    """

    cta: tuple[int, int, int] | None = (0, 0, 0)
    warps: tuple[int, ...] | None = None
    lanes: tuple[int, ...] = tuple(range(LANES))
    lines: frozenset[int] = frozenset()
    registers: frozenset[str] = frozenset()
    limit: int = 200_000

    @classmethod
    def of(
        cls,
        cta: Iterable[int] | None,
        warp: int | Collection[int] | None,
        lanes: Collection[int],
        lines: Collection[int],
        registers: Collection[str],
        limit: int,
    ) -> Selection:
        """Raises DeviceError for what no launch has."""
        place = None if cta is None else _place(tuple(cta))
        warps = None if warp is None else (warp,) if isinstance(warp, int) else tuple(warp)
        if warps is not None and not all(0 <= w < _MAX_WARPS for w in warps):
            raise DeviceError("warp", f"0 to {_MAX_WARPS - 1}", warp)
        if not lanes or not all(0 <= lane < LANES for lane in lanes):
            raise DeviceError("lanes", f"some of 0 to {LANES - 1}", list(lanes))
        if limit < 1:
            raise DeviceError("limit", "at least 1 event", limit)
        if isinstance(registers, str):
            raise DeviceError("registers", "a list of names", f"{registers!r}")
        return cls(
            place,
            warps,
            tuple(sorted(lanes)),
            frozenset(lines),
            frozenset(name if name.startswith("%") else f"%{name}" for name in registers),
            limit,
        )

    def warp_bits(self, block: tuple[int, int, int]) -> int:
        """Bit w is set for warp w of a block.  Raises DeviceError where it has none such."""
        count = -(-math.prod(block) // LANES)
        if self.warps is None:
            return (1 << count) - 1
        if missing := sorted(warp for warp in set(self.warps) if warp >= count):
            raise DeviceError(
                "warp", f"0 to {count - 1}, as the block has {count}", ", ".join(map(str, missing))
            )
        return sum(1 << warp for warp in set(self.warps))

    def cta_number(self, grid: tuple[int, int, int]) -> int | None:
        """The number of the CTA in a grid, x first.  Raises DeviceError where it has none such."""
        if self.cta is None:
            return None
        if any(place >= extent for place, extent in zip(self.cta, grid, strict=True)):
            raise DeviceError("cta", f"one within the grid {grid}", self.cta)
        x, y, z = self.cta
        return x + grid[0] * (y + grid[1] * z)


def _place(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    if len(numbers) > 3 or min(numbers, default=-1) < 0:
        raise DeviceError("cta", "1 to 3 numbers from 0 on", numbers)
    x, y, z = (*numbers, 0, 0)[:3]
    return x, y, z
