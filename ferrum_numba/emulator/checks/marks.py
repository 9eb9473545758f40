"""Helpers for global memory: who wrote an element, and lanes that disagree about one.

marks_<store|atomic>_<bytes>[_talks](addresses, mask, checks, ctx, site): this CTA wrote here;
    _talks: where CTAs talk to each other
confirm_<space>_<bits>(base, addresses, values, mask, checks, ctx, site): after a store, every
    lane finds what it stored, or another lane stored something else in its place
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..helpers.access import ADDRESS, row_test
from ..library import Helpers, family
from ..ptx import Instruction
from ..values import Value
from .check import POINTER, WORD, Check, Kept, Kind, Room, is_strong, mask_of, place, zeros
from .lanes import each_lane, find_area
from .records import ARGUMENTS, visit
from .state import DOUBTS, IN_SHARED, load_area, load_field, number_of
from .talks import cta_number, talk_fields, unordered


class Marks(Check):
    """Elements of global memory: who wrote them, and did another store something else there?"""

    asked = frozenset({"init", "race"})
    kinds = (
        Kind(
            "uninitialised-scratch",
            "init",
            {"global": "reads {nbytes} bytes of {place} that no CTA has written"},
        ),
        Kind("unwritten-output", "init"),
        Kind(
            "lane-conflict",
            "race",
            dict.fromkeys(
                ("shared", "global"),
                "{place}: another lane stores something else there in the same instruction",
            ),
        ),
        Kind(
            "cta-race",
            "race",
            {
                "global load": "reads {place}, which CTA number {cta} writes, and nothing makes"
                " sure that it did before; look for a missing barrier before or after the atomic"
                " operation by which the CTAs talk to each other, and at its .release and .acquire",
                "global": "writes {place}, which CTA number {cta} also writes; look at the mask,"
                " the grid and the strides",
            },
        ),
        Kind(
            "warp-race",
            "race",
            {
                "global": "{place}: warp {other_warp} of this CTA wrote it, this is warp {warp},"
                " and nothing brings them into an order; look at the masks and the strides, and"
                " for a missing bar.sync"
            },
        ),
    )
    # doubted: lanes whose store may be a race; doubts: what was there before (`DOUBT_BYTES` each),
    # and who wrote it.
    fields: ClassVar = {"doubts": POINTER, "doubted": WORD}

    def keep(self, room: Room) -> Kept:
        return {"doubts": zeros(DOUBTS, np.uint8)}

    @property
    def _told(self) -> str:
        """The end of the names of functions that ask whether CTAs may rely on each other."""
        return "_talks" if self.subject.race and self.subject.talks else ""

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
        strong = is_strong(ins)
        if space == "global" and (kind != "load" or (self._told and not strong)):
            name = f"marks_{'atomic' if strong else kind}_{nbytes}{self._told}"
            name = f"relies_{nbytes}" if kind == "load" else name
            mask = mask_of(b, address, condition)
            b.call(name, "void", b.vector(address), mask, *place(ins))
        return condition

    def stored(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        value: Value | None = None,
        condition: Value | None = None,
    ) -> None:
        """Did it change what another lane, warp or CTA had written?"""
        if not self.subject.race:
            return
        if value is None:
            b.call(f"settle_{space}_16", "void", b.vector(address), *place(ins))
        else:
            values = (b.vector(address), b.vector(value), b.mask(condition))
            name = f"confirm_{space}_{value.type[1:]}"
            b.call(name, "void", "ptr %shared", *values, *place(ins))

    def far(
        self, b: Builder, ins: Instruction, far: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        if not inward:
            b.call(f"bulkmarks{self._told}", "void", far, sizes, mask, *place(ins))
        return mask

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        return ("", ()) if inward else (f"_marks{self._told}", place(ins))


@family("marks")
def marks(helpers: Helpers, name: str, access: str, nbytes: str, talks: str = "") -> str:
    """A mark is the CTA's number + 1; plain stores of two CTAs to one element may be a race.

    Where CTAs talk to each other (talks.py) they may come after one another.
    """
    doubt = helpers.use("doubt_global")
    judge = "  br label %put\n"
    if access == "store":
        judge = """  %fresh = icmp eq i32 %mark, 0
  %ours = icmp eq i32 %mark, %cta
  %known = or i1 %fresh, %ours
  br i1 %known, label %put, label %report
"""
    load_times, put_time, culprit = "", "", "%mark"
    if talks:
        load_times = load_area("times")
        tag = "%own.tag" if access == "store" else "0"  # atomic operations are never a race
        put_time = f"""  %two = shl i32 %warp, 1
  %own.raw = or i32 %stamp, %two
  %own.tag = or i32 %own.raw, 1
  %moment = load i32, ptr %time, align 4
  %pair.0 = insertelement <2 x i32> poison, i32 {tag}, i64 0
  %pair.new = insertelement <2 x i32> %pair.0, i32 %moment, i64 1
  %pair.to = getelementptr <2 x i32>, ptr %times, i64 %e
  store <2 x i32> %pair.new, ptr %pair.to, align 4
"""
        if access == "store":
            judge, culprit = unordered("put", "report", warps=True), "%culprit"
    begin = talk_fields() if talks else cta_number()
    return f"""
define internal void @{name}(<32 x i64> %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i64], align 64
  %hint = alloca i32, align 4
  store <32 x i64> %address, ptr %places, align 64
  store i32 0, ptr %hint
  %nbytes = add i64 {nbytes}, 0
{begin}{each_lane(helpers, "i64")}{find_area("shadow")}{load_times}  br label %each
over:
  ret void
each:
  %e = phi i64 [ %from, %found ], [ %e.next, %put ]
  %mark.at = getelementptr i32, ptr %shadow, i64 %e
  %mark = load i32, ptr %mark.at, align 4
{judge}report:
  call void @{doubt}(ptr %checks, i32 %lane, i64 %place, i32 {nbytes}, i32 {culprit})
  br label %put
put:
{put_time}  store i32 %cta, ptr %mark.at, align 4
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
    near = IN_SHARED if space == "shared" else 0
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
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of("lane-conflict")}, i32 %lane, i64 %wide, i32 {int(bits) // 8}, i32 {near})
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
