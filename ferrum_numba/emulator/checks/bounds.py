"""The check "memory": lanes that may not access what they name are found, and left out.

    bounds_<space>_<load|store>_<bytes>(addresses, mask, checks, ctx, site) -> mask of those lanes
    judge_<space>(addresses, mask, bytes, checks, ctx, site) -> the same, lane after lane
    own(address, bytes, lane, checks, ctx) -> i1: whether it is no array's of the launch and yet may
        be used: of the module's own arrays, or a generic address of the CTA's shared memory or of
        the lane's local memory

So no address, however wild, is ever used.  Global memory: all lanes inside the array that the
instruction hit last, and aligned, is one subtraction, one rotation (misaligned offsets become huge)
and one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..helpers.access import ADDRESS, splat
from ..hooks import Box
from ..layout import Layout, state_offset
from ..library import Helpers, family
from ..ptx import Array, Instruction
from ..values import Value
from .check import (
    POINTER,
    WORD,
    Check,
    Kept,
    Kind,
    Room,
    invert,
    is_uniform,
    lanes,
    mask_of,
    place,
    word,
    zeros,
)
from .lanes import ALLOW, find_usable, judge_each_lane
from .records import ARGUMENTS
from .state import IN_SHARED, SCRATCH, SITE_BYTES, load_area, load_field, number_of, offset

_ALIGNED = "the access has to be aligned to its size"


class Bounds(Check):
    """Always active: whatever is asked for, no access leaves its memory."""

    kinds = (
        Kind(
            "out-of-bounds",
            "memory",
            {
                "local": "{place}: a thread has {local_bytes} bytes; look at the index",
                "shared": "{place}: the CTA has {limit} bytes; look at shared_bytes of the launch"
                " and at the address",
                "global": "{nbytes} bytes at {place}; {mask}, at the sizes and at the strides",
            },
        ),
        Kind(
            "misaligned",
            "memory",
            {
                "local": f"{{place}}: {_ALIGNED}",
                "shared": f"{{place}}: {_ALIGNED}",
                "global": f"{{nbytes}} bytes at {{place}}: {_ALIGNED}",
            },
        ),
        Kind(
            "read-only",
            "memory",
            {"global": "writes {nbytes} bytes to {place}, which the launch may only read"},
        ),
        Kind("layout", "memory"),  # of arrays: devices/checked.py compares shapes and strides
    )
    # sites: what each instruction found last (`SITE_BYTES` each).  limit: bytes of shared memory.
    # dump: where accesses that are not allowed go instead.
    fields: ClassVar = {
        "areas": POINTER,
        "sites": POINTER,
        "area_count": WORD,
        "limit": WORD,
        "dump": WORD,
    }

    @property
    def active(self) -> bool:
        return True

    def keep(self, room: Room) -> Kept:
        sites = zeros(room.statements * SITE_BYTES, np.uint8)
        return {"sites": sites, "dump": -(-room.nbytes // 16) * 16}

    def prepare(self, b: Builder) -> None:
        b.helpers.define("own", own(b.arrays, b.layout, b.flow.local_bytes))

    def access(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        nbytes: int,
        condition: Value | None,
        kind: str,
    ) -> Value:
        addresses, mask = b.vector(address), mask_of(b, address, condition)
        if space == "shared":
            allowed = self._within(b, ins, addresses, nbytes, mask)
        else:
            name = f"bounds_global_{'load' if kind == 'load' else 'store'}_{nbytes}"
            allowed = word(b.call(name, "i32", addresses, mask, *place(ins)))
        if is_uniform(address, condition):
            return b.compare("icmp ne", allowed, b.constant("i32", 0))
        return lanes(b, allowed)

    def _within(
        self, b: Builder, ins: Instruction, addresses: Value, nbytes: int, mask: Value
    ) -> Value:
        """The lanes inside shared memory. In line, for a call would cost more than the test."""
        log2 = nbytes.bit_length() - 1
        turned = addresses
        if log2:  # misaligned offsets become huge
            shift = b.vector(b.constant("i32", log2))
            turned = b.intrinsic("llvm.fshr", addresses, addresses, shift)
        limit = b.load("i32", 1, "%checks", offset("limit"), 4)
        room = b.op("lshr", limit, b.constant("i32", log2))
        bad = b.op("and", b.mask(b.compare("icmp uge", turned, room)), mask)
        with b.when(b.compare("icmp ne", bad, b.constant("i32", 0))):
            width = b.constant("i32", nbytes)
            b.call("judge_shared", "i32", addresses, bad, width, *place(ins))
        return b.op("and", mask, invert(b, bad))

    def local(
        self, b: Builder, ins: Instruction, address: Value, nbytes: int, condition: Value | None
    ) -> Value:
        offsets = b.cast("trunc", b.op("sub", address, b.local_memory()), "i32")
        name = f"judge_local_{b.flow.local_bytes}"
        width = b.constant("i32", nbytes)
        allowed = b.call(name, "i32", offsets, b.mask(condition), width, *place(ins))
        return lanes(b, word(allowed))

    def dumped(self, b: Builder, address: Value, allowed: Value) -> Value:
        """Addresses of which those that are not allowed lead to a dump."""
        return b.select(allowed, address, b.vector(b.load("i32", 1, "%checks", offset("dump"), 4)))

    def descriptor(
        self, b: Builder, ins: Instruction, value: Value, form: str, rows: int, row: Value
    ) -> Value:
        """One that leads to nothing but shared memory; what is read there is looked at, too."""
        subject = self.subject
        granule = subject.granule if subject.tagged else 0
        name = f"descriptor_{form}_{rows}_{granule}_{subject.mode}"
        return Value(b.call(name, "i64", value, row, *place(ins)), "i64")

    def mbarrier(
        self, b: Builder, ins: Instruction, address: Value, condition: Value | None, kind: str
    ) -> Value:
        return lanes(b, self._within(b, ins, b.vector(address), 8, b.mask(condition)))

    def passes(self, b: Builder, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        """Lanes whose access was refused must not wait."""
        return b.op("or", over, b.compare("icmp eq", acts, b.constant("i32", 0)))

    def copy(
        self,
        b: Builder,
        ins: Instruction,
        to: Value,
        source: Value,
        nbytes: int,
        mask: Value,
        sizes: Value,
    ) -> Value:
        """Of a source that is shorter the first and the last byte are tested."""
        whole = b.mask(b.compare("icmp uge", sizes, b.constant("i32", nbytes)))
        some = b.mask(b.compare("icmp ne", sizes, b.constant("i32", 0)))
        wanted = b.op("and", mask, whole)
        parts = b.op("and", mask, b.op("and", some, invert(b, whole)))
        good = word(b.call(f"bounds_global_load_{nbytes}", "i32", source, wanted, *place(ins)))
        last = b.op("add", source, b.cast("zext", b.op("sub", sizes, b.constant("i32", 1)), "i64"))
        for end in (source, last):
            parts = word(b.call("bounds_global_load_1", "i32", end, parts, *place(ins)))
        none = b.op("and", mask, invert(b, some))
        allowed = b.op("or", b.op("or", good, parts), none)
        return word(b.call(f"bounds_shared_store_{nbytes}", "i32", to, allowed, *place(ins)))

    def near(
        self, b: Builder, ins: Instruction, near: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        """The first and the last 16 bytes are tested."""
        some = b.mask(b.compare("icmp ne", sizes, b.constant("i32", 0)))
        mask = b.op("and", mask, some)
        behind = b.op("sub", sizes, b.constant("i32", 16))
        name = f"bounds_shared_{'store' if inward else 'load'}_16"
        for address in (near, b.op("add", near, behind)):
            mask = word(b.call(name, "i32", address, mask, *place(ins)))
        return mask

    def far(
        self, b: Builder, ins: Instruction, far: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        """How the first 16 bytes are aligned, and all of the run."""
        access = "load" if inward else "store"
        mask = word(b.call(f"bounds_global_{access}_16", "i32", far, mask, *place(ins)))
        return word(b.call(f"runs_{access}", "i32", far, b.vector(sizes), mask, *place(ins)))

    def box(self, b: Builder, ins: Instruction, name: str, box: Box, mask: Value) -> Value:
        """Row after row."""
        return word(b.call(f"boxruns_{name}", "i32", *box, mask, *place(ins)))


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
  %kind = select i1 %inside, i32 {number_of("misaligned")}, i32 {number_of("out-of-bounds")}
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
  %kind = phi i32 [ %problem, %module ], [ {number_of("misaligned")}, %found ]
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
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of("uninitialised-scratch")}, i32 %lane, i64 %place, i32 %nbytes, i32 0)
  br label %allow
"""  # noqa: E501


def own(arrays: Mapping[str, Array], layout: Layout, local_bytes: int) -> str:
    """The function `own` of one entry. local_bytes: of local memory that a thread may use."""
    lines = f"""{load_field("limit", "i32")}{load_field("worker", "ptr")}\
  %shared.at = getelementptr i8, ptr %worker, i64 {state_offset("shared")}
  %shared = load ptr, ptr %shared.at, align 8
  %shared.bytes = zext i32 %limit to i64
  %lane.bytes = mul i32 %lane, {layout.local_bytes}
  %local.offset = add i32 %lane.bytes, {layout.local}
  %local = getelementptr i8, ptr %ctx, i32 %local.offset
"""
    places = [("%shared", "%shared.bytes"), ("%local", str(local_bytes))]
    places += [(f'@"array.{name}"', str(len(array.content))) for name, array in arrays.items()]
    last = "false"
    for i, (start, nbytes) in enumerate(places):
        lines += f"""  %start{i} = ptrtoint ptr {start} to i64
  %offset{i} = sub i64 %place, %start{i}
  %end{i} = add i64 %offset{i}, %size
  %near{i} = icmp ult i64 %offset{i}, {nbytes}
  %fits{i} = icmp ule i64 %end{i}, {nbytes}
  %in{i} = and i1 %near{i}, %fits{i}
  %any{i} = or i1 {last}, %in{i}
"""
        last = f"%any{i}"
    head = "define internal i1 @own(i64 %place, i64 %size, i32 %lane, ptr %checks, ptr %ctx) #0 {"
    return f"{head}\n{lines}  ret i1 {last}\n}}\n"
