"""Helper that says what is wrong with the tags of an access to shared memory, lane after lane.

judgetags_<access>_<granule>_<epochs|clocks>(addresses, mask, tags a lane, checks, ctx, site):
    record each lane's first problem; access: as in tags.py
"""

from __future__ import annotations

from ..library import Helpers, family
from .clocks import own_clock
from .lanes import each_lane
from .records import ARGUMENTS, visit
from .state import AWAITED, LANDED, PENDING, number_of
from .tags import own_tags

# Lines that set %clash: whether tag %t is another's and nothing orders the two; see tags.py.
_CLASH = {
    "epochs": f"""  %recent = icmp uge i32 %t, %now
  %written = or i32 %t, {LANDED | 1}
  %others = icmp ne i32 %written, %self
  %clash = and i1 %recent, %others
""",
    "clocks": """  %half = lshr i32 %t, 1
  %who = and i32 %half, 63
  %limit.at = getelementptr i32, ptr %seen, i32 %who
  %limit = load i32, ptr %limit.at, align 4
  %clash = icmp uge i32 %t, %limit
""",
}


def _doubt(helpers: Helpers, shift: int, order: str) -> str:
    """Lines for a store to what another warp has written: the same value is no race."""
    return f"""  %whole = zext i32 %place to i64
  %width = shl i32 %count, {shift}
  %written.bit = and i32 %t, {1 if order == "clocks" else 1 | 0x80}
  %was.written = icmp eq i32 %written.bit, 1
  %arrived = icmp ult i32 %t, {PENDING}
  %doubtful = and i1 %was.written, %arrived
  br i1 %doubtful, label %doubt, label %certain
doubt:
  call void @{helpers.use("doubt_shared")}(ptr %checks, i32 %lane, i64 %whole, i32 %width, i32 %t)
  br label %next
certain:
"""


@family("judgetags")
def judge_tags(helpers: Helpers, name: str, access: str, granule: str, order: str) -> str:
    record = helpers.use("record")
    shift = int(granule).bit_length() - 1
    test = "  %void = icmp ne i32 0, 0\n  %race = and i1 %clash, true\n"
    if access in ("load", "product", "atomic", "strong"):
        test = """  %void = icmp ult i32 %t, %base
  %writer = trunc i32 %t to i1
  %race = and i1 %clash, %writer
"""
    if access in ("atomic", "strong"):  # two atomic operations are no race
        test = test.replace(
            "%writer = trunc i32 %t to i1",
            f"""%by = and i32 %t, {LANDED | AWAITED | 1}
  %plain = icmp ne i32 %by, {AWAITED | 1}
  %wrote = trunc i32 %t to i1
  %writer = and i1 %plain, %wrote""",
        )
    clock = own_clock() if order == "clocks" else ""
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, i32 %count, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i32], align 64
  store <32 x i32> %address, ptr %places, align 64
{own_tags()}{clock}{visit()}{each_lane(helpers, "i32")}  %index = lshr i32 %place, {shift}
  br label %each
over:
  ret void
each:
  %i = phi i32 [ 0, %begin ], [ %i.next, %fine ]
  %past = icmp uge i32 %i, %count
  br i1 %past, label %next, label %look
look:
  %number = add i32 %index, %i
  %tag.at = getelementptr i32, ptr %tags, i32 %number
  %t = load i32, ptr %tag.at, align 4
{_CLASH[order]}{test}  %bad = or i1 %void, %race
  br i1 %bad, label %report, label %fine
fine:
  %i.next = add i32 %i, 1
  br label %each
report:
{_doubt(helpers, shift, order) if access == "store" else ""}  %waits = icmp uge i32 %t, {PENDING}
  %kind.race = select i1 %waits, i32 {number_of("pending-copy")}, i32 {number_of("race")}
  %kind = select i1 %void, i32 {number_of("uninitialised-shared")}, i32 %kind.race
  %where = shl i32 %number, {shift}
  %where.wide = zext i32 %where to i64
  %nbytes = shl i32 %count, {shift}
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %lane, i64 %where.wide, i32 %nbytes, i32 %t)
  br label %next
}}
"""  # noqa: E501
