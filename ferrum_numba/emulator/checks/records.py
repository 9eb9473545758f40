"""Helper that keeps a finding: a count, and the first example.

record(checks, ctx, site, kind, lane, address, bytes, other)
"""

from __future__ import annotations

from ..layout import WARP, state_offset
from ..library import Helpers, family
from .state import RECORD, kinds, load_field, record_offset

ARGUMENTS = "ptr %checks, ptr %ctx, i32 %site"


@family("record")
def record(helpers: Helpers, name: str) -> str:
    def put(field: str, kind: str, value: str) -> str:
        return (
            f"  %{field}.to = getelementptr i8, ptr %record, i64 {record_offset(field)}\n"
            f"  store {kind} {value}, ptr %{field}.to, align 4\n"
        )

    return f"""
define internal void @{name}({ARGUMENTS}, i32 %kind, i32 %lane, i64 %address, i32 %nbytes, i32 %other) #0 {{
{load_field("visit", "i32")}{load_field("records", "ptr")}{load_field("worker", "ptr")}\
  %row = mul i32 %site, {len(kinds())}
  %number = add i32 %row, %kind
  %place = mul i32 %number, {RECORD.itemsize}
  %place.wide = zext i32 %place to i64
  %record = getelementptr i8, ptr %records, i64 %place.wide
  %count = load i64, ptr %record, align 8
  %first = icmp eq i64 %count, 0
  br i1 %first, label %fill, label %again
fill:
  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp.now = load i32, ptr %warp.at, align 4
  %cta.at = getelementptr i8, ptr %worker, i64 {state_offset("ctaid")}
  %cta.now = load <3 x i32>, ptr %cta.at, align 4
{put("address", "i64", "%address")}{put("warp", "i32", "%warp.now")}\
{put("cta", "<3 x i32>", "%cta.now")}{put("visit", "i32", "%visit")}\
{put("nbytes", "i32", "%nbytes")}{put("other", "i32", "%other")}\
  br label %again
again:
  %seen.at = getelementptr i8, ptr %record, i64 {record_offset("visit")}
  %seen = load i32, ptr %seen.at, align 4
  %same = icmp eq i32 %seen, %visit
  %lanes.at = getelementptr i8, ptr %record, i64 {record_offset("lanes")}
  %lanes = load i32, ptr %lanes.at, align 4
  %bit = shl i32 1, %lane
  %more = or i32 %lanes, %bit
  %kept = select i1 %same, i32 %more, i32 %lanes
  store i32 %kept, ptr %lanes.at, align 4
  %count.next = add i64 %count, 1
  store i64 %count.next, ptr %record, align 8
  ret void
}}
"""  # noqa: E501


def visit() -> str:
    """Lines that begin a call which may record something: lanes of one call go together."""
    return f"""{load_field("visit", "i32")}  %visit.next = add i32 %visit, 1
  store i32 %visit.next, ptr %visit.at, align 4
"""
