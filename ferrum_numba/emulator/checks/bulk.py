"""Helpers that look at bulk copies, 512 bytes of shared memory at a time.

bulktags_<in|out>_<granule>_<epochs|clocks>(addresses, sizes, mask, checks, ctx, site)
bulkmarks[_talks](global addresses, sizes, mask, checks, ctx, site): this CTA wrote there
"""

from __future__ import annotations

from ..library import Helpers, family
from .lanes import each_lane
from .records import ARGUMENTS


@family("bulktags")
def tags(helpers: Helpers, name: str, way: str, granule: str, order: str) -> str:
    """To shared memory a copy is a store, and counts as landed for who waits at the mbarrier."""
    looked = f"(<32 x i32> %at, i32 %part, {ARGUMENTS})"
    clocks = order == "clocks"
    kind = "store" if way == "in" else "product" if clocks else "load"
    used = [helpers.use(f"tags_{kind}_16_{granule}_{order}")]
    if clocks:
        used.append(helpers.use(f"readers_16_{granule}" if way == "in" else f"fenced_{granule}"))
    calls = "".join(f"  call void @{function}{looked}\n" for function in used)
    if clocks and way == "in":
        land = helpers.use(f"land_16_{granule}")
        calls += f"  call void @{land}(<32 x i32> %at, i32 %part, ptr %checks, ptr %ctx)\n"
    steps = ", ".join(f"i32 {16 * lane}" for lane in range(32))
    v = "<32 x i32>"
    return f"""
define internal void @{name}({v} %address, {v} %size, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca {v}, align 64
  store {v} %address, ptr %places, align 64
{each_lane(helpers, "i32")}  %nbytes = extractelement {v} %size, i32 %lane
  br label %each
over:
  ret void
each:
  %i = phi i32 [ 0, %begin ], [ %i.next, %look ]
  %more = icmp ult i32 %i, %nbytes
  br i1 %more, label %look, label %next
look:
  %start = add i32 %place, %i
  %one = insertelement {v} poison, i32 %start, i64 0
  %starts = shufflevector {v} %one, {v} poison, {v} zeroinitializer
  %at = add {v} %starts, <{steps}>
  %rest.bytes = sub i32 %nbytes, %i
  %chunks.all = lshr i32 %rest.bytes, 4
  %whole = icmp uge i32 %chunks.all, 32
  %ones = shl i32 1, %chunks.all
  %few = sub i32 %ones, 1
  %part = select i1 %whole, i32 -1, i32 %few
{calls}  %i.next = add i32 %i, 512
  br label %each
}}
"""


@family("bulkmarks")
def marks(helpers: Helpers, name: str, talks: str = "") -> str:
    mark = helpers.use(f"marks_store_16{'_' if talks else ''}{talks}")
    return f"""
define internal void @{name}(<32 x i64> %address, <32 x i32> %size, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca <32 x i64>, align 64
  store <32 x i64> %address, ptr %places, align 64
{each_lane(helpers, "i64")}  %nbytes.word = extractelement <32 x i32> %size, i32 %lane
  %nbytes = zext i32 %nbytes.word to i64
  %bit = shl i32 1, %lane
  br label %each
over:
  ret void
each:
  %i = phi i64 [ 0, %begin ], [ %i.next, %look ]
  %more = icmp ult i64 %i, %nbytes
  br i1 %more, label %look, label %next
look:
  %at = add i64 %place, %i
  %spot = insertelement <32 x i64> poison, i64 %at, i32 %lane
  call void @{mark}(<32 x i64> %spot, i32 %bit, ptr %checks, ptr %ctx, i32 %site)
  %i.next = add i64 %i, 16
  br label %each
}}
"""
