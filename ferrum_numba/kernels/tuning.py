"""The measured table: which build is fastest for which shape.  scripts/tune.py writes it.

JSON: {table: [{"group": 128, "M": 8, "N": 4096, "K": 4096,
"build": "w4a16_gptq_gemm_decode.m8n32w8.g128.sm_80"}, ...]}.  table: the product name of the GPU
that was measured, "cpu", or "portable": the builds for sm_80 alone, measured on the first GPU;
where a device was never measured, or cannot take its own row's.  group: of the layers that were
measured; other group sizes take the rows of the largest one that divides them, one group of all of
K those of the largest.  build: the name of a shipped float16 build, or "canonical"; its like in
another dtype is taken to be as fast.  A row holds for every M above the next smaller M of its
table, up to its own; the rows of the largest M for all M beyond.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AbiError

CANONICAL = "canonical"
PORTABLE = "portable"


@dataclass(frozen=True)
class Row:
    """One measured shape, and the build that was fastest there."""

    group: int
    m: int
    n: int
    k: int
    build: str

    def distance(self, n: int, k: int) -> float:
        """Distance of another N and K, on logarithmic scales."""
        return math.hypot(math.log(n / self.n), math.log(k / self.k))


class Tuning:
    """The rows by device; one that nobody measured takes the portable ones."""

    def __init__(self, rows: Mapping[str, Iterable[Row]]) -> None:
        self._rows = {device: tuple(found) for device, found in rows.items()}

    @classmethod
    def read(cls, path: Path) -> Tuning:
        """Read the table from the JSON file.  Raises AbiError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls({device: [_row(r) for r in rows] for device, rows in content.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AbiError(path.name, f"cannot be read as a tuning table: {error}") from None

    def rows(self, device: str) -> tuple[Row, ...]:
        """Rows that were measured on a device, or the portable ones."""
        return self._rows.get(device) or self._rows.get(PORTABLE, ())

    def bounds(self, device: str) -> tuple[int, ...]:
        """The Ms of the table: the choice is the same for all M between two of them."""
        return tuple(sorted({row.m for row in self.rows(device)}))

    def groups(self, device: str) -> tuple[int, ...]:
        """The group sizes that were measured, the largest first."""
        return tuple(sorted({row.group for row in self.rows(device)}, reverse=True))

    def build(self, device: str, m: int, n: int, k: int, group: int) -> str | None:
        """The build of the nearest shape; None where the group was never measured."""
        rows = [row for row in self.rows(device) if row.group == group]
        if not rows:
            return None
        bound = m_class(m, sorted({row.m for row in rows}))
        return min((r for r in rows if r.m == bound), key=lambda row: row.distance(n, k)).build


def m_class(m: int, bounds: list[int] | tuple[int, ...]) -> int:
    """The smallest of the bounds (ascending) that is not below m, or the largest."""
    return bounds[min(bisect_left(bounds, m), len(bounds) - 1)]


def _row(fields: Mapping[str, Any]) -> Row:
    row = Row(fields["group"], fields["M"], fields["N"], fields["K"], fields["build"])
    if min(row.group, row.m, row.n, row.k) < 1:
        raise ValueError(f"expected sizes of at least 1, found {dict(fields)}")
    return row
