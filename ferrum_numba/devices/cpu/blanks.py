"""Arrays that a device with checks has made, and of which nobody has written all elements yet."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...emulator.checks import LaunchArray

_BITS = 0xFF  # of all bytes of numbers that have a NaN: it is one of any type
_INTEGER_BITS = 0xA5


class Blanks:
    """Arrays by `empty`, as long as they live; what is in them tells which elements are blank.

    An element of one byte may have any value by design, so nothing is known of those.
    """

    def __init__(self) -> None:
        self._arrays: weakref.WeakValueDictionary[int, NDArray[Any]] = weakref.WeakValueDictionary()

    def fill(self, array: NDArray[Any]) -> None:
        """Fill a new array with what no kernel stores by chance."""
        kind, size = array.dtype.kind, array.itemsize
        array.reshape(-1).view(np.uint8)[...] = _INTEGER_BITS if kind in "iu" else _BITS
        if size > 1 and array.size:
            self._arrays[array.ctypes.data] = array

    def of(self, given: LaunchArray) -> NDArray[np.uint8] | None:
        """A byte for each byte of an array of a launch, 1 where nobody has written; None: all is
        written, or nothing is known."""
        for reference in self._arrays.valuerefs():
            array = reference()
            if array is None or not 0 <= given.address - array.ctypes.data < array.nbytes:
                continue
            there = array.reshape(-1).view(np.uint8)
            mark = _INTEGER_BITS if array.dtype.kind in "iu" else _BITS
            blank = (there.reshape(-1, array.itemsize) == mark).all(axis=1)
            if not blank.any():
                self._arrays.pop(array.ctypes.data, None)
                return None
            first = given.address - array.ctypes.data
            found = np.repeat(blank, array.itemsize)[first : first + given.nbytes]
            return np.ascontiguousarray(found).view(np.uint8) if found.any() else None
        return None
