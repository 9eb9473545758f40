"""Keys and values of tokens that were read: pages of a bounded pool, which sessions share."""

from __future__ import annotations

import threading

from ..devices import Device
from ..errors import DeviceError
from .config import ModelConfig
from .workspace import DTYPES, Pages


class PagePool:
    """A model's pages: `page` positions each, of all layers.

    layers: for each layer its keys and values, T [count, kv_heads, page, head_dim].
    """

    def __init__(self, config: ModelConfig, device: Device, page: int, count: int) -> None:
        """count: of pages, each for `page` positions.  Raises DeviceError without allocating."""
        self.page, self.count = page, count
        nbytes = 4 * config.layers * config.kv_width * page * count
        device.memory.require(nbytes, f" of a cache for {page * count} tokens")
        shape, dtype = (count, config.kv_heads, page, config.head_dim), DTYPES[config.dtype]
        self.layers: list[Pages] = [
            (device.empty(shape, dtype), device.empty(shape, dtype)) for _ in range(config.layers)
        ]
        self._free = list(range(self.count - 1, -1, -1))
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """True if nobody holds a page."""
        return len(self._free) == self.count

    def take(self, count: int) -> list[int]:
        """`count` pages, all or none.  Raises DeviceError where there are too few."""
        with self._lock:
            if count > len(self._free):
                raise DeviceError(
                    "cache",
                    f"{count} free pages of {self.page} tokens",
                    f"{len(self._free)} of {self.count}",
                    "close a session, release a sequence, or load with a larger cache_tokens",
                )
            return [self._free.pop() for _ in range(count)]

    def give_back(self, pages: list[int]) -> None:
        """Let others take these pages."""
        with self._lock:
            self._free.extend(reversed(pages))
