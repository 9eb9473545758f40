"""Helpers for operands of wgmma in shared memory, which a descriptor tells.

    fence(checks, ctx): a warp makes its stores visible to the asynchronous proxy
    descriptor_<a|b>_<major>_<rows>_<granule>_<epochs|clocks>(descriptor, row, checks, ctx, site)
        -> the descriptor, or one of the first bytes where it leads outside

granule 0: only where it leads is looked at.
"""

from __future__ import annotations

from ..helpers.access import splat
from ..helpers.wgmma import addresses_of
from ..layout import WARP
from ..library import Helpers, family
from .records import ARGUMENTS, visit
from .state import AWAITED, LANDED, PENDING, STEP, load_field, number_of


@family("fence")
def fence(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{load_field("fences", "ptr")}{load_field("stamp", "i32")}\
  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %fence.at = getelementptr i32, ptr %fences, i32 %warp
  store i32 %stamp, ptr %fence.at, align 4
  %next = add i32 %stamp, {STEP}
  store i32 %next, ptr %stamp.at, align 4
  ret void
}}
"""


@family("descriptor")
def descriptor(
    helpers: Helpers, name: str, operand: str, major: str, rows: str, granule: str, order: str
) -> str:
    """Sixteen rows of A, or columns of B, at a time: 32 chunks of 16 bytes."""
    bounds = helpers.use("bounds_shared_load_16")
    count = int(rows) // 8 * 8
    lines = ""
    if granule != "0":
        kind = "product" if order == "clocks" else "load"
        used = [helpers.use(f"tags_{kind}_16_{granule}_{order}")]
        if order == "clocks":
            used.insert(0, helpers.use(f"fenced_{granule}"))
        arguments = "<32 x i32> %at, i32 %allowed, ptr %checks, ptr %ctx, i32 %site"
        lines = "".join(f"  call void @{function}({arguments})\n" for function in used)
    return f"""
define internal i64 @{name}(i64 %{operand}, i32 %row, {ARGUMENTS}) #0 {{
  br label %each
each:
  %i = phi i32 [ 0, %0 ], [ %i.next, %each ]
  %good = phi i1 [ true, %0 ], [ %good.next, %each ]
  %first = add i32 %row, %i
{addresses_of(helpers, "at", major, operand, "%first")}\
  %left = sub i32 {count}, %i
  %odd = icmp ult i32 %left, 16
  %mask = select i1 %odd, i32 65535, i32 -1
  %allowed = call i32 @{bounds}(<32 x i32> %at, i32 %mask, ptr %checks, ptr %ctx, i32 %site)
  %all = icmp eq i32 %allowed, %mask
  %good.next = and i1 %good, %all
{lines}  %i.next = add i32 %i, 16
  %more = icmp ult i32 %i.next, {count}
  br i1 %more, label %each, label %end
end:
  %result = select i1 %good.next, i64 %{operand}, i64 0
  ret i64 %result
}}
"""


@family("fenced")
def fenced(helpers: Helpers, name: str, granule: str) -> str:
    """Each chunk's first granule: was it stored in the ordinary way, and no fence since?

    The fence of the warp that stored counts, and that of the warp that reads.  cp.async writes in
    the ordinary way, too, and only the reader can fence what an mbarrier waited for.  Behind
    cp.async.wait_group and a barrier no compiler fences; there it is not asked for.
    """
    record = helpers.use("record")
    gather = "@llvm.masked.gather.v32i32.v32p0"
    helpers.declare(f"<32 x i32> {gather}(<32 x ptr>, i32, <32 x i1>, <32 x i32>)")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    v, shift = "<32 x i32>", int(granule).bit_length() - 1
    return f"""
define internal void @{name}({v} %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i32], align 64
  %active = bitcast i32 %mask to <32 x i1>
{load_field("tags", "ptr")}{load_field("fences", "ptr")}{load_field("base", "i32")}\
{splat("bases", "i32", "%base")}  %index = lshr {v} %address, splat (i32 {shift})
  %tag.at = getelementptr i32, ptr %tags, {v} %index
  %t = call {v} {gather}(<32 x ptr> %tag.at, i32 4, <32 x i1> %active, {v} zeroinitializer)
  %kind = and {v} %t, splat (i32 {LANDED | AWAITED | 1})
  %plain = icmp eq {v} %kind, splat (i32 1)
  %copied = icmp eq {v} %kind, splat (i32 {LANDED | AWAITED | 1})
  %stored = or <32 x i1> %plain, %copied
  %of.cta = icmp uge {v} %t, %bases
  %arrived = icmp ult {v} %t, splat (i32 {PENDING})
  %candidate.0 = and <32 x i1> %stored, %of.cta
  %candidate.1 = and <32 x i1> %candidate.0, %arrived
  %candidate = and <32 x i1> %candidate.1, %active
  %low = and {v} %t, splat (i32 63)
  %writer = lshr {v} %low, splat (i32 1)
  %fence.at = getelementptr i32, ptr %fences, {v} %writer
  %theirs = call {v} {gather}(<32 x ptr> %fence.at, i32 4, <32 x i1> %candidate, {v} zeroinitializer)
  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %own.at = getelementptr i32, ptr %fences, i32 %warp
  %own = load i32, ptr %own.at, align 4
{splat("owns", "i32", "%own")}  %epoch = and {v} %t, splat (i32 -256)
  %late.theirs = icmp ult {v} %theirs, %epoch
  %late.own = icmp ult {v} %owns, %epoch
  %late.first = or <32 x i1> %late.theirs, %copied
  %late.0 = and <32 x i1> %late.first, %late.own
  %late = and <32 x i1> %late.0, %candidate
  %late.bits = bitcast <32 x i1> %late to i32
  %fine = icmp eq i32 %late.bits, 0
  br i1 %fine, label %over, label %report
over:
  ret void
report:
  store {v} %address, ptr %places, align 64
{visit()}  br label %next
next:
  %left = phi i32 [ %late.bits, %report ], [ %rest, %next ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr i32, ptr %places, i32 %lane
  %place = load i32, ptr %place.at
  %wide = zext i32 %place to i64
  %other = extractelement {v} %t, i32 %lane
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of("missing-fence")}, i32 %lane, i64 %wide, i32 16, i32 %other)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %over, label %next
}}
"""  # noqa: E501
