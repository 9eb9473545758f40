"""Keys and values of tokens that were read: pages of a bounded pool, which sessions share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import repeat

from ..devices import Device
from ..dtypes import dtype_named
from ..errors import DeviceError
from .config import ModelConfig
from .workspace import Pages


class PagePool:
    """A model's pages: `page` positions each, of all layers.

    layers: for each layer its keys and values, T [count, kv_heads, page, head_dim].
    """

    def __init__(self, config: ModelConfig, device: Device, page: int, count: int) -> None:
        """count: of pages, each for `page` positions.  Raises DeviceError without allocating."""
        self.page, self.count = page, count
        nbytes = 4 * config.layers * config.kv_width * page * count
        device.memory.require(nbytes, f" of a cache for {page * count} tokens")
        shape, dtype = (count, config.kv_heads, page, config.head_dim), dtype_named(config.dtype)
        self.layers: list[Pages] = [
            (device.empty(shape, dtype), device.empty(shape, dtype)) for _ in range(config.layers)
        ]
        self._free = list(range(self.count - 1, -1, -1))
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """True if nobody holds a page."""
        return len(self._free) == self.count

    def take(self, wanted: Sequence[tuple[list[int], int]]) -> None:
        """Append so many pages to each list, all or none.  Raises DeviceError for too few."""
        count = sum(number for _, number in wanted)
        with self._lock:
            if count > len(self._free):
                expected = f"{count} free pages of {self.page} tokens"
                remedy = "close a session, release a sequence, or load with a larger cache_tokens"
                raise DeviceError("cache", expected, f"{len(self._free)} of {self.count}", remedy)
            for pages, number in wanted:
                _move(self._free, pages, number)

    def give_back(self, pages: list[int]) -> None:
        """Let others take these pages; the list is empty then."""
        with self._lock:
            _move(pages, self._free, len(pages))


def _move(source: list[int], target: list[int], count: int) -> None:
    """Move the last pages of one list to another, by one call, which Ctrl-C cannot break off."""
    target.extend(map(list.pop, repeat(source, count)))
