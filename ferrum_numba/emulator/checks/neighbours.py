"""The check "race" of lanes of one warp that hand words to each other through memory.

    lanewrites_<bytes>_<granule>(addresses, mask, checks, ctx): who stored last, and when
    lanereads_<bytes>_<granule>(addresses, mask, checks, ctx, site): another lane stored here, and
        the lanes have not come together since
    lanesmeet(checks, ctx): the lanes of a warp come together

These are of shared memory; for global memory see handovers.py.  Only where an entry has a load that
a store may come before without an instruction that brings the lanes together; what Triton compiles
seldom has one.  A tag is the number of meetings so far << 10 | warp << 5 | lane.
Source: PTX ISA, "bar.warp.sync".
"""

from __future__ import annotations

from typing import ClassVar

from .. import table
from ..builder import Builder
from ..flow import Flow
from ..hooks import Access, Copy
from ..layout import LANES
from ..ptx import Instruction
from ..routine import VECTOR
from ..values import Value
from .check import (
    HERE,
    POINTER,
    Check,
    Kept,
    Kind,
    Room,
    Subject,
    at_site,
    is_generic,
    mask_of,
    zeros,
)
from .clocks import any_of
from .code import Code, code


class Neighbours(Check):
    """Lanes of a warp that rely on each other without having come together."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "lane-race",
            "race",
            {
                "shared": "reads {place}, where lane {other} of this warp has stored, and nothing"
                " has brought the lanes together since; look for a missing bar.warp.sync",
                "global": "reads {place}, where lane {other} of this warp has stored{there}, and"
                " nothing has brought the lanes together since; look for a missing bar.warp.sync",
            },
        ),
    )
    # Of each granule who stored there; of each warp how often its lanes have come together.
    fields: ClassVar = {"lane_tags": POINTER, "meetings": POINTER}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._handed = handed_over(subject.flow, shared=True)
        self._far = bool(handed_over(subject.flow, shared=False))

    @property
    def active(self) -> bool:
        return super().active and (self._far or bool(self._handed))

    def keep(self, room: Room) -> Kept:
        return {"lane_tags": zeros(room.words), "meetings": zeros(room.warps)}

    def begin(self, b: Builder) -> None:
        b.call("lanesmeet", "void", *HERE)

    def reads(self, b: Builder, ins: Instruction) -> None:
        if _brings_together(ins):
            b.call("lanesmeet", "void", *HERE)

    def decides(self, b: Builder, branch: Instruction) -> None:
        self.reads(b, branch)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.space == "shared" and self._handed:
            lanes = (b.vector(at.address), mask_of(b, at.address, condition))
            name = f"{at.nbytes}_{self.subject.granule}"
            if at.kind == "store":
                b.call(f"lanewrites_{name}", "void", *lanes, *HERE)
            elif at.kind == "load" and at.ins.index in self._handed:
                b.call(f"lanereads_{name}", "void", *lanes, *at_site(at.ins))
        return condition

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        """Note who copies; the lane itself waits for that."""
        if not self._handed:
            return mask
        name = f"lanewrites_{at.nbytes}_{self.subject.granule}"
        b.call(name, "void", b.vector(at.to), mask, *HERE)
        return mask


def _brings_together(ins: Instruction) -> bool:
    """Barriers, and instructions that all lanes of a warp execute at once."""
    return bool({"sync", "warp", "red"} & ins.opcode.modifiers) or table.find(ins).ends == "wait"


def _stores(ins: Instruction, shared: bool) -> bool:
    copies = {"async", "shared"} <= ins.opcode.modifiers and ins.opcode.base == "cp"
    return (shared and copies) or _reaches(ins, "store", shared)


def _reaches(ins: Instruction, kind: table.Access, shared: bool) -> bool:
    """True if an instruction accesses shared, or else global memory."""
    if not table.accesses(ins, kind, shared=shared) and not (
        is_generic(ins) and table.accesses(ins, kind)
    ):
        return False
    return not {"local", "param", "const"} & ins.opcode.modifiers


def handed_over(flow: Flow, shared: bool) -> set[int]:
    """Loads that a store may come before, in the same warp, with nothing to bring lanes together.

    They are told by their indices.  shared: of shared memory, or else of global memory.
    """
    found: set[int] = set()
    stored = dict.fromkeys((block.index for block in flow.blocks), False)  # at a block's start
    changed = True
    while changed:
        changed = False
        for block in flow.blocks:
            open_store = stored[block.index]
            for ins in block.instructions:
                if _brings_together(ins):
                    open_store = False
                elif _stores(ins, shared):
                    open_store = True
                elif open_store and _reaches(ins, "load", shared):
                    found.add(ins.index)
            if open_store and block.exit in ("jump", "branch"):
                for successor in block.successors:
                    changed = changed or not stored[successor]
                    stored[successor] = True
    return found


def _count(c: Code) -> tuple[Value, Value]:
    """Counter that this warp's tags begin with now, and its address."""
    at = c.item("i32", c.field("meetings"), c.warp())
    return c.load("i32", 1, at, 0, 4), at


@code("lanesmeet")
def meet(c: Code) -> None:
    """Never begun again, so tags of an earlier CTA do not matter; 2**22 meetings later they may."""
    c.goes()
    count, at = _count(c)
    up = c.op("shl", c.op("add", c.op("lshr", count, 10), 1), 10)
    c.store(c.op("or", up, c.op("shl", c.warp(), 5)), at, 0, 4)


@code("lanewrites")
def writes(c: Code, nbytes: str, granule: str) -> None:
    address, mask = c.takes(VECTOR, "i32")
    c.goes()
    (count, _), tags, n = _count(c), c.field("lane_tags"), max(int(nbytes) // int(granule), 1)
    first = c.op("lshr", address, int(granule).bit_length() - 1)
    with c.when(c.compare("icmp eq", mask, -1)):
        for number in range(LANES):
            place = c.item("i32", tags, c.element(first, number))
            c.store(c.vector(c.op("or", count, number), n), place, 0, 4)
        c.ret()
    places = c.spread(first)
    with c.each_lane(mask) as (lane,):
        c.store(c.vector(c.op("or", count, lane), n), c.item("i32", tags, places(lane)), 0, 4)


@code("lanereads")
def reads(c: Code, nbytes: str, granule: str) -> None:
    address, mask = c.takes(VECTOR, "i32")
    c.looks()
    (count, _), tags, n = _count(c), c.field("lane_tags"), max(int(nbytes) // int(granule), 1)
    firsts = c.op("lshr", address, int(granule).bit_length() - 1)
    with c.when(c.compare("icmp eq", mask, -1)):
        least = c.vector(c.constant("i32", -1), n)
        for number in range(LANES):
            place = c.item("i32", tags, c.element(firsts, number))
            differs = c.op("xor", c.load("i32", n, place, 0, 4), c.op("or", count, number))
            least = c.intrinsic("llvm.umin", least, c.op("sub", differs, 1))
        recent = c.compare("icmp ult", least, LANES - 1)
        c.ret_if(c.invert(any_of(c, recent) if n > 1 else recent))
    places = c.spread(address)
    c.visits()
    lanes = c.each_lane(mask)
    with lanes as (lane,):
        place = places(lane)
        first = c.op("lshr", place, int(granule).bit_length() - 1)
        for i in range(n):
            tag = c.load("i32", 1, c.item("i32", tags, c.op("add", first, i)), 0, 4)
            differs = c.op("xor", tag, c.op("or", count, lane))
            since = c.compare("icmp ult", differs, 32)
            with c.when(c.op("and", since, c.compare("icmp ne", differs, 0))):
                c.record("lane-race", lane, place, int(nbytes), c.op("and", tag, 31))
                lanes.next()
