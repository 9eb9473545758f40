"""Copies of boxes of a tensor, which a tensor map describes.

    tensorbox_<in|out>_<rank>(shared addresses, map addresses, coordinates, mask, out)
        -> the lanes whose box can be copied.  out: <32 x i32>, the bytes of each lane's box, 0
        where there is none
    tensor_<in|out>_<rank>[_marks[_talks]](base, shared addresses, map addresses, coordinates, mask
        [, checks, ctx, site]): marks: what is written in the tensor is marked, for the checks

coordinates: <32 x i32> for each dimension, in memory.  In shared memory a box lies without gaps,
the first dimension innermost, swizzled by 16 bytes.  What is outside of the tensor becomes zero on
the way in.  On the way out it is left alone, but for the rest of the last 16 bytes of a row: these
are written as a whole, as by an H200, which also takes no box that begins within 16 bytes of a row,
and no negative coordinates on the way out.

A map has 128 bytes.  NVIDIA leaves their form open: here they are the fields of `FIELDS`, and a
mark which says that tensormap.replace has made the map on the CPU device.
Source: PTX ISA, "Tensor-map", "tensormap.replace", "Swizzling Modes".
"""

from __future__ import annotations

from ..library import Helpers, family
from .access import pointer

# Of each field: where it begins, bits of an element, and elements (0: it has no index).
FIELDS = {
    "global_address": (0, 64, 0),
    "global_stride": (8, 64, 4),
    "global_dim": (40, 32, 5),
    "box_dim": (60, 32, 5),
    "element_stride": (80, 32, 5),
    "rank": (100, 32, 0),
    "elemtype": (104, 32, 0),
    "interleave_layout": (108, 32, 0),
    "swizzle_mode": (112, 32, 0),
    "fill_mode": (116, 32, 0),
}
MARK_AT, MARK = 124, 0x50414D54

# log2 of an element's bytes, by elemtype: u8, u16, u32, s32, u64, s64, f16, f32, f32.ftz, f64,
# bf16, tf32, tf32.ftz
_LOG2 = (0, 1, 2, 2, 3, 3, 1, 2, 2, 3, 1, 2, 2)
_LOG2_WORD = sum(log2 << 4 * kind for kind, log2 in enumerate(_LOG2))
_LARGEST = 256  # elements of a box along one dimension
_MOST_BYTES = 1 << 20  # of a box: more than any shared memory
BOX = "<32 x i32> %shared, <32 x i64> %map, ptr %coordinates, i32 %mask"
_CHECKS = ", ptr %checks, ptr %ctx, i32 %site"


def _field(name: str, index: int = 0, symbol: str = "") -> str:
    """Lines that set %<symbol>, as i64, to a field of the map at %fields."""
    first, bits, _ = FIELDS[name]
    symbol = symbol or name
    load = f"load i{bits}, ptr %{symbol}.at, align 1"
    lines = f"  %{symbol}.at = getelementptr i8, ptr %fields, i64 {first + index * bits // 8}\n"
    if bits == 64:
        return f"{lines}  %{symbol} = {load}\n"
    return f"{lines}  %{symbol}.word = {load}\n  %{symbol} = zext i32 %{symbol}.word to i64\n"


def each_box(rank: int) -> str:
    """Lines that loop over the lanes of %mask, and read a lane's map and coordinates.

    The body ends with a jump to %next, and %over is what comes when all are done.
    """
    lines = f"""  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %none = icmp eq i32 %left, 0
  br i1 %none, label %over, label %begin
next:
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
begin:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %near.word = extractelement <32 x i32> %shared, i32 %lane
  %near = zext i32 %near.word to i64
  %map.one = extractelement <32 x i64> %map, i32 %lane
  %fields = inttoptr i64 %map.one to ptr
{_field("global_address", symbol="address")}{_field("elemtype")}{_field("swizzle_mode", symbol="swizzle")}\
  %log2.from = shl i64 %elemtype, 2
  %log2.word = lshr i64 {_LOG2_WORD}, %log2.from
  %log2 = and i64 %log2.word, 15
"""  # noqa: E501
    for d in range(rank):
        lines += _field("box_dim", d, f"box{d}") + _field("global_dim", d, f"dim{d}")
        if d:
            lines += _field("global_stride", d - 1, f"stride{d}")
        lines += f"""  %c{d}.row = getelementptr <32 x i32>, ptr %coordinates, i32 {d}
  %c{d}.at = getelementptr i32, ptr %c{d}.row, i32 %lane
  %c{d}.word = load i32, ptr %c{d}.at, align 4
  %c{d} = sext i32 %c{d}.word to i64
"""
    return f"{lines}  %row = shl i64 %box0, %log2\n"


def row_of_box(rank: int) -> tuple[str, str, str]:
    """Lines that find row %number of a box; whether it is in the tensor; where that row begins."""
    lines, inside, start, rest = "", "true", "%address", "%number"
    for d in range(1, rank):
        lines += f"""  %y{d} = urem i64 {rest}, %box{d}
  %rest{d} = udiv i64 {rest}, %box{d}
  %k{d} = add i64 %c{d}, %y{d}
  %in{d} = icmp ult i64 %k{d}, %dim{d}
  %inside{d} = and i1 {inside}, %in{d}
  %k{d}.bytes = mul i64 %k{d}, %stride{d}
  %start{d} = add i64 {start}, %k{d}.bytes
"""
        inside, start, rest = f"%inside{d}", f"%start{d}", f"%rest{d}"
    return lines, inside, start


class _Tests:
    """Lines that set %good to whether all of some conditions hold."""

    def __init__(self) -> None:
        self.lines, self.last = "", "true"

    def add(self, condition: str) -> None:
        n = self.lines.count("\n")
        self.lines += f"  %holds{n} = {condition}\n  %good{n} = and i1 {self.last}, %holds{n}\n"
        self.last = f"%good{n}"

    def multiple(self, name: str, of: int) -> None:
        self.lines += f"  %{name}.low = and i64 %{name}, {of - 1}\n"
        self.add(f"icmp eq i64 %{name}.low, 0")


def _usable(rank: int, way: str, size: str) -> tuple[str, str]:
    """Lines that look at a map and the place of a box, and what says that both can be used."""
    tests = _Tests()
    tests.lines += _field("rank") + _field("interleave_layout") + _field("fill_mode")
    tests.lines += f"  %mark.at = getelementptr i8, ptr %fields, i64 {MARK_AT}\n"
    tests.lines += "  %mark = load i32, ptr %mark.at, align 1\n"
    tests.add(f"icmp eq i32 %mark, {MARK}")
    tests.add(f"icmp eq i64 %rank, {rank - 1}")
    tests.add(f"icmp ult i64 %elemtype, {len(_LOG2)}")
    tests.add("icmp eq i64 %interleave_layout, 0")
    tests.add("icmp eq i64 %fill_mode, 0")
    tests.add("icmp ule i64 %swizzle, 3")
    tests.add(f"icmp ule i64 {size}, {_MOST_BYTES}")
    tests.multiple("row", 16)
    tests.multiple("address", 16)
    tests.multiple("near", 128)
    tests.lines += "  %c0.bytes = shl i64 %c0, %log2\n"
    tests.multiple("c0.bytes", 16)
    tests.lines += "  %span = shl i64 16, %swizzle\n  %loose = icmp eq i64 %swizzle, 0\n"
    tests.lines += "  %narrow = icmp ule i64 %row, %span\n"
    tests.add("or i1 %loose, %narrow")
    for d in range(rank):
        tests.lines += _field("element_stride", d, f"step{d}")
        tests.add(f"icmp eq i64 %step{d}, 1")
        tests.lines += f"  %box{d}.less = add i64 %box{d}, -1\n"
        tests.add(f"icmp ult i64 %box{d}.less, {_LARGEST}")
        if d:
            tests.multiple(f"stride{d}", 16)
        if way == "out":
            tests.add(f"icmp sge i64 %c{d}, 0")
    return tests.lines, tests.last


@family("tensorbox")
def box(helpers: Helpers, name: str, way: str, rank_text: str) -> str:
    rank = int(rank_text)
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    size, lines = "%row", ""
    for d in range(1, rank):
        lines += f"  %size{d} = mul i64 {size}, %box{d}\n"
        size = f"%size{d}"
    usable, can_be_used = _usable(rank, way, size)
    return f"""
define internal i32 @{name}({BOX}, ptr %out) #0 {{
  %result = alloca i32, align 4
  store i32 0, ptr %result, align 4
  store <32 x i32> zeroinitializer, ptr %out, align 64
{each_box(rank)}{lines}{usable}  %size.word = trunc i64 {size} to i32
  %size.put = getelementptr i32, ptr %out, i32 %lane
  store i32 %size.word, ptr %size.put, align 4
  %bit = shl i32 1, %lane
  %sofar = load i32, ptr %result, align 4
  %with = or i32 %sofar, %bit
  %now = select i1 {can_be_used}, i32 %with, i32 %sofar
  store i32 %now, ptr %result, align 4
  br label %next
over:
  %lanes = load i32, ptr %result, align 4
  ret i32 %lanes
}}
"""


def _mark(helpers: Helpers, marks: tuple[str, ...]) -> str:
    """Lines that have the 16 bytes of %lane at %far.at marked."""
    mark = helpers.use("_".join(["marks_store_16", *marks[1:]]))
    return f"""  %spot = insertelement <32 x i64> poison, i64 %far.at, i32 %lane
  %spot.bit = shl i32 1, %lane
  call void @{mark}(<32 x i64> %spot, i32 %spot.bit{_CHECKS})
"""


_EDGE = """bytes:
  %j = phi i64 [ 0, %chunk ], [ %j.next, %byte ]
  %j.element = lshr i64 %j, %log2
  %k = add i64 %k0, %j.element
  %k.in = icmp ult i64 %k, %dim0
  %there = and i1 {inside}, %k.in
  %far.byte = getelementptr i8, ptr %far, i64 %j
  %source = select i1 %there, ptr %far.byte, ptr @zeros
  %close.byte = getelementptr i8, ptr %close, i64 %j
  %value = load i8, ptr %source, align 1
  store i8 %value, ptr %close.byte, align 1
  br label %byte
byte:
  %j.next = add i64 %j, 1
  %ended = icmp eq i64 %j.next, 16
  br i1 %ended, label %moved, label %bytes
"""


@family("tensor")
def tensor(helpers: Helpers, name: str, way: str, rank_text: str, *marks: str) -> str:
    """Sixteen bytes at a time; on the way in byte by byte across the tensor's end."""
    rank = int(rank_text)
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    helpers.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    chunks, product = "%chunks0", "  %chunks0 = lshr i64 %row, 4\n"
    for d in range(1, rank):
        product += f"  %chunks{d} = mul i64 {chunks}, %box{d}\n"
        chunks = f"%chunks{d}"
    row, inside, start = row_of_box(rank)
    if way == "in":
        to, source, fits = "%close", "%far", "%ends"
        edge, otherwise = _EDGE.format(inside=inside), "bytes"
    else:
        to, source, fits = "%far", "%close", "true"
        edge, otherwise = "", "moved"
    return f"""
define internal void @{name}(ptr %base, {BOX}{_CHECKS if marks else ""}) #0 {{
{each_box(rank)}{product}  %per = lshr i64 16, %log2
  %ones = shl i64 1, %swizzle
  %turned = add i64 %ones, -1
  br label %each
over:
  ret void
each:
  %i = phi i64 [ 0, %begin ], [ %i.next, %moved ]
  %more = icmp ult i64 %i, {chunks}
  br i1 %more, label %chunk, label %next
chunk:
  %y0 = urem i64 %i, %chunks0
  %number = udiv i64 %i, %chunks0
{row}  %x = mul i64 %y0, %per
  %k0 = add i64 %c0, %x
  %k0.bytes = shl i64 %k0, %log2
  %far.at = add i64 {start}, %k0.bytes
  %far = {pointer("global", "%far.at")}
  %step = shl i64 %i, 4
  %flat = add i64 %near, %step
  %lines = lshr i64 %flat, 7
  %turn = and i64 %lines, %turned
  %turn.bytes = shl i64 %turn, 4
  %place = xor i64 %flat, %turn.bytes
  %close = getelementptr i8, ptr %base, i64 %place
  %begins = icmp ult i64 %k0, %dim0
  %k0.end = add i64 %k0, %per
  %ends = icmp ule i64 %k0.end, %dim0
  %both = and i1 %begins, {fits}
  %whole = and i1 {inside}, %both
  br i1 %whole, label %move, label %{otherwise}
move:
{_mark(helpers, marks) if marks else ""}\
  call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 16, i1 false)
  br label %moved
{edge}moved:
  %i.next = add i64 %i, 1
  br label %each
}}
"""
