"""The launch configuration: grid, block and dynamic shared memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import AbiError

Extent = tuple[int, int, int]

# CUDA Programming Guide, "Technical Specifications per Compute Capability"; the same for all.
_MAX_GRID: Extent = (2**31 - 1, 65535, 65535)
_MAX_BLOCK: Extent = (1024, 1024, 64)
_MAX_THREADS = 1024


@dataclass(frozen=True, init=False)
class LaunchConfig:
    """How many CTAs, how many threads each, how much dynamic shared memory.

    grid, block: 1 to 3 positive integers, (x, y, z); a plain integer is x.
    shared_bytes: dynamic shared memory of a CTA, in bytes.

    Raises AbiError for a number that is out of CUDA's range.
    """

    grid: Extent
    block: Extent
    shared_bytes: int

    def __init__(
        self,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared_bytes: int = 0,
    ) -> None:
        object.__setattr__(self, "grid", _extent("grid", grid, _MAX_GRID))
        object.__setattr__(self, "block", _extent("block", block, _MAX_BLOCK))
        object.__setattr__(
            self, "shared_bytes", _integer("shared_bytes", shared_bytes, 0, 2**31 - 1)
        )
        if self.threads > _MAX_THREADS:
            raise AbiError(
                f"block: expected at most {_MAX_THREADS} threads, found {self.threads} {self.block}"
            )

    @property
    def threads(self) -> int:
        """Threads of one CTA."""
        x, y, z = self.block
        return x * y * z

    @property
    def ctas(self) -> int:
        """CTAs of the whole grid."""
        x, y, z = self.grid
        return x * y * z


def _integer(field: str, value: object, low: int, high: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = f"{value!r} ({type(value).__name__})"
        raise AbiError(f"{field}: expected an integer, found {found}") from None
    if not low <= number <= high:
        raise AbiError(f"{field}: expected {low} to {high}, found {number}")
    return number


def _extent(field: str, value: int | Sequence[int], limits: Extent) -> Extent:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not 1 <= len(numbers) <= 3:
        raise AbiError(f"{field}: expected 1 to 3 integers (x, y, z), found {value!r}")
    numbers += (1,) * (3 - len(numbers))
    x, y, z = (
        _integer(f"{field}.{axis}", number, 1, limit)
        for axis, number, limit in zip("xyz", numbers, limits, strict=True)
    )
    return x, y, z
