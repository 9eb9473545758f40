"""Rows of global memory: what lanes access that lie one after another has one record.

rowapart(area, row): from now on the elements of a row have a record each

A row is of ROW_BYTES, counted from the start of its array.  As long as all accesses are of all of
it at once, its elements would have the same records, but for the lane, which their place tells: so
there is one for all, as if the row were an element.  Before any other access, and before one that
may be a finding, it is copied to each.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..layout import LANES
from ..values import Value
from .areas import Hint, Marked, is_apart, state_of
from .code import Code, code
from .state import APART, HAND_BYTES, HAND_LANE, HELD, ROW_BYTES, SLOT_BYTES

_KEPT = {"shadow": 4, "sites": 4, "times": 8, "slots": 2 * SLOT_BYTES, "hands": HAND_BYTES}
# The lanes of a row are neighbours, or those that have the same columns of an mma's results.
_STEPS = 1, 4
_BYTES = 8  # shift of a lane's bytes, beside the step, in a row's state
_NULL, _FALSE = Value("null", "ptr"), Value("false", "i1")


def by_rows(c: Code, address: Value, mask: Value, nbytes: int, name: str) -> Value:
    """Have rows looked at as such; the lanes that are left.

    name: of a function (address, lane, lanes, checks, ctx, site) -> i1: whether it has noted the
    row that a lane begins; lanes: which others have the rest of it, and how much each.
    """
    left, count = mask, ROW_BYTES // nbytes
    for step in _STEPS:
        if count * step > LANES:
            break
        places = [lane // step % count for lane in range(LANES)]
        firsts = [lane - place * step for lane, place in enumerate(places)]
        offsets = [place * nbytes for place in places]
        heads = c.shuffle(address, None, firsts)
        steps = c.op("add", heads, c.numbers(address.type, offsets))
        strays = c.op("or", c.mask(c.compare("icmp ne", address, steps)), c.op("xor", mask, -1))
        with c.when(c.compare("icmp eq", strays, 0)) as some:
            rest = left
            for lane in sorted(set(firsts)):
                lanes = sum(1 << lane + step * i for i in range(count))
                which = [c.constant("i32", n) for n in (lane, step | nbytes << _BYTES)]
                noted = c.call(name, "i1", c.element(address, lane), *which, *c.here)
                others = c.op("and", rest, ~lanes)
                rest = c.select(Value(noted, "i1"), others, rest)
            some.give(rest)
        left = some.otherwise(left)
    return left


@dataclass(frozen=True)
class Row:
    """A row that a warp accesses, kept from other threads of the host.

    area: the array.  marked: the row, as if it were an element of an array.
    state: address of its state.  was: that state.
    """

    area: Value
    marked: Marked
    state: Value
    was: Value

    @staticmethod
    def hold(c: Code, address: Value, lanes: Value, shadow: str) -> Row:
        """The row from an address on; the function returns false where there is none, or where its
        elements have a record each, or none of that name."""
        area, found = Hint(c).search(c, address)
        c.ret_if(c.invert(found), _FALSE)
        c.ret_if(c.compare("icmp eq", c.of_area(area, shadow), _NULL), _FALSE)
        offset = c.op("sub", address, c.of_area(area, "start"))
        granule, room = c.of_area(area, "granule"), c.op("sub", c.of_area(area, "end"), address)
        odd = c.compare("icmp ne", c.op("and", offset, ROW_BYTES - 1), 0)
        for wrong in (
            c.compare("icmp ult", room, ROW_BYTES),
            c.compare("icmp ugt", c.op("shl", c.constant("i32", 1), granule), bytes_of(c, lanes)),
        ):
            odd = c.op("or", odd, wrong)
        c.ret_if(odd, _FALSE)
        number = c.op("lshr", offset, ROW_BYTES.bit_length() - 1)
        state = state_of(c, area, number)
        c.ret_if(is_apart(c, state), _FALSE)
        was = _taken(c, state)
        with c.when(c.compare("icmp eq", was, APART)):
            _give(c, state, c.constant("i32", APART))
            c.ret(_FALSE)
        return Row(area, Marked(c.of_area(area, "rows"), number, number), state, was)

    def part_if(self, c: Code, wrong: Value) -> None:
        """Give each element its record, and return false, where a condition holds."""
        with c.when(wrong):
            _part(c, self.area, self.marked.first, self.was)
            _give(c, self.state, c.constant("i32", APART))
            c.ret(_FALSE)

    def give(self, c: Code, lanes: Value) -> None:
        """Let others have it. lanes: those that stored last."""
        _give(c, self.state, lanes)


def bytes_of(c: Code, lanes: Value) -> Value:
    """Size of each access to a row."""
    return c.op("lshr", lanes, _BYTES)


def _taken(c: Code, state: Value) -> Value:
    """State of a row before this thread of the host took it."""
    loop = c.loop()
    with loop:
        was = Value(c.emit(f"atomicrmw xchg {state}, i32 {HELD} acquire, align 4"), "i32")
        loop.leave(c.compare("icmp ne", was, HELD), was)
        loop.again()
    return loop.results[0]


def _give(c: Code, state: Value, what: Value) -> None:
    c.line(f"store atomic {what}, {state} release, align 4")


def _part(c: Code, area: Value, row: Value, lanes: Value) -> None:
    """Copy a row's record to its elements."""
    shift = c.cast("zext", c.of_area(area, "granule"), "i64")
    each = c.op("lshr", c.constant("i64", ROW_BYTES), shift)
    first, rows = c.op("mul", row, each), c.of_area(area, "rows")
    for name, nbytes in _KEPT.items():
        there = c.of_area(area, name)
        with c.when(c.compare("icmp ne", there, _NULL)):
            source = c.item("i8", c.of_area(rows, name), c.op("mul", row, nbytes))
            loop = c.loop(c.constant("i64", 0))
            with loop as (i,):
                to = c.item("i8", there, c.op("mul", c.op("add", first, i), nbytes))
                c.copy_bytes(to, source, c.constant("i64", nbytes))
                if name == "hands":
                    offset = c.cast("trunc", c.op("shl", i, shift), "i32")
                    place = c.op("udiv", offset, bytes_of(c, lanes))
                    lane = c.op("mul", place, c.op("and", lanes, (1 << _BYTES) - 1))
                    its = c.op("or", c.load("i32", 1, source, HAND_LANE, 4), lane)
                    c.store(its, to, HAND_LANE, 4)
                more = c.op("add", i, 1)
                loop.again_if(c.compare("icmp ult", more, each), more)


@code("rowapart")
def apart(c: Code) -> None:
    area, row = c.takes("ptr", "i64")
    state = state_of(c, area, row)
    was = _taken(c, state)
    alone = (c.compare("icmp ne", was, what) for what in (0, APART))
    with c.when(c.op("and", *alone)):
        _part(c, area, row, was)
    _give(c, state, c.constant("i32", APART))
