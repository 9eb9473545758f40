"""The digest of arrays where they lie: computed on the device, in the launches' own order.

Of an array taken as 32-bit words w[j], the last one filled up with zeros, it is two sums modulo
2^64 of a mix of each word with its place:

    x = w[j] ^ (j * 0x9E3779B1);  x *= 0x85EBCA6B;  x ^= x >> 15;  x *= 0xC2B2AE35;  x ^= x >> 13
    y = x * 0x27D4EB2F;  y ^= y >> 16           (32 bits each; the digest is sum x, sum y)

Sums need no order, so a GPU computes them as fast as it reads.  It tells accidents, not forgers.
The same PTX, digest.ptx, computes it on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import LaunchConfig
from ..devices import Device, Invocation, Kernel, open_device
from ..devices.cuda import driver, streams

ARRAYS = 8  # of one launch
_THREADS = 256
_MOST_CTAS = 264  # two for each SM of the largest GPU so far
_RATE = 300e9  # bytes a second: what a small GPU reads, as nobody waits to learn what this one does
_PTX = Path(__file__).with_name("digest.ptx")

Extent = tuple[int, int]  # address, bytes


def digest_kernel(device: Device) -> Kernel:
    """The digest's kernel on a device."""
    return device.load_module(_PTX.read_text(encoding="utf-8")).get_kernel()


def digest(data: NDArray[np.uint8]) -> str:
    """The digest of bytes of the host, 32 hexadecimal digits."""
    device, sums = open_device("cpu"), np.zeros((1, ARRAYS, 2), np.uint64)
    kernel = digest_kernel(device)
    extent = (data.ctypes.data, data.nbytes)
    kernel._enqueue(invocation(kernel, [extent], sums), None)
    return in_words(sums[0, 0])


def invocation(kernel: Kernel, extents: Sequence[Extent], sums: Any) -> Invocation:
    """A launch that adds the digests of up to eight extents to sums[slot], uint64 [n, 8, 2]."""
    largest = max((nbytes for _, nbytes in extents), default=0)
    ctas = max(1, min(_MOST_CTAS, largest // (_THREADS * 64)))
    config = LaunchConfig((ctas, len(extents)), _THREADS)
    flat = [number for extent in extents for number in extent]
    flat += [0] * (2 * (ARRAYS - len(extents)))
    return kernel.prepare(config, sums, *flat, 0).invocation


class Digester:
    """Digests that are computed on a device behind its launches, and read together.

    Taking one waits for nothing; `read` waits for all.
    """

    SLOTS = 512  # between two reads; each holds eight digests

    def __init__(self, device: Device) -> None:
        # One with checks would find that a digest reads arrays which it was not given as such.
        self.device = open_device("cpu") if device.name == "cpu" else device
        self._kernel = digest_kernel(self.device)
        self._sums = self._empty()
        self._first = 0  # the number of the first slot that is not read
        self._taken = 0
        self.seconds = 0.0  # about how long a GPU has been at it so far
        self._ready: dict[tuple[tuple[Extent, ...], int], tuple[Invocation, Any]] = {}

    @property
    def room(self) -> int:
        """The number of digests that can be taken before the next `read`."""
        return self.SLOTS - self._taken

    def take(self, extents: tuple[Extent, ...], stream: Any, arrays: object = None) -> int:
        """Enqueue the digests of up to eight extents; returns the slot's number.

        arrays: kept alive until that is done.
        """
        slot = self._taken
        self._taken += 1
        handle = 0 if self.device.name == "cpu" else streams.stream_handle(stream)
        known = self._ready.get((extents, handle))
        if known is None:
            launch = invocation(self._kernel, extents, self._sums)
            known = self._ready[extents, handle] = launch, self._record(launch, handle)
        launch, record = known
        launch.block.write({"slot": slot})
        if record is None:
            self._kernel._enqueue(launch, None)
        else:  # bypasses the observer, which is the caller
            config, function, extra = record.row
            with self.device.current():  # type: ignore[attr-defined]
                code = driver.launcher()(config, function, None, extra)
            if code:
                raise driver.refusal(code, "the digest of arrays")
            in_flight = self.device.in_flight  # type: ignore[attr-defined]
            in_flight.keep(stream, handle, lambda: "the digest of arrays", arrays, 0)
            self.seconds += sum(nbytes for _, nbytes in extents) / _RATE
        return self._first + slot

    def read(self) -> tuple[int, list[list[str]]]:
        """The number of the first slot since the last read, and the digests of each from it on."""
        self.device.synchronize()
        sums = self.device.to_host(self._sums)[: self._taken]
        first = self._first
        self._first, self._taken = first + self._taken, 0
        self._sums, self._ready = self._empty(), {}
        return first, [[in_words(pair) for pair in slot] for slot in sums]

    def _empty(self) -> Any:
        return self.device.to_device(np.zeros((self.SLOTS, ARRAYS, 2), np.uint64))

    def _record(self, launch: Invocation, handle: int) -> Any:
        return None if self.device.name == "cpu" else self._kernel.record(launch, handle)  # type: ignore[attr-defined]


def in_words(sums: NDArray[np.uint64]) -> str:
    """Two sums as hexadecimal digits."""
    return f"{int(sums[0]):016x}{int(sums[1]):016x}"
