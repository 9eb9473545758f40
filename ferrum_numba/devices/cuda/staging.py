"""Copies from the host to a GPU at the rate at which the host reads.

Threads read a source, which may be a file, into one pinned buffer, while the GPU copies what is in
another one: nothing waits for anything but the slower of the two.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ...errors import LaunchError
from ..file_pages import Extent, extent_of
from . import driver
from .objects import Event, PinnedMemory, Stream

_BUFFERS, _BUFFER = 3, 32 << 20  # and the bytes of each
_SLICE = 1 << 20  # bytes that a thread reads at the least; what has no more goes the driver's way
_THREADS = 8

Bytes = NDArray[np.uint8]


class _Buffer:
    """Pinned memory that threads read into and the GPU copies from."""

    def __init__(self) -> None:
        self.memory, self.copied = PinnedMemory(_BUFFER), Event()


class Staging:
    """The buffers and threads of one GPU, made when they are needed.  Safe from any thread: while
    the GPU copies for one, the source of another is read.
    """

    def __init__(self, stream: Stream) -> None:
        """stream: what copies."""
        self._stream = stream
        self._making = threading.Lock()

    @cached_property
    def _free(self) -> SimpleQueue[_Buffer]:
        """Buffers that nobody reads into.  From some of them the GPU may still copy."""
        free: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(_BUFFERS):
            free.put(_Buffer())
        return free

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        count = min(_THREADS, os.cpu_count() or 1)
        return ThreadPoolExecutor(count, thread_name_prefix="staging")

    def copy(self, source: Bytes, address: int) -> None:
        """Copy contiguous bytes to an address of the device; they are there when this returns.

        The context is current.  Raises LaunchError.
        """
        try:
            if source.nbytes <= _SLICE:
                self._enqueue(address, source.ctypes.data, source.nbytes)
            else:
                self._copy(source, address)
        finally:  # broken off, too: nothing may still read what the caller has
            self._stream.synchronize()

    def _copy(self, source: Bytes, address: int) -> None:
        with self._making:  # of two threads one makes them
            free, readers = self._free, self._readers
        for start in range(0, source.nbytes, _BUFFER):
            buffer = free.get()
            try:
                buffer.copied.synchronize()
                part = source[start : start + _BUFFER]
                _read(readers, part, buffer.memory.bytes)
                self._enqueue(address + start, buffer.memory.address, part.nbytes)
                buffer.copied.record(self._stream.handle)
            finally:
                free.put(buffer)

    def _enqueue(self, address: int, source: int, nbytes: int) -> None:
        handle, copy = self._stream.handle, driver.library().cuMemcpyHtoDAsync_v2
        driver.check(copy(address, source, nbytes, handle), "cuMemcpyHtoDAsync")


def _read(readers: ThreadPoolExecutor, part: Bytes, buffer: Bytes) -> None:
    """Read bytes into a buffer, by several threads; a file's pages by reading the file."""
    extent, step = extent_of(part), max(_SLICE, -(-part.nbytes // _THREADS))

    def read(start: int) -> None:
        stop = min(start + step, part.nbytes)
        if extent is None:
            np.copyto(buffer[start:stop], part[start:stop])
        else:
            _read_file(extent, start, buffer[start:stop])

    reads = [readers.submit(read, start) for start in range(0, part.nbytes, step)]
    try:
        for done in reads:
            done.result()
    finally:  # broken off, too: nobody may still write to the buffer
        for unneeded in reads:
            unneeded.cancel()
        wait(reads)


def _read_file(extent: Extent, start: int, buffer: Bytes) -> None:
    """Fill a buffer from a file: reading it costs less than faulting its pages in."""
    done, view = 0, buffer.data
    while done < len(view):
        at = extent.begin + start + done
        count = os.preadv(extent.descriptor, [view[done:]], at)
        if not count:
            raise LaunchError("file", f"bytes at {at}", "its end: it was cut short meanwhile")
        done += count
