"""The elements of global memory that have a shadow, as native code finds them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ..values import EachLane, Value
from .code import Code
from .state import APART, HAND_BYTES, HELD, ROW_BYTES, Area


@dataclass(frozen=True)
class Marked:
    """Elements of an array that bytes from some place on cover. first, last: their numbers."""

    area: Value
    first: Value
    last: Value

    def _shift(self, c: Code) -> Value:
        return c.cast("zext", c.of_area(self.area, "granule"), "i64")

    def is_part(self, c: Code, nbytes: Value) -> Value:
        """True if so many bytes are less than an element."""
        return c.compare("icmp ult", nbytes, c.op("shl", c.constant("i64", 1), self._shift(c)))

    def _mark_at(self, c: Code, element: Value) -> Value:
        return c.item("i32", c.of_area(self.area, "shadow"), element)

    def hold(self, c: Code, element: Value) -> Value:
        """Keep other threads of the host from what is known of an element; its mark."""
        at = self._mark_at(c, element)
        loop = c.loop()
        with loop:
            was = c.emit(f"atomicrmw xchg {at}, i32 {HELD} acquire, align 4")
            mark = Value(was, "i32")
            loop.leave(c.compare("icmp ne", mark, HELD), mark)
            loop.again()
        return loop.results[0]

    def give(self, c: Code, element: Value, mark: Value) -> None:
        """Release the element to others, with this mark."""
        c.line(f"store atomic {mark}, {self._mark_at(c, element)} release, align 4")

    def fill(self, c: Code, place: Value, nbytes: Value) -> None:
        """Note that bytes from an address on are written; behind the array there are none."""
        start, end = (c.of_area(self.area, name) for name in ("start", "end"))
        at = c.item("i8", c.of_area(self.area, "written"), c.op("sub", place, start))
        c.clear_bytes(at, c.intrinsic("llvm.umin", nbytes, c.op("sub", end, place)), 1)

    def hand(self, c: Code, element: Value) -> Value:
        """Record of an element within a CTA, of an array that has hands."""
        return c.item("i8", c.of_area(self.area, "hands"), c.op("mul", element, HAND_BYTES))

    def address(self, c: Code, element: Value) -> Value:
        """Address of an element."""
        offset = c.op("shl", element, self._shift(c))
        return c.op("add", c.of_area(self.area, "start"), offset)


def state_of(c: Code, area: Value, row: Value) -> Value:
    """Address of a row's state (rows.py)."""
    return c.item("i32", c.of_area(c.of_area(area, "rows"), "rows"), row)


def is_apart(c: Code, state: Value) -> Value:
    """True if the elements of a row have a record each."""
    there = Value(c.emit(f"load atomic i32, {state} acquire, align 4"), "i32")
    return c.compare("icmp eq", there, APART)


class Hint:
    """The array that was found last, with which the search for the next begins."""

    def __init__(self, c: Code) -> None:
        self._number = c.room("i32")
        c.store(c.constant("i32", 0), self._number, 0, 4)

    def find(self, c: Code, lanes: EachLane, place: Value, nbytes: Value, shadow: str) -> Marked:
        """The elements from an address on, a record for each; where none have that shadow, go on
        with the next lane.

        A piece of a bulk copy may go on behind the array.
        """
        area, found = self.search(c, place)
        lanes.next_if(c.invert(found))
        null = c.compare("icmp eq", c.of_area(area, shadow), Value("null", "ptr"))
        lanes.next_if(null)
        start = c.of_area(area, "start")
        length, offset = c.op("sub", c.of_area(area, "end"), start), c.op("sub", place, start)
        behind = c.intrinsic("llvm.umin", c.op("add", offset, nbytes), length)
        shift = c.cast("zext", c.of_area(area, "granule"), "i64")
        last = c.op("add", behind, -1)
        for end in (offset, last):
            row = c.op("lshr", end, ROW_BYTES.bit_length() - 1)
            with c.when(c.invert(is_apart(c, state_of(c, area, row)))):
                c.call("rowapart", "void", area, row)
        return Marked(area, c.op("lshr", offset, shift), c.op("lshr", last, shift))

    def search(self, c: Code, place: Value) -> tuple[Value, Value]:
        """The array around an address, and whether there is one."""
        areas, count = c.field("areas"), c.field("area_count")
        loop = c.loop(c.load("i32", 1, self._number, 0, 4), c.constant("i32", 0))
        with loop as (raw, tried):
            i = c.select(c.compare("icmp uge", raw, count), c.constant("i32", 0), raw)
            loop.leave(c.compare("icmp uge", tried, count), i, tried)
            area = c.item("i8", areas, c.op("mul", i, ctypes.sizeof(Area)))
            start = c.of_area(area, "start")
            length = c.op("sub", c.of_area(area, "end"), start)
            inside = c.compare("icmp ult", c.op("sub", place, start), length)
            loop.leave(inside, i, tried)
            loop.again(c.op("add", i, 1), c.op("add", tried, 1))
        number, tried = loop.results
        c.store(number, self._number, 0, 4)
        area = c.item("i8", areas, c.op("mul", number, ctypes.sizeof(Area)))
        return area, c.compare("icmp ult", tried, count)
