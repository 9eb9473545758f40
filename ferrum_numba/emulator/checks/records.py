"""Keeping a finding: a count, and the first example.

record(checks, ctx, site, kind, lane, address, bytes, other)
"""

from __future__ import annotations

from ..layout import state_offset
from ..values import Value
from .code import Code, code
from .state import RECORD, kinds, record_offset


@code("record")
def record(c: Code) -> None:
    c.looks()
    kind, lane, address, nbytes, other = c.takes("i32", "i32", "i64", "i32", "i32")
    number = c.op("add", c.op("mul", c.site, len(kinds())), kind)
    place = c.op("mul", c.cast("zext", number, "i64"), RECORD.itemsize)
    its = c.item("i8", c.field("records"), place)
    visit, count = c.field("visit"), c.load("i64", 1, its, 0, 8)
    with c.when(c.compare("icmp eq", count, 0)):
        cta = c.load("i32", 3, c.field("worker"), state_offset("ctaid"), 4)
        words: dict[str, Value] = {"address": address, "warp": c.warp(), "cta": cta}
        words |= {"visit": visit, "nbytes": nbytes, "other": other}
        for name, value in words.items():
            c.store(value, its, record_offset(name), 4)
    same = c.compare("icmp eq", c.load("i32", 1, its, record_offset("visit"), 4), visit)
    lanes = c.load("i32", 1, its, record_offset("lanes"), 4)
    bit = c.op("shl", c.constant("i32", 1), lane)
    c.store(c.select(same, c.op("or", lanes, bit), lanes), its, record_offset("lanes"), 4)
    c.store(c.op("add", count, 1), its, 0, 8)
