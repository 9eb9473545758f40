"""Votes and reductions over the lanes that a member mask names.

    redux_<operation>(values, members, mask) -> <32 x i32>: operation add, umin, smin, umax, smax,
        and, or, xor
    match_<bits>(values, members, mask) -> <32 x i32>: which of them have this lane's value

mask: the lanes that execute the instruction.  Lanes of several masks may come together.
Source: PTX ISA, "redux.sync", "match.sync".
"""

from __future__ import annotations

from collections.abc import Callable

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Value

_NEUTRAL = {"umin": -1, "smin": 0x7FFFFFFF, "smax": -0x80000000, "and": -1}


@routine("redux")
def redux(r: Routine, operation: str) -> None:
    def among(value: Value, _: Value, here: Value) -> Value:
        part = r.select(r.lanes(here), value, _NEUTRAL.get(operation, 0))
        return r.reduce(operation, part)

    _for_each_lane(r, "i32", among)


@routine("match")
def match(r: Routine, bits: str) -> None:
    def among(value: Value, its: Value, here: Value) -> Value:
        return r.op("and", r.mask(r.compare("icmp eq", value, its)), here)

    _for_each_lane(r, f"i{bits}", among)


def _for_each_lane(r: Routine, item: str, among: Callable[[Value, Value, Value], Value]) -> None:
    """Return what a function gives for each lane: of all values, the lane's, and the members."""
    value, members, mask = r.takes(f"<32 x {item}>", VECTOR, "i32")
    values, named, results = r.spread(value), r.spread(members), r.room(VECTOR)
    loop = r.loop(r.constant("i32", 0))
    with loop as (lane,):
        here = r.op("and", named(lane), mask)
        r.store(among(value, values(lane), here), r.item("i32", results, lane), 0, 4)
        more = r.op("add", lane, 1)
        loop.again_if(r.compare("icmp ne", more, LANES), more)
    r.ret(r.load("i32", LANES, results, 0, 64))
