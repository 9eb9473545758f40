"""Copies from the host to a GPU at the rate at which the host reads.

Threads read the source, which may be a file, into one pinned buffer, while the GPU copies what is
in the other one: nothing waits for anything but the slower of the two.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ...errors import LaunchError
from ..file_pages import Extent, extent_of
from . import driver
from .objects import Event, PinnedMemory, Stream

_BUFFER = 32 << 20  # bytes of a buffer, of which there are two
_SLICE = 1 << 20  # bytes that a thread reads at the least; what has no more goes the driver's way
_THREADS = 8

Bytes = NDArray[np.uint8]


class Staging:
    """The buffers and threads of one GPU, made when they are needed.  Safe from any thread."""

    def __init__(self, stream: Stream) -> None:
        """stream: what copies."""
        self._stream = stream
        self._lock = threading.Lock()
        self._buffers: list[tuple[PinnedMemory, Event]] = []
        self._readers: ThreadPoolExecutor | None = None

    def copy(self, source: Bytes, address: int) -> None:
        """Copy contiguous bytes to an address of the device; they are there when this returns.

        The context is current.  Raises LaunchError.
        """
        with self._lock:
            try:
                if source.nbytes <= _SLICE:
                    self._enqueue(address, source.ctypes.data, source.nbytes)
                else:
                    self._copy(source, address)
            finally:  # broken off, too: nothing may still read what the caller has, or the buffers
                self._stream.synchronize()

    def _copy(self, source: Bytes, address: int) -> None:
        if not self._buffers:
            self._buffers = [(PinnedMemory(_BUFFER), Event()) for _ in range(2)]
        for number, start in enumerate(range(0, source.nbytes, _BUFFER)):
            buffer, copied = self._buffers[number % 2]
            if number >= 2:
                copied.synchronize()
            part = source[start : start + _BUFFER]
            self._read(part, buffer.bytes)
            self._enqueue(address + start, buffer.address, part.nbytes)
            copied.record(self._stream.handle)

    def _enqueue(self, address: int, source: int, nbytes: int) -> None:
        handle, copy = self._stream.handle, driver.library().cuMemcpyHtoDAsync_v2
        driver.check(copy(address, source, nbytes, handle), "cuMemcpyHtoDAsync")

    def _read(self, part: Bytes, buffer: Bytes) -> None:
        """Read bytes into a buffer, by several threads; a file's pages by reading the file."""
        extent, step = extent_of(part), max(_SLICE, -(-part.nbytes // _THREADS))

        def read(start: int) -> None:
            stop = min(start + step, part.nbytes)
            if extent is None:
                np.copyto(buffer[start:stop], part[start:stop])
            else:
                _read_file(extent, start, buffer[start:stop])

        if self._readers is None:
            count = min(_THREADS, os.cpu_count() or 1)
            self._readers = ThreadPoolExecutor(count, thread_name_prefix="staging")
        for _ in self._readers.map(read, range(0, part.nbytes, step)):
            pass


def _read_file(extent: Extent, start: int, buffer: Bytes) -> None:
    """Fill a buffer from a file: reading it costs less than faulting its pages in."""
    done, view = 0, buffer.data
    while done < len(view):
        at = extent.begin + start + done
        count = os.preadv(extent.descriptor, [view[done:]], at)
        if not count:
            raise LaunchError("file", f"bytes at {at}", "its end: it was cut short meanwhile")
        done += count
