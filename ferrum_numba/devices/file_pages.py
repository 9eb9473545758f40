"""Pages of a file as memory: arrays lie in them, and whoever copies one may read the file."""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Extent(NamedTuple):
    """Bytes of an open file: a descriptor, and the first one's offset."""

    descriptor: int
    begin: int


class FilePages(mmap.mmap):
    """Part of a file, mapped to be read.  The file stays open as long as this object is there."""

    _descriptor = -1
    _begin = 0
    _close = staticmethod(os.close)  # at hand when the interpreter ends, as modules are not

    @classmethod
    def map(cls, descriptor: int, begin: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes of an open file from `begin` on; nobody may write them.  Raises OSError."""
        before = begin % mmap.ALLOCATIONGRANULARITY
        start = begin - before
        pages = cls(descriptor, before + nbytes, access=mmap.ACCESS_READ, offset=start)
        pages._descriptor, pages._begin = os.dup(descriptor), start
        return np.frombuffer(pages, np.uint8, nbytes, before)

    def extent_of(self, array: NDArray[np.generic]) -> Extent:
        """The place in the file of an array that lies in these pages."""
        first = np.frombuffer(self, np.uint8).ctypes.data
        return Extent(self._descriptor, self._begin + array.ctypes.data - first)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self._close(self._descriptor)


def extent_of(array: NDArray[np.generic]) -> Extent | None:
    """The bytes of a file that a contiguous array is; None for one that lies elsewhere."""
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base.extent_of(array) if isinstance(base, FilePages) else None
