"""The launch configuration: grid, block, dynamic shared memory, and how CTAs are scheduled."""

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
_MAX_CLUSTER = 8  # CUDA Programming Guide, "Thread Block Clusters": CTAs that every device takes


@dataclass(frozen=True, init=False)
class LaunchConfig:
    """The number of CTAs, of threads in each, and of bytes of dynamic shared memory.

    grid, block: 1 to 3 positive integers, (x, y, z); a plain integer is x.
    shared_bytes: dynamic shared memory of a CTA, in bytes.
    cluster: CTAs of a cluster, (x, y, z), where the PTX does not say; None: no clusters of its own.
    cooperative: all CTAs run at the same time, so that they may wait for each other.
    programmatic: may start before the launch ahead of it in its stream is done; the kernel waits
    for that itself (griddepcontrol.wait).
    priority: over other streams' launches; smaller numbers go first.  None: the stream's own.

    On the CPU device, where every launch is done when it returns, programmatic and priority change
    nothing.

    Raises AbiError for a number that is out of CUDA's range.
    """

    grid: Extent
    block: Extent
    shared_bytes: int
    cluster: Extent | None
    cooperative: bool
    programmatic: bool
    priority: int | None

    def __init__(
        self,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared_bytes: int = 0,
        *,
        cluster: int | Sequence[int] | None = None,
        cooperative: bool = False,
        programmatic: bool = False,
        priority: int | None = None,
    ) -> None:
        object.__setattr__(self, "grid", _extent("grid", grid, _MAX_GRID))
        object.__setattr__(self, "block", _extent("block", block, _MAX_BLOCK))
        object.__setattr__(
            self, "shared_bytes", _integer("shared_bytes", shared_bytes, 0, 2**31 - 1)
        )
        if self.threads > _MAX_THREADS:
            raise AbiError(
                "block", f"at most {_MAX_THREADS} threads", f"{self.threads} {self.block}"
            )
        if cluster is not None:
            cluster = self._cluster(cluster)
        if priority is not None:
            priority = _integer("priority", priority, -(2**31), 2**31 - 1)
        object.__setattr__(self, "cluster", cluster)
        object.__setattr__(self, "cooperative", _flag("cooperative", cooperative))
        object.__setattr__(self, "programmatic", _flag("programmatic", programmatic))
        object.__setattr__(self, "priority", priority)

    def _cluster(self, value: int | Sequence[int]) -> Extent:
        cluster = _extent("cluster", value, (_MAX_CLUSTER,) * 3)
        x, y, z = cluster
        if x * y * z > _MAX_CLUSTER:
            raise AbiError("cluster", f"at most {_MAX_CLUSTER} CTAs", f"{x * y * z} {cluster}")
        if any(ctas % part for ctas, part in zip(self.grid, cluster, strict=True)):
            raise AbiError("cluster", f"a divisor of the grid {self.grid} in each axis", cluster)
        return cluster

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
        raise AbiError(field, "an integer", found) from None
    if not low <= number <= high:
        raise AbiError(field, f"{low} to {high}", number)
    return number


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise AbiError(field, "True or False", f"{value!r}")
    return value


def _extent(field: str, value: int | Sequence[int], limits: Extent) -> Extent:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not 1 <= len(numbers) <= 3:
        raise AbiError(field, "1 to 3 integers (x, y, z)", f"{value!r}")
    numbers += (1,) * (3 - len(numbers))
    x, y, z = (
        _integer(f"{field}.{axis}", number, 1, limit)
        for axis, number, limit in zip("xyz", numbers, limits, strict=True)
    )
    return x, y, z
