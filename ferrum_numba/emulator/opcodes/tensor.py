"""Copies of boxes of a tensor by a tensor map, and the instructions that make such a map.

Copies are done at once, and maps are seen at once by all: their fences order nothing here.
Source: PTX ISA, "cp.async.bulk.tensor", "tensormap.replace", "tensormap.cp_fenceproxy".
"""

from __future__ import annotations

from typing import NamedTuple

from ..builder import Builder
from ..hooks import Access, Run
from ..hooks import Box as BoxOfLanes
from ..layout import LANES
from ..ptx import Box, Immediate, Instruction, Operand
from ..runtime.tensors import FIELDS, MARK, MARK_AT, REDUCED
from ..table import rows_of
from ..values import Value
from .cluster import each_target
from .integer import expect
from .mbarrier import change, place_of
from .memory import address_of

lowers = rows_of("async copy")

_MAP_BYTES = 128
_SPACES = "shared::cluster shared::cta global"
_RANKS = tuple(f"{rank}d" for rank in range(1, 6))
_FAULT = (
    "CTA {cta}, warp {warp}: no tensor map, or no place of a box, that the CPU device can take. It"
    " takes maps of tensormap.replace, or of fe.TensorMap, of the instruction's rank, with element"
    " strides of 1, no interleave and zeros as fill; boxes of 1 to 256 elements a dimension, whose"
    " rows are multiples of 16 bytes, no wider than the swizzle, and begin at multiples of 16 bytes"
    " in the tensor; strides and the tensor's address that are multiples of 16 bytes; places in"
    " shared memory that are multiples of 128 bytes; masks of CTAs that the cluster has; no"
    " negative coordinates where it stores; and where it combines numbers, of types that PTX has"
    " for the operation"
)


@lowers(
    "tensormap.replace",
    types=("b32", "b64"),
    modifiers=f"tile b1024 shared::cta global {' '.join(FIELDS)}",
    writes=0,
)
def replace(b: Builder, ins: Instruction) -> None:
    """Operands: [map], the index of a field that has one, and its new value."""
    fields = ins.opcode.modifiers & FIELDS.keys()
    if len(fields) != 1:
        raise ins.refuse(f"expected one of {', '.join(FIELDS)}")
    offset, bits, count = FIELDS[min(fields)]
    expect(ins, 3 if count else 2)
    if ins.opcode.type != f"b{bits}":
        raise ins.refuse(f"the field has {bits} bits")
    if count:
        index = ins.operands[1]
        if not isinstance(index, Immediate) or not 0 <= index.bits < count:
            raise ins.refuse(f"expected a literal from 0 to {count - 1} as the field's index")
        offset += index.bits * bits // 8
    space = "global" if "global" in ins.opcode.modifiers else "shared"
    address = b.vector(address_of(b, ins, ins.operands[0], space))
    value = b.integer(ins.operands[-1], bits, ins)
    _move(b, ins, space, address, offset, value)
    _move(b, ins, space, address, MARK_AT, b.constant("i32", MARK))


def _move(
    b: Builder, ins: Instruction, space: str, address: Value, offset: int, value: Value
) -> None:
    """Store a field of a map."""
    bits = 64 if value.type == "i64" else 32
    address = b.op("add", address, offset)
    at = Access(ins, space, address, bits // 8, "store")
    mask = b.mask(b.hooks.access(b, at, b.condition(ins)))
    b.call(f"store_{space}_{bits}", "void", "ptr %shared", address, b.vector(value), mask)


@lowers(
    "tensormap.cp_fenceproxy",
    modifiers="global shared::cta tensormap::generic release cta cluster gpu sys sync aligned",
    writes=0,
)
def publish(b: Builder, ins: Instruction) -> None:
    """Operands: [map in global memory], [map in shared memory], 128.  A lane copies four bytes."""
    expect(ins, 3)
    to, source, size = ins.operands
    if size != Immediate(_MAP_BYTES):
        raise ins.refuse(f"expected a size of {_MAP_BYTES} bytes")
    offsets = b.iota("i32", 4)
    near = b.op("add", b.vector(address_of(b, ins, source, "shared")), offsets)
    far = b.op("add", b.vector(address_of(b, ins, to, "global")), b.cast("zext", offsets, "i64"))
    condition = b.condition(ins)
    condition = b.hooks.access(b, Access(ins, "shared", near, 4, "load"), condition)
    condition = b.hooks.access(b, Access(ins, "global", far, 4, "store"), condition)
    mask = b.mask(condition)
    old = f"<{LANES} x i32> zeroinitializer"
    words = b.call("load_shared_32", f"<{LANES} x i32>", "ptr %shared", near, mask, old)
    moved = Value(words, "i32", LANES)
    b.call("store_global_32", "void", "ptr %shared", far, moved, mask)


@lowers(
    "cp.async.bulk.tensor",
    modifiers=f"{_SPACES} {' '.join(_RANKS)} tile mbarrier::complete_tx::bytes bulk_group"
    " level::cache_hint prefetch L2 multicast::cluster",
    writes=0,
    fault=_FAULT,
)
def copy(b: Builder, ins: Instruction) -> None:
    """Operands: [shared], [map, {coordinates}], [mbarrier], and with .multicast a mask of CTAs; or
    the first two turned round."""
    modifiers = ins.opcode.modifiers
    if "prefetch" in modifiers:  # changes no result
        return
    inward, spread = "mbarrier::complete_tx::bytes" in modifiers, "multicast::cluster" in modifiers
    least = (3 + spread) if inward else 2
    if inward == ("bulk_group" in modifiers) or len(ins.operands) < least or spread > inward:
        raise ins.refuse("the CPU device copies with an mbarrier to shared memory, or in a group")
    if inward:
        _fetch(b, ins, ins.operands[3] if spread else None)
    else:
        _send(b, ins, "out", *ins.operands[1::-1])


@lowers(
    "cp.reduce.async.bulk.tensor",
    modifiers=f"global shared::cta {' '.join(_RANKS)} tile bulk_group level::cache_hint"
    f" {' '.join(REDUCED)}",
    writes=0,
    fault=_FAULT,
)
def combine(b: Builder, ins: Instruction) -> None:
    """Operands: [map, {coordinates}], [shared]: each element by an atomic operation."""
    operations = ins.opcode.modifiers & REDUCED.keys()
    if len(operations) != 1 or "bulk_group" not in ins.opcode.modifiers or len(ins.operands) < 2:
        raise ins.refuse("expected one operation, such as .add, and .bulk_group")
    _send(b, ins, min(operations), *ins.operands[1::-1])


class _Found(NamedTuple):
    """A box that can be copied. name: of its functions; sizes: bytes of each lane's."""

    name: str
    box: BoxOfLanes
    sizes: Value
    mask: Value


def _found(b: Builder, ins: Instruction, way: str, shared: Operand, tensor: Operand) -> _Found:
    """Read maps and coordinates; stop for those that cannot be used."""
    near = b.vector(address_of(b, ins, shared, "shared"))
    rank, where, coordinates = _box(b, ins, tensor)
    mask = b.mask(b.condition(ins))
    map_bytes = b.vector(b.constant("i32", _MAP_BYTES))
    own = _in_params(b, where, mask)
    mask = b.hooks.far(b, Run(ins, where, map_bytes, "load"), b.op("xor", mask, own))
    mask = b.op("or", mask, own)
    found = b.scratch(4 * LANES)
    box = (near, where, coordinates)
    name = f"{way}_{rank}"
    good = Value(b.call(f"tensorbox_{name}", "i32", *box, mask, f"ptr {found}"), "i32")
    b.stop(ins, b.op("xor", mask, b.op("and", mask, good)))
    return _Found(name, box, b.load("i32", LANES, found, 0, 64), b.op("and", mask, good))


def _send(b: Builder, ins: Instruction, way: str, shared: Operand, tensor: Operand) -> None:
    """Copy a box to the tensor, or combine it (way: the operation) with it."""
    name, box, sizes, mask = _found(b, ins, way, shared, tensor)
    mask = b.hooks.near(b, Run(ins, box[0], sizes, "load"), mask)
    mask = b.hooks.box(b, ins, name, box, mask)
    marks, place = b.hooks.marks(ins, False)
    b.call(f"tensor_{name}{marks}", "void", "ptr %shared", *box, mask, *place)


def _fetch(b: Builder, ins: Instruction, members: Operand | None) -> None:
    """Copy a box to shared memory. members: the CTAs, as a mask; None: where the place is."""
    name, box, sizes, mask = _found(b, ins, "in", *ins.operands[:2])
    may_read = b.hooks.box(b, ins, name, box, mask)
    near, where, coordinates = box
    place = place_of(b, ins, ins.operands[2])
    come = b.op("sub", b.constant("i32", 0), sizes)
    with each_target(b, ins, members, mask) as (there, lanes):
        to = there(near)
        allowed = b.hooks.near(b, Run(ins, to, sizes, "store"), lanes)
        allowed = b.op("and", allowed, may_read)
        b.call(f"tensor_{name}", "void", "ptr %shared", to, where, coordinates, allowed)
        change(b, ins, there(place), nbytes=come, publishes="copies", among=lanes)


def _in_params(b: Builder, maps: Value, mask: Value) -> Value:
    """The lanes whose maps are parameters, handed over by value: no array is looked for there."""
    sizes = [offset + size for offset, size in b.params.values() if size >= _MAP_BYTES]
    if not sizes:
        return b.constant("i32", 0)
    offset = b.op("sub", maps, b.vector(b.params_start()))
    inside = b.compare("icmp ule", offset, max(sizes) - _MAP_BYTES)
    return b.op("and", b.mask(inside), mask)


def _box(b: Builder, ins: Instruction, operand: Operand) -> tuple[int, Value, str]:
    """The rank, the addresses of the maps, and the memory that holds the coordinates."""
    ranks = ins.opcode.modifiers & {*_RANKS}
    if len(ranks) != 1 or not isinstance(operand, Box):
        raise ins.refuse("expected a rank from .1d to .5d, and [map, {coordinates}]")
    rank = int(min(ranks)[0])
    if len(operand.coordinates.elements) != rank:
        raise ins.refuse(f"expected {rank} coordinates, found {len(operand.coordinates.elements)}")
    place = b.scratch(128 * rank)
    for d, element in enumerate(operand.coordinates.elements):
        b.store(b.vector(b.integer(element, 32, ins)), place, 128 * d, 64)
    return rank, b.vector(address_of(b, ins, operand.map, "global")), f"ptr {place}"
