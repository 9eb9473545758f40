"""Copies of boxes of a tensor, which a tensor map describes.

    tensorbox_<in|out>_<rank>(shared addresses, map addresses, coordinates, mask, out)
        -> the lanes whose box can be copied.  out: <32 x i32>, the bytes of each lane's box, 0
        where there is none
    tensor_<in|out|operation>_<rank>[_marks…](base, shared addresses, map addresses,
        coordinates, mask[, checks, ctx, site]): operation: an atomic one, by which numbers are
        combined with the tensor's; marks: what is written there is marked, for the checks

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

from dataclasses import dataclass

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Text, Value
from .access import ADDRESSES

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
# The types that an operation combines, as PTX ISA has them ("cp.reduce.async.bulk.tensor"); of each
# elemtype what an atomic operation calls it, "" where there is none of its own.
_KINDS = ("", "", "u32", "s32", "u64", "s64", "f16", "f32", "f32", "f64", "bf16", "", "")
REDUCED = {
    "add": ("u32", "s32", "u64", "f16", "f32", "f64", "bf16"),
    **dict.fromkeys(("min", "max"), ("u32", "s32", "u64", "s64", "f16", "bf16")),
    **dict.fromkeys(("inc", "dec"), ("u32",)),
    **dict.fromkeys(("and", "or", "xor"), ("u32", "s32", "u64", "s64")),
}
BOX = (VECTOR, ADDRESSES["global"], "ptr", "i32")
"""The arguments of functions of boxes: shared addresses, map addresses, coordinates, mask."""


def _field(r: Text, fields: Value, name: str, index: int = 0) -> Value:
    """A field of a map, as i64."""
    first, bits, _ = FIELDS[name]
    return r.cast("zext", r.load(f"i{bits}", 1, fields, first + index * bits // 8, 1), "i64")


@dataclass(frozen=True)
class Box:
    """A lane's box; all are i64.

    near: where it lies in shared memory.  fields: its map.  address: of the tensor.  log2: of the
    bytes of an element.  sizes, extents, strides, corner: of each dimension; strides in bytes, that
    of the first is not used.
    """

    near: Value
    fields: Value
    address: Value
    log2: Value
    swizzle: Value
    sizes: list[Value]
    extents: list[Value]
    strides: list[Value]
    corner: list[Value]

    @staticmethod
    def read(
        r: Routine, near: Value, map_address: Value, coordinates: Value, lane: Value, rank: int
    ) -> Box:
        """Read a lane's map and coordinates."""
        fields = r.pointer(map_address)
        kind = r.op("shl", _field(r, fields, "elemtype"), 2)
        corner = []
        for d in range(rank):
            row = Value(r.at(coordinates, 4 * LANES * d), "ptr")
            corner.append(r.cast("sext", r.load("i32", 1, r.item("i32", row, lane), 0, 4), "i64"))
        return Box(
            near=r.cast("sext", near, "i64"),  # of another CTA of the cluster it may be negative
            fields=fields,
            address=_field(r, fields, "global_address"),
            log2=r.op("and", r.op("lshr", r.constant("i64", _LOG2_WORD), kind), 15),
            swizzle=_field(r, fields, "swizzle_mode"),
            sizes=[_field(r, fields, "box_dim", d) for d in range(rank)],
            extents=[_field(r, fields, "global_dim", d) for d in range(rank)],
            strides=[_field(r, fields, "global_stride", max(d - 1, 0)) for d in range(rank)],
            corner=corner,
        )

    def row_bytes(self, r: Text) -> Value:
        """Bytes of a row, along the first dimension."""
        return r.op("shl", self.sizes[0], self.log2)

    def times_rows(self, r: Text, count: Value) -> Value:
        """A count for each row, times the rows."""
        for size in self.sizes[1:]:
            count = r.op("mul", count, size)
        return count

    def row(self, r: Text, number: Value) -> tuple[Value, Value]:
        """Condition that a row is in the tensor, and the place where it begins there."""
        inside, start = Value("true", "i1"), self.address
        for d in range(1, len(self.sizes)):
            k = r.op("add", self.corner[d], r.op("urem", number, self.sizes[d]))
            number = r.op("udiv", number, self.sizes[d])
            inside = r.op("and", r.compare("icmp ult", k, self.extents[d]), inside)
            start = r.op("add", start, r.op("mul", k, self.strides[d]))
        return inside, start


@routine("tensorbox")
def box(r: Routine, way: str, rank: str) -> None:
    shared, maps, coordinates, mask, out = r.takes(*BOX, "ptr")
    places, addresses = r.spread(shared), r.spread(maps)
    r.store(Value("zeroinitializer", "i32", LANES), out, 0, 64)
    lanes = r.each_lane(mask, r.constant("i32", 0))
    with lanes as (lane, good):
        its = Box.read(r, places(lane), addresses(lane), coordinates, lane, int(rank))
        nbytes = its.times_rows(r, its.row_bytes(r))
        r.store(r.cast("trunc", nbytes, "i32"), r.item("i32", out, lane), 0, 4)
        bit = r.op("shl", r.constant("i32", 1), lane)
        lanes.next(r.select(_is_usable(r, its, way, nbytes), r.op("or", good, bit), good))
    r.ret(lanes.results[0])


def _is_usable(r: Routine, box: Box, way: str, nbytes: Value) -> Value:
    """True if a map and the place of a box can be used."""
    rank, row = len(box.sizes), box.row_bytes(r)

    def field(name: str, index: int = 0) -> Value:
        return _field(r, box.fields, name, index)

    def multiple(value: Value, of: int) -> Value:
        return r.compare("icmp eq", r.op("and", value, of - 1), 0)

    loose = r.compare("icmp eq", box.swizzle, 0)
    span = r.op("shl", r.constant("i64", 16), box.swizzle)
    kinds = [i for i, kind in enumerate(_KINDS) if way not in REDUCED or kind in REDUCED[way]]
    known = r.op("lshr", r.constant("i64", sum(1 << i for i in kinds)), field("elemtype"))
    holds = [
        r.compare("icmp eq", r.load("i32", 1, box.fields, MARK_AT, 1), MARK),
        r.compare("icmp eq", field("rank"), rank - 1),
        r.compare("icmp ult", field("elemtype"), len(_LOG2)),
        r.cast("trunc", known, "i1"),
        r.compare("icmp eq", field("interleave_layout"), 0),
        r.compare("icmp eq", field("fill_mode"), 0),
        r.compare("icmp ule", box.swizzle, 3),
        r.compare("icmp ule", nbytes, _MOST_BYTES),
        multiple(row, 16),
        multiple(box.address, 16),
        multiple(box.near, 128),
        multiple(r.op("shl", box.corner[0], box.log2), 16),
        r.op("or", loose, r.compare("icmp ule", row, span)),
    ]
    for d in range(rank):
        holds.append(r.compare("icmp eq", field("element_stride", d), 1))
        holds.append(r.compare("icmp ult", r.op("add", box.sizes[d], -1), _LARGEST))
        if d:
            holds.append(multiple(box.strides[d], 16))
        if way != "in":
            holds.append(r.compare("icmp sge", box.corner[d], 0))
    good = holds[0]
    for condition in holds[1:]:
        good = r.op("and", good, condition)
    return good


@routine("tensor")
def tensor(r: Routine, way: str, rank: str, *marks: str) -> None:
    """Sixteen bytes at a time; on the way in byte by byte across the tensor's end."""
    base, shared, maps, coordinates, mask = r.takes("ptr", *BOX)
    looks = tuple(r.takes("ptr", "ptr", "i32")) if marks else ()
    places, addresses = r.spread(shared), r.spread(maps)
    lanes = r.each_lane(mask)
    with lanes as (lane,):
        its = Box.read(r, places(lane), addresses(lane), coordinates, lane, int(rank))
        chunks = r.op("lshr", its.row_bytes(r), 4)
        every = its.times_rows(r, chunks)
        per = r.op("lshr", r.constant("i64", 16), its.log2)
        turned = r.op("add", r.op("shl", r.constant("i64", 1), its.swizzle), -1)
        loop = r.loop(r.constant("i64", 0))
        with loop as (i,):
            loop.leave(r.compare("icmp uge", i, every))
            inside, start = its.row(r, r.op("udiv", i, chunks))
            first = r.op("add", its.corner[0], r.op("mul", r.op("urem", i, chunks), per))
            far_at = r.op("add", start, r.op("shl", first, its.log2))
            far = r.pointer(far_at)
            flat = r.op("add", its.near, r.op("shl", i, 4))
            turn = r.op("shl", r.op("and", r.op("lshr", flat, 7), turned), 4)
            close = r.item("i8", base, r.op("xor", flat, turn))
            more = r.op("add", i, 1)
            begins = r.compare("icmp ult", first, its.extents[0])
            if way == "in":
                end = r.op("add", first, per)
                ends = r.compare("icmp ule", end, its.extents[0])
                with r.when(r.op("and", inside, r.op("and", begins, ends))):
                    r.copy_bytes(close, far, r.constant("i64", 16))
                    loop.again(more)
                _edge(r, its, inside, first, far, close)
            else:
                with r.when(r.op("and", inside, begins)):
                    if marks:
                        access = "atomic" if way in REDUCED else "bulk"
                        _mark(r, access, marks[1:], lane, far_at, looks)
                    if way in REDUCED:
                        _combine(r, way, its, first, far_at, close)
                    else:
                        r.copy_bytes(far, close, r.constant("i64", 16))
            loop.again(more)


def _combine(r: Routine, operation: str, box: Box, first: Value, far: Value, close: Value) -> None:
    """Combine 16 bytes with the tensor's, one element after another; none outside of it."""
    kind = _field(r, box.fields, "elemtype")
    left = r.intrinsic("llvm.umin", r.op("sub", box.extents[0], first), r.constant("i64", 16))
    inside = r.op("add", r.op("shl", r.constant("i32", 1), r.cast("trunc", left, "i32")), -1)
    for number, name in enumerate(_KINDS):
        if name not in REDUCED[operation]:
            continue
        nbytes = 1 << _LOG2[number]
        item = f"i{8 * nbytes}"
        with r.when(r.compare("icmp eq", kind, number)):
            few = r.load(item, 16 // nbytes, close, 0, 1)
            values = r.shuffle(few, None, [i % few.n for i in range(LANES)])
            places = r.op("add", r.vector(far), r.iota("i64", nbytes))
            mask = r.op("and", inside, (1 << few.n) - 1)
            bits = operation in ("and", "or", "xor")
            symbol = f"atomic_{operation}_{f'b{8 * nbytes}' if bits else name}_global"
            r.call(symbol, values.full_type, "ptr null", places, values, values, mask)


def _mark(
    r: Routine,
    access: str,
    told: tuple[str, ...],
    lane: Value,
    address: Value,
    looks: tuple[Value, ...],
) -> None:
    """Have 16 bytes marked that a lane writes. access: "bulk" or "atomic"."""
    place = r.emit(f"insertelement <{LANES} x i64> poison, {address}, {lane}")
    bit = r.op("shl", r.constant("i32", 1), lane)
    name = "_".join(["marks", access, "16", *told])
    r.call(name, "void", Value(place, "i64", LANES), bit, *looks)


def _edge(r: Routine, box: Box, inside: Value, first: Value, far: Value, close: Value) -> None:
    """Byte by byte, zeros outside of the tensor."""
    zero = r.room("i8")
    r.store(r.constant("i8", 0), zero, 0, 1)
    loop = r.loop(r.constant("i64", 0))
    with loop as (j,):
        k = r.op("add", first, r.op("lshr", j, box.log2))
        there = r.op("and", inside, r.compare("icmp ult", k, box.extents[0]))
        source = r.select(there, r.item("i8", far, j), zero)
        r.store(r.load("i8", 1, source, 0, 1), r.item("i8", close, j), 0, 1)
        more = r.op("add", j, 1)
        loop.again_if(r.compare("icmp ne", more, 16), more)
