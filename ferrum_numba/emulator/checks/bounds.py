"""Helpers of the check "memory": which lanes may access what they name.

    bounds_<space>_<load|store>_<bytes>(addresses, mask, checks, ctx, site) -> mask of those lanes

Global memory: all lanes inside the array that the instruction hit last, and aligned, is one
subtraction, one rotation (misaligned offsets become huge) and one comparison.
"""

from __future__ import annotations

from ..helpers.access import ADDRESS, splat
from ..library import Helpers, family
from .lanes import ALLOW, find_usable, judge_each_lane
from .memory import IN_SHARED, KIND, SCRATCH, SITE_BYTES, load_area, load_field
from .records import ARGUMENTS


@family("bounds")
def bounds(helpers: Helpers, name: str, space: str, access: str, nbytes: str) -> str:
    kind, log2 = ADDRESS[space], int(nbytes).bit_length() - 1
    judge = helpers.use(f"judge_{space}_{access}" if space == "global" else "judge_shared")
    vector = f"<32 x {kind}>"
    turned = "%offset"
    rotate = ""
    if log2:
        helpers.declare(f"{vector} @llvm.fshr.v32{kind}({vector}, {vector}, {vector})")
        turned = "%turned"
        rotate = (
            f"  %turned = call {vector} @llvm.fshr.v32{kind}({vector} %offset, {vector} %offset,"
            f" {vector} splat ({kind} {log2}))\n"
        )
    return f"""
define internal i32 @{name}({vector} %address, i32 %mask, {ARGUMENTS}) #0 {{
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %quick, label %some
some:
{_site() if space == "global" else _limit(log2)}{rotate}{splat("rooms", kind, "%room")}\
  %outside = icmp uge {vector} {turned}, %rooms
  %outside.bits = bitcast <32 x i1> %outside to i32
  %bad = and i32 %outside.bits, %mask
  %good = icmp eq i32 %bad, 0
  br i1 %good, label %quick, label %slow
quick:
  ret i32 %mask
slow:
  %allowed = call i32 @{judge}({vector} %address, i32 %mask, i32 {nbytes}, ptr %checks, ptr %ctx, i32 %site)
  ret i32 %allowed
}}
"""  # noqa: E501


def _site() -> str:
    """Lines that set %offset and %room for the array that the instruction hit last."""
    return f"""{load_field("sites", "ptr")}  %site.wide = zext i32 %site to i64
  %site.offset = mul i64 %site.wide, {SITE_BYTES}
  %first.at = getelementptr i8, ptr %sites, i64 %site.offset
  %first = load i64, ptr %first.at, align 8
  %room.at = getelementptr i8, ptr %first.at, i64 8
  %room = load i64, ptr %room.at, align 8
{splat("firsts", "i64", "%first")}  %offset = sub <32 x i64> %address, %firsts
"""


def _limit(log2: int) -> str:
    return f"""{load_field("limit", "i32")}  %room = lshr i32 %limit, {log2}
  %offset = or <32 x i32> %address, zeroinitializer
"""


@family("judge")
def judge(helpers: Helpers, name: str, space: str, access: str = "") -> str:
    """Lane after lane; what is not allowed is recorded. Of local memory `access` is the size."""
    if space == "shared":
        return _judge_offset(helpers, name, load_field("limit", "i32"), IN_SHARED)
    if space == "local":
        return _judge_offset(helpers, name, f"  %limit = add i32 0, {access}\n", 0)
    return _judge_global(helpers, name, access)


def _judge_offset(helpers: Helpers, name: str, limit: str, space: int) -> str:
    """limit: lines that set %limit, the bytes that there are.  space: as records call it."""
    record = helpers.use("record")
    return f"""
define internal i32 @{name}(<32 x i32> %address, i32 %mask, i32 %nbytes, {ARGUMENTS}) #0 {{
{judge_each_lane(helpers, "i32")}{limit}  %wide = zext i32 %place to i64
  %end.of = zext i32 %nbytes to i64
  %behind = add i64 %wide, %end.of
  %limit.wide = zext i32 %limit to i64
  %inside = icmp ule i64 %behind, %limit.wide
  %low = add i32 %nbytes, -1
  %odd = and i32 %place, %low
  %aligned = icmp eq i32 %odd, 0
  %fine = and i1 %inside, %aligned
  br i1 %fine, label %allow, label %refuse
refuse:
  %kind = select i1 %inside, i32 {KIND["misaligned"]}, i32 {KIND["out-of-bounds"]}
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %lane, i64 %wide, i32 %nbytes, i32 {space})
  br label %next
{ALLOW}}}
"""  # noqa: E501


def _judge_global(helpers: Helpers, name: str, access: str) -> str:
    """The array around an address becomes the one that the instruction hit last."""
    record = helpers.use("record")
    inside = """  %near = icmp ule i64 %offset, %length
  %room = sub i64 %length, %offset
  %fits = icmp uge i64 %room, %size
  %inside = and i1 %near, %fits
"""
    return f"""
define internal i32 @{name}(<32 x i64> %address, i32 %mask, i32 %nbytes, {ARGUMENTS}) #0 {{
{judge_each_lane(helpers, "i64")}  %size = zext i32 %nbytes to i64
{find_usable(helpers, access, inside, "%size", before="begin")}\
found:
  %low = add i64 %size, -1
  %odd = and i64 %place, %low
  %aligned = icmp eq i64 %odd, 0
  br i1 %aligned, label %right, label %refuse
refuse:
  %kind = phi i32 [ %problem, %module ], [ {KIND["misaligned"]}, %found ]
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %lane, i64 %place, i32 %nbytes, i32 0)
  br label %next
right:
{_scratch(helpers, record) if access == "load" else "  br label %remember"}
remember:
  %start.up = add i64 %start, %low
  %high = sub i64 0, %size
  %first = and i64 %start.up, %high
  %count.bytes = sub i64 %end, %first
  %count = udiv i64 %count.bytes, %size
{load_field("sites", "ptr")}  %site.wide = zext i32 %site to i64
  %site.offset = mul i64 %site.wide, {SITE_BYTES}
  %first.to = getelementptr i8, ptr %sites, i64 %site.offset
  store i64 %first, ptr %first.to, align 8
  %count.to = getelementptr i8, ptr %first.to, i64 8
  store i64 %count, ptr %count.to, align 8
  br label %allow
{ALLOW}}}
"""  # noqa: E501


def _scratch(helpers: Helpers, record: str) -> str:
    """Lines that test whether what a lane reads of scratch memory was ever written.

    They are never remembered as the array that an instruction hit last, so all reads come here.
    """
    return f"""  %scratch.bits = and i32 %flags, {SCRATCH}
  %scratch = icmp ne i32 %scratch.bits, 0
  br i1 %scratch, label %written, label %remember
written:
{load_area("shadow")}  br label %byte
byte:
  %byte.i = phi i64 [ %offset, %written ], [ %byte.next, %byte_on ]
  %byte.end = add i64 %offset, %size
  %byte.done = icmp uge i64 %byte.i, %byte.end
  br i1 %byte.done, label %allow, label %byte_test
byte_test:
  %mark.at = getelementptr i32, ptr %shadow, i64 %byte.i
  %mark = load i32, ptr %mark.at, align 4
  %unmarked = icmp eq i32 %mark, 0
  br i1 %unmarked, label %unwritten, label %byte_on
byte_on:
  %byte.next = add i64 %byte.i, 1
  br label %byte
unwritten:
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {KIND["uninitialised-scratch"]}, i32 %lane, i64 %place, i32 %nbytes, i32 0)
  br label %allow
"""  # noqa: E501
