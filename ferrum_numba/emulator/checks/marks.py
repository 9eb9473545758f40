"""Helpers for global memory: who wrote an element, and lanes that disagree about one.

marks_<store|atomic>_<bytes>(addresses, mask, checks, ctx, site): this CTA wrote here
confirm_<space>_<bits>(base, addresses, values, mask, checks, ctx, site): after a store, every
    lane finds what it stored, or another lane stored something else in its place
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from ..helpers import family
from ..helpers.access import ADDRESS, row_test
from ..layout import state_offset
from .memory import KIND, Area, area_offset, load_field
from .records import ARGUMENTS, visit

if TYPE_CHECKING:
    from ..helpers import Helpers


@family("marks")
def marks(helpers: Helpers, name: str, access: str, nbytes: str) -> str:
    """A mark is the CTA's number + 1; plain stores of two CTAs to one element may be a race."""
    doubt = helpers.use("doubt_global")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    fields = "".join(
        f"  %{field}.at = getelementptr i8, ptr %area, i64 {area_offset(field)}\n"
        f"  %{field} = load {kind}, ptr %{field}.at\n"
        for field, kind in (
            ("start", "i64"),
            ("shadow", "ptr"),
            ("granule", "i32"),
        )
    )
    race = "icmp ne i32 %old, %cta" if access == "store" else "icmp ne i32 0, 0"
    return f"""
define internal void @{name}(<32 x i64> %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i64], align 64
  store <32 x i64> %address, ptr %places, align 64
{load_field("worker", "ptr")}{load_field("areas", "ptr")}{load_field("area_count", "i32")}\
  %cta.at = getelementptr i8, ptr %worker, i64 {state_offset("cta")}
  %cta.wide = load i64, ptr %cta.at, align 8
  %cta.word = trunc i64 %cta.wide to i32
  %cta = add i32 %cta.word, 1
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %hint = phi i32 [ 0, %0 ], [ %i, %next ]
  %done = icmp eq i32 %left, 0
  br i1 %done, label %over, label %begin
over:
  ret void
next:
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
begin:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr i64, ptr %places, i32 %lane
  %place = load i64, ptr %place.at
  br label %search
search:
  %i.raw = phi i32 [ %hint, %begin ], [ %i.next, %again ]
  %tried = phi i32 [ 0, %begin ], [ %tried.next, %again ]
  %wraps = icmp uge i32 %i.raw, %area_count
  %i = select i1 %wraps, i32 0, i32 %i.raw
  %past = icmp uge i32 %tried, %area_count
  br i1 %past, label %next, label %try
again:
  %i.next = add i32 %i, 1
  %tried.next = add i32 %tried, 1
  br label %search
try:
  %area.offset = mul i32 %i, {ctypes.sizeof(Area)}
  %area = getelementptr i8, ptr %areas, i32 %area.offset
{fields}  %end.at = getelementptr i8, ptr %area, i64 {area_offset("end")}
  %end = load i64, ptr %end.at
  %length = sub i64 %end, %start
  %offset = sub i64 %place, %start
  %inside = icmp ult i64 %offset, %length
  %shadowed = icmp ne ptr %shadow, null
  %found = and i1 %inside, %shadowed
  br i1 %found, label %mark, label %again
mark:
  %shift = zext i32 %granule to i64
  %final = add i64 %offset, {int(nbytes) - 1}
  %from = lshr i64 %offset, %shift
  %to = lshr i64 %final, %shift
  br label %each
each:
  %e = phi i64 [ %from, %mark ], [ %e.next, %put ]
  %mark.at = getelementptr i32, ptr %shadow, i64 %e
  %old = load i32, ptr %mark.at, align 4
  %fresh = icmp eq i32 %old, 0
  %other = {race}
  %both = icmp ugt i1 %other, %fresh
  br i1 %both, label %report, label %put
report:
  call void @{doubt}(ptr %checks, i32 %lane, i64 %place, i32 {nbytes}, i32 %old)
  br label %put
put:
  store i32 %cta, ptr %mark.at, align 4
  %e.next = add i64 %e, 1
  %more = icmp ule i64 %e.next, %to
  br i1 %more, label %each, label %next
}}
"""


@family("confirm")
def confirm(helpers: Helpers, name: str, space: str, bits: str) -> str:
    """Lanes that store to neighbouring places, or to whole 16-byte chunks, cannot disagree."""
    kind, vector = ADDRESS[space], f"<32 x i{bits}>"
    load, record = helpers.use(f"load_{space}_{bits}"), helpers.use("record")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    widen = "zext i32 %place to i64" if kind == "i32" else "add i64 %place, 0"
    settle = helpers.use(f"settle_{space}_{int(bits) // 8}")
    chunks = _chunks_test(space, int(bits)) if int(bits) <= 16 else "  br label %compare\n"
    return f"""
define internal void @{name}(ptr %base, <32 x {kind}> %address, {vector} %value, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x {kind}], align 64
{load_field("doubted", "i32")}  %sure = icmp eq i32 %doubted, 0
  br i1 %sure, label %look, label %doubts
doubts:
  call void @{settle}(<32 x {kind}> %address, ptr %checks, ptr %ctx, i32 %site)
  br label %look
look:
  %active = bitcast i32 %mask to <32 x i1>
{row_test(space, int(bits) // 8)}  br i1 %row, label %fine, label %apart
fine:
  ret void
apart:
{chunks}compare:
  %found = call {vector} @{load}(ptr %base, <32 x {kind}> %address, i32 %mask, {vector} %value)
  %other = icmp ne {vector} %found, %value
  %others = bitcast <32 x i1> %other to i32
  %same = icmp eq i32 %others, 0
  br i1 %same, label %fine, label %report
report:
  store <32 x {kind}> %address, ptr %places, align 64
{visit()}  br label %next
next:
  %left = phi i32 [ %others, %report ], [ %rest, %next ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %lane
  %place = load {kind}, ptr %place.at
  %wide = {widen}
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {KIND["lane-conflict"]}, i32 %lane, i64 %wide, i32 {int(bits) // 8}, i32 0)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %fine, label %next
}}
"""  # noqa: E501


def _chunks_test(space: str, bits: int) -> str:
    """Lines that go to %fine where every 16 bytes' worth of lanes fill a chunk of their own."""
    kind, lanes = ADDRESS[space], 128 // bits
    vector = f"<32 x {kind}>"
    heads = ", ".join(f"i32 {lane // lanes * lanes}" for lane in range(32))
    steps = ", ".join(f"{kind} {lane % lanes * bits // 8}" for lane in range(32))
    lines = f"""  %heads = shufflevector {vector} %address, {vector} poison, <32 x i32> <{heads}>
  %run.expected = add {vector} %heads, <{steps}>
  %run.differs = icmp ne {vector} %address, %run.expected
  %head.low = and {vector} %heads, splat ({kind} 15)
  %head.odd = icmp ne {vector} %head.low, zeroinitializer
  %wrong0 = or <32 x i1> %run.differs, %head.odd
"""
    for i in range(1, 32 // lanes):
        turned = ", ".join(f"i32 {(lane + i * lanes) % 32}" for lane in range(32))
        lines += f"""  %t{i} = shufflevector {vector} %heads, {vector} poison, <32 x i32> <{turned}>
  %e{i} = icmp eq {vector} %t{i}, %heads
  %wrong{i} = or <32 x i1> %wrong{i - 1}, %e{i}
"""
    return f"""{lines}  %wrong.bits = bitcast <32 x i1> %wrong{32 // lanes - 1} to i32
  %chunks = icmp eq i32 %wrong.bits, 0
  br i1 %chunks, label %fine, label %compare
"""
