"""Helpers for stores to what another warp, or another CTA, has written: is it the same value?

    doubt_<space>(checks, lane, address, bytes, other): before the store, keep what is there
    settle_<space>_<bytes>(addresses, checks, ctx, site): after it, record what has changed

Warps that all store one value to one place are no mistake, and compilers make them.
"""

from __future__ import annotations

from ..helpers.access import ADDRESS
from ..layout import state_offset
from ..library import Helpers, family
from .records import ARGUMENTS, visit
from .state import DOUBT_BYTES, WARPS, load_field, number_of


def _pointer(space: str, name: str, address: str) -> str:
    """Lines that set %<name> to where a 64-bit address leads."""
    if space == "global":
        return f"  %{name} = inttoptr i64 {address} to ptr\n"
    return f"""{load_field("worker", "ptr")}\
  %shared.at = getelementptr i8, ptr %worker, i64 {state_offset("shared")}
  %shared = load ptr, ptr %shared.at, align 8
  %{name} = getelementptr i8, ptr %shared, i64 {address}
"""


@family("doubt")
def doubt(helpers: Helpers, name: str, space: str) -> str:
    helpers.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    return f"""
define internal void @{name}(ptr %checks, i32 %lane, i64 %address, i32 %nbytes, i32 %other) #0 {{
{load_field("doubts", "ptr")}{load_field("doubted", "i32")}{_pointer(space, "there", "%address")}\
  %bit = shl i32 1, %lane
  %more = or i32 %doubted, %bit
  store i32 %more, ptr %doubted.at, align 4
  %offset = mul i32 %lane, {DOUBT_BYTES}
  %before = getelementptr i8, ptr %doubts, i32 %offset
  %length = zext i32 %nbytes to i64
  call void @llvm.memcpy.p0.p0.i64(ptr %before, ptr %there, i64 %length, i1 false)
  %others = getelementptr i8, ptr %doubts, i64 {32 * DOUBT_BYTES}
  %other.at = getelementptr i32, ptr %others, i32 %lane
  store i32 %other, ptr %other.at, align 4
  ret void
}}
"""


@family("settle")
def settle(helpers: Helpers, name: str, space: str, nbytes: str) -> str:
    record = helpers.use("record")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    kind, item = ADDRESS[space], f"i{8 * int(nbytes)}"
    kinds = ("race", "race") if space == "shared" else ("warp-race", "cta-race")
    widen = "zext i32 %place to i64" if kind == "i32" else "add i64 %place, 0"
    return f"""
define internal void @{name}(<32 x {kind}> %address, {ARGUMENTS}) #0 {{
  %places = alloca [32 x {kind}], align 64
{load_field("doubted", "i32")}  %none = icmp eq i32 %doubted, 0
  br i1 %none, label %over, label %some
over:
  ret void
some:
  store <32 x {kind}> %address, ptr %places, align 64
  store i32 0, ptr %doubted.at, align 4
{load_field("doubts", "ptr")}{visit()}  br label %next
next:
  %left = phi i32 [ %doubted, %some ], [ %rest, %on ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %lane
  %place = load {kind}, ptr %place.at
  %wide = {widen}
{_pointer(space, "there", "%wide")}  %offset = mul i32 %lane, {DOUBT_BYTES}
  %before.at = getelementptr i8, ptr %doubts, i32 %offset
  %before = load {item}, ptr %before.at, align 1
  %after = load {item}, ptr %there, align 1
  %same = icmp eq {item} %before, %after
  br i1 %same, label %on, label %report
report:
  %others = getelementptr i8, ptr %doubts, i64 {32 * DOUBT_BYTES}
  %other.at = getelementptr i32, ptr %others, i32 %lane
  %other = load i32, ptr %other.at, align 4
  %warps = and i32 %other, {WARPS}
  %is.warp = icmp ne i32 %warps, 0
  %kind = select i1 %is.warp, i32 {number_of(kinds[0])}, i32 {number_of(kinds[1])}
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %lane, i64 %wide, i32 {nbytes}, i32 %other)
  br label %on
on:
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %over, label %next
}}
"""  # noqa: E501
