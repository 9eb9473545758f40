"""The check "init" of values that lanes take from each other: does the other lane give one?

    absent(mask, sources, checks, ctx, site): record lanes whose source does not take part

A reduction over some lanes takes values beyond them, of which nothing comes in the end: its first
lane is the one that counts.  So only what the first lane of an exchange takes is looked at.
Source: PTX ISA, "shfl.sync".
"""

from __future__ import annotations

from ..builder import Builder
from ..layout import LANES
from ..ptx import Instruction
from ..routine import VECTOR
from ..values import Value
from .check import Check, Kind, at_site
from .code import Code, code


class Exchanges(Check):
    """Lanes that take the value of a lane that does not take part."""

    asked = frozenset({"init"})
    kinds = (
        Kind(
            "absent-lane",
            "init",
            {
                "register": "takes the value of lane {other}, which does not execute this"
                " instruction, so that PTX leaves the result open; look at the source lane and at"
                " the member mask"
            },
        ),
    )

    def exchanged(self, b: Builder, ins: Instruction, sources: Value, inside: Value) -> None:
        condition = b.condition(ins)
        if condition is None:  # all take part
            return
        here = b.mask(condition)
        given = b.op("lshr", b.vector(here), b.op("and", sources, LANES - 1))
        absent = b.compare("icmp eq", b.op("and", given, 1), 0)
        bad = b.op("and", b.mask(b.op("and", absent, inside)), here)
        first = b.op("and", here, b.op("sub", b.constant("i32", 0), here))
        bad = b.op("and", bad, first)
        with b.when(b.compare("icmp ne", bad, 0)):
            b.call("absent", "void", bad, sources, *at_site(ins))


@code("absent")
def absent(c: Code) -> None:
    mask, sources = c.takes("i32", VECTOR)
    c.looks()
    c.visits()
    source = c.spread(sources)
    with c.each_lane(mask) as (lane,):
        c.record("absent-lane", lane, c.constant("i64", 0), 0, source(lane))
