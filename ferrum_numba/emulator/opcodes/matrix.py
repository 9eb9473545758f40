"""Matrix instructions of a warp. Source: PTX ISA, "Warp Level Matrix Instructions"."""

from __future__ import annotations

from .. import table
from ..builder import Builder, Value
from ..helpers.tiles import A_BYTES, B_BYTES
from ..layout import LANES
from ..ptx import Group, Instruction, Operand
from ..table import lowers
from .convert import narrowed, widened
from .integer import expect
from .memory import address_of

_TILES = "sync aligned m8n8 x1 x2 x4 trans shared shared::cta"


def _elements(ins: Instruction, operand: Operand, count: int) -> tuple[Operand | None, ...]:
    elements = operand.elements if isinstance(operand, Group) else (operand,)
    if len(elements) != count:
        raise ins.refuse(f"expected {count} registers, found {len(elements)}")
    return elements


def _check_whole_warp(ins: Instruction, b: Builder, operands: int) -> None:
    expect(ins, operands)
    if ins.guard is not None:
        raise ins.refuse("the CPU device has this only for the whole warp, without a guard")
    b.require_lanes(ins)


def _tile_form(ins: Instruction) -> tuple[int, str]:
    counts = [m for m in ("x1", "x2", "x4") if m in ins.opcode.modifiers]
    if len(counts) != 1 or not {"m8n8", "sync"} <= ins.opcode.modifiers:
        raise ins.refuse("the CPU device has .sync.aligned.m8n8 with .x1, .x2 or .x4")
    trans = "_trans" if "trans" in ins.opcode.modifiers else ""
    return int(counts[0][1:]), trans


@lowers("ldmatrix", types=("b16",), modifiers=_TILES, varying=True)
def load_matrix(b: Builder, ins: Instruction) -> None:
    _check_whole_warp(ins, b, 2)
    count, trans = _tile_form(ins)
    targets = _elements(ins, ins.operands[0], count)
    address = b.vector(address_of(b, ins, ins.operands[1], "shared"))
    place = b.scratch(128 * count)
    name = f"ldmatrix_{count}{trans}"
    b.call(name, "void", "ptr %shared", address, f"ptr {place}")
    for i, target in enumerate(targets):
        b.write(target, b.load("i32", LANES, place, 128 * i, 64), ins)


@lowers("stmatrix", types=("b16",), modifiers=_TILES, writes=0)
def store_matrix(b: Builder, ins: Instruction) -> None:
    _check_whole_warp(ins, b, 2)
    count, trans = _tile_form(ins)
    place = b.scratch(128 * count)
    for i, source in enumerate(_elements(ins, ins.operands[1], count)):
        b.store(b.vector(b.integer(source, 32, ins)), place, 128 * i, 64)
    address = b.vector(address_of(b, ins, ins.operands[0], "shared"))
    b.call(f"stmatrix_{count}{trans}", "void", "ptr %shared", address, f"ptr {place}")


_SHAPES = {"m16n8k16": 16, "m16n8k8": 8}


@lowers("mma", modifiers="sync aligned row col m16n8k16 m16n8k8", varying=True)
def multiply_matrices(b: Builder, ins: Instruction) -> None:
    """D = A B + C. Products are exact, sums in binary32, in another order than the GPU's."""
    _check_whole_warp(ins, b, 4)
    shapes = [m for m in ins.opcode.modifiers if m in _SHAPES]
    to, kind, kind_b, source = (*ins.opcode.types, "", "", "", "")[:4]
    forms = {("f32", "f16"), ("f32", "bf16"), ("f16", "f16")}
    whole = len(ins.opcode.types) == 4 and len(shapes) == 1
    if not whole or (to, kind) not in forms or (kind, to) != (kind_b, source):
        raise ins.refuse("the CPU device has m16n8k16 and m16n8k8 of .f16, and of .bf16 to .f32")
    k = _SHAPES[shapes[0]]
    group = [ins, *_partner(b, ins)]
    tiles = [_prepared(b, other, 2, kind, k) for other in group]
    place = b.scratch(512 * len(group))
    pointers = [place, _prepared(b, ins, 1, kind, k), *tiles]
    accumulators = [c for other in group for c in _accumulators(b, other, source)]
    places = [f"ptr {p}" for p in pointers]
    b.call(f"mma_{k}_{len(group)}", "void", *places, *accumulators)
    for n, other in enumerate(group):
        results = [b.load("float", LANES, place, 512 * n + 128 * i, 64) for i in range(4)]
        _write_result(b, other, results, to)
    b.lowered.update(group)


def _partner(b: Builder, ins: Instruction) -> list[Instruction]:
    """The next instruction, where it multiplies the same A and needs nothing of this one.

    Two products at once halve the work of spreading A over the lanes.
    """
    if not b.upcoming:
        return []
    other = b.upcoming[0]
    same = (other.opcode, other.guard) == (ins.opcode, None) and len(other.operands) == 4
    if not same or other.operands[1] != ins.operands[1]:
        return []
    return [] if set(table.read(other)) & set(table.written(ins)) else [other]


def _prepared(b: Builder, ins: Instruction, position: int, kind: str, k: int) -> str:
    """Where A (position 1) or B (2) lies as floats; made once for all mma that share it."""
    letter, count = ("a", k // 4) if position == 1 else ("b", k // 8)
    operands = _elements(ins, ins.operands[position], count)
    values = [b.vector(b.integer(operand, 32, ins)) for operand in operands]
    key = (letter, kind, *values)
    if key not in b.prepared:
        place = b.scratch(A_BYTES if letter == "a" else B_BYTES)
        name = f"prepare_{letter}_{kind}_{count}"
        b.call(name, "void", f"ptr {place}", *values)
        b.prepared[key] = place
    return b.prepared[key]


def _accumulators(b: Builder, ins: Instruction, source: str) -> list[Value]:
    if source == "f32":
        operands = _elements(ins, ins.operands[3], 4)
        return [b.vector(b.real(operand, "float", ins)) for operand in operands]
    values = []
    for operand in _elements(ins, ins.operands[3], 2):
        pair = b.split(b.vector(b.integer(operand, 32, ins)), "half")
        values += [widened(b, b.shuffle(pair, None, range(h, 2 * LANES, 2))) for h in (0, 1)]
    return values


def _write_result(b: Builder, ins: Instruction, results: list[Value], to: str) -> None:
    if to == "f32":
        for operand, value in zip(_elements(ins, ins.operands[0], 4), results, strict=True):
            b.write(operand, value, ins)
        return
    halves = [narrowed(b, value, "half") for value in results]
    mix = [i for lane in range(LANES) for i in (lane, LANES + lane)]
    for i, operand in enumerate(_elements(ins, ins.operands[0], 2)):
        pair = b.shuffle(halves[2 * i], halves[2 * i + 1], mix)
        b.write(operand, b.join(pair, "i32"), ins)
