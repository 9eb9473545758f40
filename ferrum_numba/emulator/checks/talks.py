"""Helpers for CTAs that talk to each other: what a CTA wrote, and who may rely on it.

    talkbegin(checks, fresh): where a CTA begins (fresh)
    talk_<release|acquire|both>(checks, ctx, mask): an atomic operation or a fence that makes known
        what this warp knows, or lets it rely on what others have made known
    relies_<bytes>(addresses, mask, checks, ctx, site): a load of what others may have written

A store to global memory leaves the tag that it would leave in shared memory, and a time that all
CTAs share.  Another CTA may use it where its own CTA has made that tag known, and where this warp,
or one that comes before it, has acquired something after that time.  Which atomic variable it was
is not looked at.  Another warp of the same CTA may store there where the tag is before its clock;
its loads are not looked at, for compilers have all warps load what one of them needs.
Source: PTX ISA, "Memory Consistency Model".
"""

from __future__ import annotations

from typing import ClassVar

from ..builder import Builder
from ..layout import WARP, state_offset
from ..library import Helpers, family
from ..ptx import Instruction
from .check import HERE, POINTER, Check, Kept, Room, zeros
from .clocks import own_clock
from .lanes import each_lane, find_area
from .records import ARGUMENTS, visit
from .state import STEP, WARPS, load_area, load_field, number_of

_SENDS, _TAKES = frozenset({"release", "acq_rel"}), frozenset({"acquire", "acq_rel"})


class Talks(Check):
    """What lets CTAs rely on each other."""

    asked = frozenset({"race"})
    # time: counts, over all workers, how CTAs talk to each other.  released: of each CTA and warp
    # the first tag that is not known to others.  acquired: of each warp of this CTA when it last
    # acquired something: the time, and its tag.
    fields: ClassVar = {"time": POINTER, "released": POINTER, "acquired": POINTER}

    @property
    def active(self) -> bool:
        return super().active and self.subject.talks

    def keep(self, room: Room) -> Kept:
        return {"acquired": zeros(64)}

    def share(self, room: Room) -> Kept:
        return {"time": zeros(1), "released": zeros(room.ctas * room.warps)}

    def round(self, b: Builder) -> str:
        return f"""  %new.cta = and i1 %moves, %fresh
  call void @{b.helpers.use("talkbegin")}(ptr %checks, i1 %new.cta)
"""

    def releases(self, b: Builder, ins: Instruction) -> None:
        if _SENDS & ins.opcode.modifiers:
            self._talk(b, ins, "release")

    def acquires(self, b: Builder, ins: Instruction) -> None:
        if _TAKES & ins.opcode.modifiers:
            self._talk(b, ins, "acquire")

    def fence(self, b: Builder, ins: Instruction) -> None:
        if "proxy" not in ins.opcode.modifiers:
            self._talk(b, ins, "both")

    @staticmethod
    def _talk(b: Builder, ins: Instruction, what: str) -> None:
        if not ins.opcode.modifiers & {"cta", "shared", "shared::cta"}:  # it reaches others
            b.call(f"talk_{what}", "void", *HERE, b.mask(b.condition(ins)))


def cta_number() -> str:
    """Lines that set %cta to the CTA's number + 1, and %warp and %warps."""
    return f"""{load_field("worker", "ptr")}  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %warps.at = getelementptr i8, ptr %worker, i64 {state_offset("warps")}
  %warps = load i32, ptr %warps.at, align 4
  %cta.at = getelementptr i8, ptr %worker, i64 {state_offset("cta")}
  %cta.wide = load i64, ptr %cta.at, align 8
  %cta.word = trunc i64 %cta.wide to i32
  %cta = add i32 %cta.word, 1
"""


@family("talkbegin")
def begin(helpers: Helpers, name: str) -> str:
    helpers.declare("void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    return f"""
define internal void @{name}(ptr %checks, i1 %fresh) #0 {{
{load_field("acquired", "ptr")}  br i1 %fresh, label %forget, label %over
forget:
  call void @llvm.memset.p0.i64(ptr %acquired, i8 0, i64 256, i1 false)
  br label %over
over:
  ret void
}}
"""


@family("talk")
def talk(helpers: Helpers, name: str, what: str) -> str:
    """A table has for each CTA and warp the first tag that is not known."""
    acquires = releases = ""
    if what in ("acquire", "both"):
        acquires = f"""{load_field("acquired", "ptr")}  %pair = shl i32 %warp, 1
  %pair.at = getelementptr i32, ptr %acquired, i32 %pair
  store i32 %time.next, ptr %pair.at, align 4
  %pair.tag = getelementptr i8, ptr %pair.at, i64 4
  store i32 %stamp, ptr %pair.tag, align 4
"""
    if what in ("release", "both"):
        releases = f"""{load_field("released", "ptr")}  %row = mul i32 %cta.word, %warps
  br label %each
each:
  %w = phi i32 [ 0, %some ], [ %w.next, %each ]
  %known.at = getelementptr i32, ptr %seen, i32 %w
  %known = load i32, ptr %known.at, align 4
  %own = icmp eq i32 %w, %warp
  %limit = select i1 %own, i32 %after, i32 %known
  %number = add i32 %row, %w
  %number.wide = zext i32 %number to i64
  %to = getelementptr i32, ptr %released, i64 %number.wide
  store i32 %limit, ptr %to, align 4
  %w.next = add i32 %w, 1
  %more = icmp ult i32 %w.next, %warps
  br i1 %more, label %each, label %over
"""
    else:
        releases = "  br label %over\n"
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx, i32 %mask) #0 {{
{cta_number()}{own_clock()}{load_field("stamp", "i32")}{load_field("time", "ptr")}\
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %over, label %some
over:
  ret void
some:
  %before = atomicrmw add ptr %time, i32 1 seq_cst
  %time.next = add i32 %before, 1
  %after = add i32 %stamp, {STEP}
  store i32 %after, ptr %stamp.at, align 4
{acquires}{releases}}}
"""


def unordered(mine: str, other: str, warps: bool = False) -> str:
    """Lines that go to <mine> unless element %e of %times, which has %mark, is another CTA's and
    nothing lets this warp rely on it: then to <other>.

    warps: the same of another warp's of this CTA.  Then %culprit is the CTA's mark, or the warp's
    number + `WARPS`.  Those that write parts of an element are left out, for these have no marks.
    """
    ours = "  %ours = icmp eq i32 %mark, %cta\n"
    if warps:
        ours = f"""  %writer.at = getelementptr i32, ptr %seen, i32 %writer
  %writer.seen = load i32, ptr %writer.at, align 4
  %writer.before = icmp ult i32 %tag, %writer.seen
  %writer.own = icmp eq i32 %writer, %warp
  %element = shl i64 1, %shift
  %part = icmp ult i64 %nbytes, %element
  %writer.knows = or i1 %writer.before, %writer.own
  %writer.fine = or i1 %writer.knows, %part
  %same.cta = icmp eq i32 %mark, %cta
  %ours = and i1 %same.cta, %writer.fine
  %writer.warp = or i32 %writer, {WARPS}
  %culprit = select i1 %same.cta, i32 %writer.warp, i32 %mark
"""
    return f"""  %pair.at = getelementptr <2 x i32>, ptr %times, i64 %e
  %pair = load <2 x i32>, ptr %pair.at, align 4
  %tag = extractelement <2 x i32> %pair, i64 0
  %written = extractelement <2 x i32> %pair, i64 1
  %fresh = icmp eq i32 %mark, 0
  %writer.two = lshr i32 %tag, 1
  %writer = and i32 %writer.two, 31
{ours}  %atomic = icmp eq i32 %tag, 0
  %known.0 = or i1 %fresh, %ours
  %known.1 = or i1 %known.0, %atomic
  br i1 %known.1, label %{mine}, label %judge
judge:
  %writer.cta = sub i32 %mark, 1
  %writer.row = mul i32 %writer.cta, %warps
  %number = add i32 %writer.row, %writer
  %number.wide = zext i32 %number to i64
  %limit.at = getelementptr i32, ptr %released, i64 %number.wide
  %limit = load i32, ptr %limit.at, align 4
  %told = icmp ult i32 %tag, %limit
  br i1 %told, label %acquired.each, label %{other}
acquired.each:
  %y = phi i32 [ 0, %judge ], [ %y.next, %acquired.on ]
  %y.two = shl i32 %y, 1
  %y.at = getelementptr i32, ptr %acquired, i32 %y.two
  %y.time = load i32, ptr %y.at, align 4
  %y.tag.at = getelementptr i8, ptr %y.at, i64 4
  %y.tag = load i32, ptr %y.tag.at, align 4
  %y.late = icmp ugt i32 %y.time, %written
  %y.own = icmp eq i32 %y, %warp
  %y.known.at = getelementptr i32, ptr %seen, i32 %y
  %y.known = load i32, ptr %y.known.at, align 4
  %y.before = icmp ult i32 %y.tag, %y.known
  %y.reaches = or i1 %y.own, %y.before
  %y.fine = and i1 %y.late, %y.reaches
  br i1 %y.fine, label %{mine}, label %acquired.on
acquired.on:
  %y.next = add i32 %y, 1
  %y.more = icmp ult i32 %y.next, %warps
  br i1 %y.more, label %acquired.each, label %{other}
"""


def talk_fields() -> str:
    """Lines that load what `unordered` needs."""
    fields = "".join(load_field(field, "ptr") for field in ("released", "acquired", "time"))
    return cta_number() + own_clock() + fields + load_field("stamp", "i32")


@family("relies")
def relies(helpers: Helpers, name: str, nbytes: str) -> str:
    record = helpers.use("record")
    return f"""
define internal void @{name}(<32 x i64> %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i64], align 64
  %hint = alloca i32, align 4
  store <32 x i64> %address, ptr %places, align 64
  store i32 0, ptr %hint
  %nbytes = add i64 {nbytes}, 0
{talk_fields()}{visit()}{each_lane(helpers, "i64")}{find_area("times")}\
{load_area("shadow")}  br label %each
over:
  ret void
each:
  %e = phi i64 [ %from, %found ], [ %e.next, %on ]
  %mark.at = getelementptr i32, ptr %shadow, i64 %e
  %mark = load i32, ptr %mark.at, align 4
{unordered("on", "report")}report:
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of("cta-race")}, i32 %lane, i64 %place, i32 {nbytes}, i32 %mark)
  br label %next
on:
  %e.next = add i64 %e, 1
  %e.more = icmp ule i64 %e.next, %to
  br i1 %e.more, label %each, label %next
}}
"""  # noqa: E501
