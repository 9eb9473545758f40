"""The measured table: which tile is fastest for which shape.  scripts/tune.py writes it.

JSON: {device name: [{"group": 128, "M": 8, "N": 4096, "K": 4096, "tile": "m8n32w8"}, ...]}.
group: the GROUP that the tile was built with.  tile: the part of an artefact's name that says its
tile, or "canonical".  A row holds for every M above the next smaller M of the table, up to its own;
the rows of the largest M for all M beyond.
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


@dataclass(frozen=True)
class Row:
    """One measured shape, and the tile that was fastest there."""

    group: int
    m: int
    n: int
    k: int
    tile: str

    def distance(self, n: int, k: int) -> float:
        """How far another N and K are, on logarithmic scales."""
        return math.hypot(math.log(n / self.n), math.log(k / self.k))


class Tuning:
    """The rows by device; one that nobody measured takes those of the first in the table."""

    def __init__(self, rows: Mapping[str, Iterable[Row]]) -> None:
        self._rows = {device: tuple(found) for device, found in rows.items()}

    @classmethod
    def read(cls, path: Path) -> Tuning:
        """From the JSON file.  Raises AbiError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls({device: [_row(r) for r in rows] for device, rows in content.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AbiError(f"{path.name}: cannot be read as a tuning table: {error}") from None

    def rows(self, device: str) -> tuple[Row, ...]:
        """What was measured on a device, or on the first of the table."""
        return self._rows.get(device) or next(iter(self._rows.values()), ())

    def bounds(self, device: str) -> tuple[int, ...]:
        """The Ms of the table: the choice is the same for all M between two of them."""
        return tuple(sorted({row.m for row in self.rows(device)}))

    def tile(self, device: str, m: int, n: int, k: int, group: int) -> str | None:
        """The tile of the nearest shape; None where the group was never measured."""
        rows = [row for row in self.rows(device) if row.group == group]
        if not rows:
            return None
        bound = m_class(m, sorted({row.m for row in rows}))
        return min((r for r in rows if r.m == bound), key=lambda row: row.distance(n, k)).tile


def m_class(m: int, bounds: list[int] | tuple[int, ...]) -> int:
    """The smallest of the bounds (ascending) that is not below m, or the largest."""
    return bounds[min(bisect_left(bounds, m), len(bounds) - 1)]


def _row(fields: Mapping[str, Any]) -> Row:
    row = Row(fields["group"], fields["M"], fields["N"], fields["K"], fields["tile"])
    if min(row.group, row.m, row.n, row.k) < 1:
        raise ValueError(f"expected sizes of at least 1, found {dict(fields)}")
    return row
