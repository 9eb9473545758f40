"""Scratch memory that launches are owed: workspaces, counters, Triton's own scratch.

Launches that come one after the other may use the same memory, so there is one arena for each order
of launches: a stream, a captured graph's branch, a thread of the CPU device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..abi import Demand

_SMALLEST = 1 << 16  # bytes; sizes are powers of two from here on
_ALIGN = 256  # bytes, between the buffers of one launch

# (nbytes, zeroed) -> the address of new memory, and the object that keeps it.
Allocate = Callable[[int, bool], tuple[int, Any]]


class ScratchArena:
    """Memory that grows where a launch needs more than there is, and is never moved or returned.

    What is outgrown stays, since prepared launches have its address; sizes double, so that it is
    less than what replaces it.  Zeroed memory is apart, for it is zero between launches.
    """

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._kept: list[Any] = []
        self._place = {False: (0, 0), True: (0, 0)}  # by zeroed: address, bytes
        self._lock = threading.Lock()

    def provide(self, demands: Sequence[Demand]) -> dict[str, int]:
        """An address for each demand, by the parameter's name."""
        addresses: dict[str, int] = {}
        for zeroed in (False, True):
            wanted = [demand for demand in demands if demand.zeroed is zeroed]
            if wanted:
                addresses |= self._provide(wanted, zeroed)
        return addresses

    def _provide(self, demands: Sequence[Demand], zeroed: bool) -> dict[str, int]:
        steps = [max(demand.align, _ALIGN) for demand in demands]
        needed = sum(demand.nbytes + step for demand, step in zip(demands, steps, strict=True))
        with self._lock:
            address, nbytes = self._place[zeroed]
            if needed > nbytes:
                nbytes = max(_SMALLEST, 1 << (needed - 1).bit_length())
                address, keeper = self._allocate(nbytes, zeroed)
                self._kept.append(keeper)
                self._place[zeroed] = address, nbytes
        addresses = {}
        for demand, step in zip(demands, steps, strict=True):
            address = -(-address // step) * step
            addresses[demand.name] = address
            address += demand.nbytes
        return addresses
