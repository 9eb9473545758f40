"""The arrays of a launch, as the checks see them."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .state import (
    AHEAD_USED,
    AHEAD_WRITTEN,
    APART,
    HAND_BYTES,
    ROW_BYTES,
    SLOT_BYTES,
    WRITABLE,
    Area,
)


@dataclass(frozen=True)
class LaunchArray:
    """An array that a kernel was given. address: of its first byte; nbytes: up to its last one.

    role: "output": all of it has to be written; "input": none of it may be; "scratch": what is
    read has to be written before; "shared": of a cluster or a grid, and no argument; "": nothing is
    known.
    shape, strides: in elements and bytes; () and () where it is plain bytes.
    ahead: AHEAD_WRITTEN, AHEAD_USED (state.py), if the launch ahead may still run.
    blank: a byte for each of its bytes, 1 where nobody has ever written; None: nothing is known.
    """

    name: str
    address: int
    nbytes: int
    itemsize: int = 1
    role: str = ""
    writable: bool = True
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    ahead: int = 0
    blank: NDArray[np.uint8] | None = field(default=None, compare=False)

    def overlaps(self, other: LaunchArray) -> bool:
        """True if the two have bytes in common."""
        mine, its = self.address + self.nbytes, other.address + other.nbytes
        return self.address < its and other.address < mine

    def behind(self, used: Iterable[LaunchArray], written: Iterable[LaunchArray]) -> LaunchArray:
        """The array as a launch has it that may begin while the one ahead still uses others."""
        ahead = AHEAD_USED if any(map(self.overlaps, used)) else 0
        ahead |= AHEAD_WRITTEN if any(map(self.overlaps, written)) else 0
        return replace(self, ahead=ahead)

    def positions(self) -> NDArray[np.int64]:
        """Offset of each element, in C order, in elements from the start."""
        if not self.shape:
            return np.arange(self.nbytes // self.itemsize)
        places = np.zeros((), np.int64)
        for extent, stride in zip(self.shape, self.strides, strict=True):
            steps = np.arange(extent, dtype=np.int64) * (stride // self.itemsize)
            places = np.add.outer(places, steps)
        return places.reshape(-1)

    def element(self, offset: int) -> str:
        """`[i, j]` of the element at a byte offset, where the array's layout tells it."""
        if not self.shape or not 0 <= offset < self.nbytes:
            return ""
        index, rest = [], offset
        order = sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis])
        found = dict.fromkeys(order, 0)
        for axis in order:
            if self.strides[axis] > 0:
                found[axis], rest = divmod(rest, self.strides[axis])
        index = [found[axis] for axis in range(len(self.shape))]
        if any(i >= extent for i, extent in zip(index, self.shape, strict=True)):
            return ""
        return f"[{', '.join(map(str, index))}]"


_Shadow = tuple[int | None, int | None, int | None, int | None, int | None]
_NONE: _Shadow = None, None, None, None, None


@dataclass(frozen=True)
class _Marks:
    """Marks of an array's elements: of each, or of its row. states: those of rows (state.py)."""

    elements: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    states: NDArray[np.uint32]
    itemsize: int

    def all(self) -> NDArray[np.uint32]:
        """The marks of all elements."""
        alone = self.states == APART
        if alone.all():
            return self.elements
        each, count = max(1, ROW_BYTES // self.itemsize), len(self.elements)
        of_rows = np.repeat(self.rows, each)[:count]
        if not alone.any():
            return of_rows
        return np.where(np.repeat(alone, each)[:count], self.elements, of_rows)


class Areas:
    """The arrays in the form that the code reads, and the shadows of those that have one.

    slotted, slotted_end: addresses between which all arrays lie that have slots (readers.py).
    """

    def __init__(
        self,
        arrays: Sequence[LaunchArray],
        shadowed: bool,
        init: bool = False,
        timed: bool = False,
        slotted: Collection[LaunchArray] = (),
    ) -> None:
        """init: whether it is kept what nobody has written.
        timed: whether shadows have times too, for CTAs that talk to each other.
        slotted: arrays of which it is kept who read them.
        """
        self.arrays = arrays
        self._kept: list[NDArray[np.generic]] = []
        self.table, self._rows = ((Area * max(len(arrays), 1))() for _ in range(2))
        self._shadows: dict[int, _Marks] = {}
        spans: list[tuple[int, int]] = []
        for i, array in enumerate(arrays):
            writable = array.writable and array.role != "input"
            shadow, rows = _NONE, None
            written = None
            if init and array.role == "scratch":
                written = np.zeros(max(array.nbytes, 1), np.uint8)
            elif init and array.blank is not None:
                written = 1 - array.blank
            self._kept += [] if written is None else [written]
            if writable and shadowed and array.nbytes and array.role != "shared":
                sizes = array.itemsize, ROW_BYTES
                counts = [-(-array.nbytes // size) for size in sizes]
                of_rows, states = (np.zeros(counts[1], np.uint32) for _ in range(2))
                marks = _Marks(np.zeros(counts[0], np.uint32), of_rows, states, array.itemsize)
                self._shadows[i] = marks
                has = timed, array in slotted
                shadow = self._shadow(marks.elements, *has)
                self._rows[i] = Area(
                    array.address,
                    array.address + array.nbytes,
                    *self._shadow(of_rows, *has),
                    *(None, states.ctypes.data, 0, ROW_BYTES.bit_length() - 1),
                )
                rows = ctypes.addressof(self._rows[i])
                if array in slotted:
                    spans.append((array.address, array.address + array.nbytes))
            self.table[i] = Area(
                array.address,
                array.address + array.nbytes,
                *(*shadow, None if written is None else written.ctypes.data, rows),
                *((WRITABLE if writable else 0) | array.ahead, array.itemsize.bit_length() - 1),
            )
        self.slotted = min(s for s, _ in spans) if spans else 0
        self.slotted_end = max(e for _, e in spans) if spans else 0

    def _shadow(self, marks: NDArray[np.uint32], timed: bool, slotted: bool) -> _Shadow:
        """Addresses of the shadows of elements that have these marks."""
        count = len(marks)
        times = self._words(2 * count) if timed else None
        slots = self._words(2 * SLOT_BYTES // 4 * count) if slotted else None
        hands = self._words(HAND_BYTES // 4 * count) if slotted else None
        return marks.ctypes.data, self._words(count), times, slots, hands

    def _words(self, count: int) -> int:
        """The address of so many words, of which only those that are used take memory."""
        words = np.zeros(count, np.uint32)
        self._kept.append(words)
        return words.ctypes.data

    def writers(self, array: LaunchArray, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the CTAs that wrote elements of an array that has a shadow; -1: none."""
        marks = self._shadows[self.arrays.index(array)]
        return marks.all()[elements].astype(np.int64) - 1

    def missing(self) -> list[tuple[LaunchArray, int, int]]:
        """Outputs with elements that nobody wrote: (array, how many, the first in C order)."""
        found = []
        for i, marks in self._shadows.items():
            array = self.arrays[i]
            if array.role != "output":
                continue
            is_empty = marks.all() == 0
            if not is_empty.any():
                continue
            empty = np.flatnonzero(is_empty[array.positions()])
            if len(empty):
                found.append((array, len(empty), int(empty[0])))
        return found

    def nearest(self, address: int) -> tuple[LaunchArray, int] | None:
        """The array that an address lies in or is nearest to, and the offset from its start."""

        def distance(array: LaunchArray) -> int:
            behind = address - (array.address + array.nbytes) + 1
            return max(array.address - address, behind, 0)

        given = [array for array in self.arrays if array.role != "shared"]
        best = min(given, key=distance, default=None)
        return None if best is None else (best, address - best.address)
