"""The check "race" of launches that may begin before the one ahead of them has ended.

    dependentround(checks, passed, fresh): a CTA begins (fresh)
    dependentwait(checks, ctx): griddepcontrol.wait
    early_<load|store>_<bytes>(addresses, mask, checks, ctx, site): an access that may come first

Only accesses that the flow of the entry reaches without a wait are looked at, and only where the
launch is programmatic and the device knows what the one ahead uses (Area's flags).
Source: PTX ISA, "griddepcontrol"; CUDA Programming Guide, "Programmatic Dependent Launch".
"""

from __future__ import annotations

import ctypes
from typing import ClassVar

from ..builder import Builder
from ..flow import Flow
from ..hooks import Access, Copy, Run
from ..ptx import Instruction
from ..runtime.access import ADDRESSES
from ..values import Text, Value
from .check import HERE, WORD, Check, Kind, Subject, at_site, mask_of
from .code import Code, code
from .state import AHEAD_USED, AHEAD_WRITTEN, Area


class Dependent(Check):
    """Accesses to what the launch ahead uses, before it is known to have ended."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "early-access",
            "race",
            {
                "global load": "reads {place}, which the launch ahead writes, before"
                " griddepcontrol.wait: a programmatic launch may begin while that one still runs;"
                " move the access behind the wait",
                "global": "accesses {place}, which the launch ahead uses, before"
                " griddepcontrol.wait: a programmatic launch may begin while that one still runs;"
                " move the access behind the wait",
            },
        ),
    )
    fields: ClassVar = {"waited": WORD}  # whether a warp of the CTA has waited

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._early = _before_the_wait(subject.flow)

    @property
    def active(self) -> bool:
        return super().active and any(_waits(i) for i in self.subject.instructions)

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        b.call("dependentround", "void", checks, passed, fresh)

    def reads(self, b: Builder, ins: Instruction) -> None:
        if _waits(ins):
            b.call("dependentwait", "void", *HERE)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.space == "global":
            kind = "load" if at.kind == "load" else "store"
            self._look(b, at.ins, kind, at.nbytes, at.address, mask_of(b, at.address, condition))
        return condition

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        some = b.op("and", mask, b.mask(b.compare("icmp ne", at.sizes, 0)))
        self._look(b, at.ins, "load", at.nbytes, at.source, some)
        return mask

    def far(self, b: Builder, run: Run, mask: Value) -> Value:
        kind = "load" if run.kind == "load" else "store"
        self._look(b, run.ins, kind, 16, run.address, mask)
        return mask

    def _look(
        self, b: Builder, ins: Instruction, kind: str, nbytes: int, address: Value, mask: Value
    ) -> None:
        if ins.index in self._early:
            b.call(f"early_{kind}_{nbytes}", "void", b.vector(address), mask, *at_site(ins))


def _waits(ins: Instruction) -> bool:
    return ins.opcode.base == "griddepcontrol" and "wait" in ins.opcode.modifiers


def _before_the_wait(flow: Flow) -> set[int]:
    """Instructions that a warp may come to without having waited, by their indices."""
    found: set[int] = set()
    open_, seen = [0], {0}
    while open_:
        block = flow.blocks[open_.pop()]
        for ins in block.instructions:
            if _waits(ins):
                break
            found.add(ins.index)
        else:
            new = [s for s in block.successors if s not in seen]
            seen.update(new)
            open_ += new
    return found


@code("dependentround")
def begin(c: Code) -> None:
    c.checks, _, fresh = c.takes("ptr", "i1", "i1")
    with c.when(fresh):
        c.put("waited", c.constant("i32", 0))


@code("dependentwait")
def wait(c: Code) -> None:
    c.goes()
    c.put("waited", c.constant("i32", 1))


@code("early")
def early(c: Code, kind: str, nbytes: str) -> None:
    address, mask = c.takes(ADDRESSES["global"], "i32")
    c.looks()
    c.ret_if(c.compare("icmp ne", c.field("waited"), 0))
    flag = AHEAD_WRITTEN if kind == "load" else AHEAD_USED
    places, count = c.spread(address), c.field("area_count")
    c.visits()
    loop = c.loop(c.constant("i32", 0))
    with loop as (i,):
        loop.leave(c.compare("icmp uge", i, count))
        more = c.op("add", i, 1)
        area = c.item("i8", c.field("areas"), c.op("mul", i, ctypes.sizeof(Area)))
        flags = c.op("and", c.of_area(area, "flags"), flag)
        with c.when(c.compare("icmp eq", flags, 0)):
            loop.again(more)
        start, end = c.of_area(area, "start"), c.of_area(area, "end")
        length = c.op("sub", end, start)
        with c.each_lane(mask) as (lane,):
            place = places(lane)
            with c.when(c.compare("icmp ult", c.op("sub", place, start), length)):
                c.record("early-access", lane, place, int(nbytes))
        loop.again(more)
