"""Helpers for lanes of one warp that hand words to each other through shared memory.

    lanewrites_<bytes>_<granule>(addresses, mask, checks, ctx): who stored last, and when
    lanereads_<bytes>_<granule>(addresses, mask, checks, ctx, site): another lane stored here, and
        the lanes have not come together since
    lanesmeet(checks, ctx): the lanes of a warp come together

Only where an entry has a load that a store may come before without an instruction that brings the
lanes together (ordering.py); what Triton compiles seldom has one.  A tag is the number of meetings
so far << 10 | warp << 5 | lane.
Source: PTX ISA, "bar.warp.sync".
"""

from __future__ import annotations

from typing import ClassVar

from .. import table
from ..builder import Builder
from ..flow import Flow
from ..layout import WARP
from ..library import Helpers, family
from ..ptx import Instruction
from ..values import Value
from .check import HERE, POINTER, Check, Kept, Kind, Room, Subject, mask_of, place, zeros
from .lanes import each_lane
from .records import ARGUMENTS, visit
from .state import load_field, number_of


class Neighbours(Check):
    """Lanes of a warp that rely on each other without having come together."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "lane-race",
            "race",
            {
                "shared": "reads {place}, where lane {other} of this warp has stored, and nothing"
                " has brought the lanes together since; look for a missing bar.warp.sync"
            },
        ),
    )
    # Of each granule who stored there; of each warp how often its lanes have come together.
    fields: ClassVar = {"lane_tags": POINTER, "meetings": POINTER}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._handed = _handed_over(subject.flow)

    @property
    def active(self) -> bool:
        return super().active and bool(self._handed)

    def keep(self, room: Room) -> Kept:
        return {"lane_tags": zeros(room.words), "meetings": zeros(room.warps)}

    def begin(self, b: Builder) -> None:
        b.call("lanesmeet", "void", *HERE)

    def reads(self, b: Builder, ins: Instruction) -> None:
        if _brings_together(ins):
            b.call("lanesmeet", "void", *HERE)

    def decides(self, b: Builder, branch: Instruction) -> None:
        self.reads(b, branch)

    def access(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        nbytes: int,
        condition: Value | None,
        kind: str,
    ) -> Value | None:
        if space == "shared":
            lanes = (b.vector(address), mask_of(b, address, condition))
            name = f"{nbytes}_{self.subject.granule}"
            if kind == "store":
                b.call(f"lanewrites_{name}", "void", *lanes, *HERE)
            elif kind == "load" and ins.index in self._handed:
                b.call(f"lanereads_{name}", "void", *lanes, *place(ins))
        return condition


def _brings_together(ins: Instruction) -> bool:
    """Barriers, and instructions that all lanes of a warp execute at once."""
    return bool({"sync", "warp", "red"} & ins.opcode.modifiers) or table.find(ins).ends == "wait"


def _handed_over(flow: Flow) -> set[int]:
    """Loads that a store may come before, in the same warp, with nothing to bring lanes together.

    They are told by their indices.
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
                elif table.accesses(ins, "store", shared=True):
                    open_store = True
                elif open_store and table.accesses(ins, "load", shared=True):
                    found.add(ins.index)
            if open_store and block.exit in ("jump", "branch"):
                for successor in block.successors:
                    changed = changed or not stored[successor]
                    stored[successor] = True
    return found


def _count() -> str:
    """Lines that set %count, what tags of this warp begin with now, and %count.at."""
    return f"""{load_field("meetings", "ptr")}  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %count.at = getelementptr i32, ptr %meetings, i32 %warp
  %count = load i32, ptr %count.at, align 4
"""


@family("lanesmeet")
def meet(helpers: Helpers, name: str) -> str:
    """Never begun again, so tags of an earlier CTA do not matter; 2**22 meetings later they may."""
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_count()}  %number = lshr i32 %count, 10
  %more = add i32 %number, 1
  %up = shl i32 %more, 10
  %who = shl i32 %warp, 5
  %next = or i32 %up, %who
  store i32 %next, ptr %count.at, align 4
  ret void
}}
"""


def _each_granule(helpers: Helpers, nbytes: str, granule: str, body: str) -> str:
    """For each lane and granule: %at, where its tag lies; the body ends with a jump to %on."""
    count, shift = max(int(nbytes) // int(granule), 1), int(granule).bit_length() - 1
    return f"""  %places = alloca [32 x i32], align 64
  store <32 x i32> %address, ptr %places, align 64
{_count()}{load_field("lane_tags", "ptr")}{each_lane(helpers, "i32")}\
  %index = lshr i32 %place, {shift}
  %mine = or i32 %count, %lane
  br label %each
over:
  ret void
each:
  %i = phi i32 [ 0, %begin ], [ %i.next, %on ]
  %number = add i32 %index, %i
  %at = getelementptr i32, ptr %lane_tags, i32 %number
{body}on:
  %i.next = add i32 %i, 1
  %i.more = icmp ult i32 %i.next, {count}
  br i1 %i.more, label %each, label %next
}}
"""


@family("lanewrites")
def writes(helpers: Helpers, name: str, nbytes: str, granule: str) -> str:
    body = "  store i32 %mine, ptr %at, align 4\n  br label %on\n"
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, ptr %checks, ptr %ctx) #0 {{
{_each_granule(helpers, nbytes, granule, body)}"""


@family("lanereads")
def reads(helpers: Helpers, name: str, nbytes: str, granule: str) -> str:
    record = helpers.use("record")
    body = f"""  %tag = load i32, ptr %at, align 4
  %differs = xor i32 %tag, %mine
  %same.time = icmp ult i32 %differs, 32
  %other = icmp ne i32 %differs, 0
  %bad = and i1 %same.time, %other
  br i1 %bad, label %report, label %on
report:
{visit()}  %writer = and i32 %tag, 31
  %wide = zext i32 %place to i64
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of("lane-race")}, i32 %lane, i64 %wide, i32 {nbytes}, i32 %writer)
  br label %next
"""  # noqa: E501
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, {ARGUMENTS}) #0 {{
{_each_granule(helpers, nbytes, granule, body)}"""
