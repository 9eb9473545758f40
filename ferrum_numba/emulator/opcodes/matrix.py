"""Matrix instructions of a warp. Source: PTX ISA, "Warp Level Matrix Instructions"."""

from __future__ import annotations

from collections.abc import Sequence

from ...ptx_text import Opcode
from .. import table
from ..builder import Builder
from ..hooks import Access
from ..layout import LANES
from ..ptx import Instruction, Operand, elements_of
from ..runtime.tiles import ELEMENTS, number_type, plane_bytes
from ..table import rows_of
from ..values import Value
from .convert import narrowed, widened
from .integer import expect
from .memory import address_of

lowers = rows_of("tensor")

Registers = Sequence[Operand | None]
_TILES = "sync aligned m8n8 x1 x2 x4 trans shared shared::cta"


def fragment_of(ins: Instruction, operand: Operand, count: int) -> tuple[Operand | None, ...]:
    """The registers of a fragment, of which there must be `count`."""
    elements = elements_of(operand)
    if len(elements) != count:
        raise ins.refuse(f"expected {count} registers, found {len(elements)}")
    return elements


def check_whole_warp(ins: Instruction, b: Builder, operands: int) -> None:
    """Refuse a guard and another number of operands; all lanes must come here together."""
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


@lowers(
    "ldmatrix",
    types=("b16",),
    modifiers=_TILES,
    varying=True,
    accesses=("ldmatrix",),
    operands="b32",
)
def load_matrix(b: Builder, ins: Instruction) -> None:
    check_whole_warp(ins, b, 2)
    count, trans = _tile_form(ins)
    targets = fragment_of(ins, ins.operands[0], count)
    address = b.vector(address_of(b, ins, ins.operands[1], "shared"))
    address = b.hooks.rows(b, ins, address, count, "load")
    place = b.room_for(targets)
    name = f"ldmatrix_{count}{trans}"
    b.call(name, "void", "ptr %shared", address, f"ptr {b.at(*place)}")
    b.hold(targets, place)


@lowers(
    "stmatrix",
    types=("b16",),
    modifiers=_TILES,
    writes=0,
    accesses=("stmatrix",),
    operands="b32",
)
def store_matrix(b: Builder, ins: Instruction) -> None:
    check_whole_warp(ins, b, 2)
    count, trans = _tile_form(ins)
    place = b.scratch(128 * count)
    for i, source in enumerate(fragment_of(ins, ins.operands[1], count)):
        b.store(b.vector(b.integer(source, 32, ins)), place, 128 * i, 64)
    address = b.vector(address_of(b, ins, ins.operands[0], "shared"))
    address = b.hooks.rows(b, ins, address, count, "store")
    b.call(f"stmatrix_{count}{trans}", "void", "ptr %shared", address, f"ptr {place}")
    b.hooks.stored(b, Access(ins, "shared", address, 16, "store"))


# -- mma ------------------------------------------------------------------------------------------

_SHAPES = {"m16n8k4": 4, "m16n8k8": 8, "m16n8k16": 16, "m16n8k32": 32}
_SUMS: dict[str, tuple[str, ...]] = {
    "f16": ("f16", "f32"),
    "e4m3": ("f16", "f32"),
    "e5m2": ("f16", "f32"),
}
_SUMS |= {"bf16": ("f32",), "tf32": ("f32",), "s8": ("s32",), "u8": ("s32",)}


_FRAGMENTS = {"f16": "f16x2", "bf16": "bf16x2", "tf32": "f32", "f64": "f64"}


def types_of_product(opcode: Opcode) -> list[str]:
    """Types of the registers of D, A, B and, of mma, C, which hold one or more elements each."""
    to, *factors = opcode.types[:3]
    sums = {"f16": "f16x2"}.get(to, to)
    packed = [_FRAGMENTS.get(kind, "b32") for kind in factors]
    return [sums, *packed, sums if opcode.base == "mma" else "b32"]


@lowers(
    "mma",
    modifiers=f"sync aligned row col satfinite {' '.join(_SHAPES)}",
    varying=True,
    operands=types_of_product,
)
def multiply_matrices(b: Builder, ins: Instruction) -> None:
    """D = A B + C. Products are exact, sums in binary32, in another order than the GPU's.

    Sums of integers are exact; with .satfinite the addition of C saturates.
    """
    check_whole_warp(ins, b, 4)
    kind, kind_b, k = _form(ins)
    group = [ins, *_partner(b, ins)]
    tiles = [_prepared(b, other, 2, kind_b, k) for other in group]
    a = _prepared(b, ins, 1, kind, k)
    sums = [(sums_of(other, 0, 4), sums_of(other, 3, 4)) for other in group]
    multiply_tiles(b, ins, kind, k, a, [(t, *s) for t, s in zip(tiles, sums, strict=True)])
    b.lowered.update(group)


def are_multiplied(kind: str, kind_b: str) -> bool:
    """True if A and B may have these types: of 8 bits there are two that go together."""
    return kind == kind_b or {kind, kind_b} in ({"e4m3", "e5m2"}, {"s8", "u8"})


def _form(ins: Instruction) -> tuple[str, str, int]:
    """The types of A and B, and k."""
    shapes = [m for m in ins.opcode.modifiers if m in _SHAPES]
    to, kind, kind_b, source = (*ins.opcode.types, "", "", "", "")[:4]
    if len(ins.opcode.types) == 4 and len(shapes) == 1 and {kind, kind_b} <= _SUMS.keys():
        k = _SHAPES[shapes[0]]
        per_register = 4 * ELEMENTS[kind]
        fits = k in (per_register, 2 * per_register) and are_multiplied(kind, kind_b)
        if fits and to == source and to in _SUMS[kind]:
            return kind, kind_b, k
    raise ins.refuse(
        "the CPU device has m16n8 with k of 4, 8 .tf32; 8, 16 .f16, .bf16; 16, 32 .s8, .u8, .e4m3,"
        " .e5m2, and .f64"
    )


def _partner(b: Builder, ins: Instruction) -> list[Instruction]:
    """The next instruction, where it multiplies the same A and needs nothing of this one.

    Two products at once halve the work of spreading A over the lanes.
    """
    if not b.upcoming or b.hooks.stepwise:
        return []
    other = b.upcoming[0]
    same = (other.opcode, other.guard) == (ins.opcode, None) and len(other.operands) == 4
    if not same or other.operands[1] != ins.operands[1]:
        return []
    return [] if set(table.read(other)) & set(table.written(ins)) else [other]


def _prepared(b: Builder, ins: Instruction, position: int, kind: str, k: int) -> str:
    """Address of A (position 1) or B (2) as numbers."""
    registers = k // (4 * ELEMENTS[kind])
    letter, count = ("a", 2 * registers) if position == 1 else ("b", registers)
    operands = fragment_of(ins, ins.operands[position], count)
    if places := b.held_apart(operands):
        return prepared(b, letter, kind, places, held=True)
    values = [b.vector(b.integer(operand, 32, ins)) for operand in operands]
    return prepared(b, letter, kind, values)


def prepared(
    b: Builder, letter: str, kind: str, values: Sequence[Value], held: bool = False
) -> str:
    """Address of the registers of "a" or "b" as numbers; made once for all that multiply them.

    held: whether the values are addresses of the registers.
    """
    key = (letter, kind, *values)
    if key not in b.prepared:
        place = b.scratch(plane_bytes(kind, len(values)) + 64)
        name = f"prepare_{letter}_{kind}_{len(values)}{'_held' if held else ''}"
        b.call(name, "void", f"ptr {place}", *values)
        b.prepared[key] = place
    return b.prepared[key]


def multiply_tiles(
    b: Builder,
    ins: Instruction,
    kind: str,
    k: int,
    a: str,
    tiles: Sequence[tuple[str, Registers, Registers]],
) -> None:
    """D = C + A B of tiles of 8 columns beside each other: B as numbers, and registers of D, C.

    C and D stay in memory where they can, since most products add to those before them.
    """
    number, per_register = number_type(kind), ELEMENTS[kind]
    saturates = number == "i32" and "satfinite" in ins.opcode.modifiers
    plain = ins.opcode.types[0] != "f16" and not saturates
    triples, ends = [], []
    for place, to, source in tiles:
        start = b.held(source) if plain else None
        if start is None:
            start = b.scratch(512), 0
            for i, value in enumerate(accumulators(b, ins, source)):
                b.store(_zero(b) if saturates else value, b.at(*start), 128 * i, 64)
        ends.append(b.room_for(to) if plain else start)
        triples += [place, b.at(*start), b.at(*ends[-1])]
    name = f"mma_{'int' if number == 'i32' else 'float'}_{per_register}_{k // (4 * per_register)}"
    b.call(f"{name}_{len(tiles)}", "void", *(f"ptr {place}" for place in (a, *triples)))
    for (_, to, source), end in zip(tiles, ends, strict=True):
        if plain:
            b.hold(to, end)
            continue
        results = [b.load(number, LANES, b.at(*end), 128 * i, 64) for i in range(4)]
        if saturates:
            before = accumulators(b, ins, source)
            results = [added(b, ins, *pair) for pair in zip(before, results, strict=True)]
        write_results(b, ins, to, results)


def _zero(b: Builder) -> Value:
    return b.vector(b.constant("i32", 0))


def sums_of(ins: Instruction, position: int, count: int) -> Registers:
    """The registers of C or D, of which a lane has `count` numbers."""
    per_register = 2 if ins.opcode.types[0] == "f16" else 1
    return fragment_of(ins, ins.operands[position], count // per_register)


def accumulators(b: Builder, ins: Instruction, registers: Registers) -> list[Value]:
    """The numbers that a lane has of C: floats, or integers."""
    sums = ins.opcode.types[0]
    if sums == "s32":
        return [b.vector(b.integer(element, 32, ins)) for element in registers]
    if sums == "f32":
        return [b.vector(b.real(element, "float", ins)) for element in registers]
    values = []
    for element in registers:
        pair = b.split(b.vector(b.integer(element, 32, ins)), "half")
        values += [widened(b, b.shuffle(pair, None, range(h, 2 * LANES, 2))) for h in (0, 1)]
    return values


def added(b: Builder, ins: Instruction, c: Value, product: Value) -> Value:
    """The sum of integers, which wraps or saturates."""
    if "satfinite" in ins.opcode.modifiers:
        return b.intrinsic("llvm.sadd.sat", c, product)
    return b.op("add", c, product)


def write_results(
    b: Builder, ins: Instruction, registers: Registers, results: Sequence[Value]
) -> None:
    """Write D, in the type that the instruction names first."""
    if ins.opcode.types[0] != "f16":
        for operand, value in zip(registers, results, strict=True):
            b.write(operand, value, ins)
        return
    halves = [narrowed(b, value, "half") for value in results]
    mix = [i for lane in range(LANES) for i in (lane, LANES + lane)]
    for i, operand in enumerate(registers):
        pair = b.shuffle(halves[2 * i], halves[2 * i + 1], mix)
        b.write(operand, b.join(pair, "i32"), ins)


@lowers(
    "mma",
    types=("f64",),
    modifiers="sync aligned row col m8n8k4 m16n8k4 m16n8k8 m16n8k16",
    varying=True,
    operands=types_of_product,
)
def multiply_doubles(b: Builder, ins: Instruction) -> None:
    """Elements in registers as for the other types; of m8n8k4 the lower half is not there."""
    check_whole_warp(ins, b, 4)
    shapes = [m for m in ins.opcode.modifiers if m[0] == "m"]
    if len(shapes) != 1 or set(ins.opcode.types) != {"f64"}:
        raise ins.refuse("expected one shape, and .f64 four times")
    rows, registers = (1 if "m8n8k4" in shapes else 2), int(shapes[0].rpartition("k")[2]) // 4
    counts = (2 * rows, rows * registers, registers, 2 * rows)
    groups = [fragment_of(ins, o, n) for o, n in zip(ins.operands, counts, strict=True)]
    a, columns, sums = (
        [b.vector(b.real(element, "double", ins)) for element in group] for group in groups[1:]
    )
    for k in range(4 * registers):
        j, t = divmod(k, 4)
        spread = [
            b.shuffle(a[j * rows + i], None, [lane // 4 * 4 + t for lane in range(LANES)])
            for i in range(rows)
        ]
        for odd in (0, 1):
            places = [(lane % 4 * 2 + odd) * 4 + t for lane in range(LANES)]
            column = b.shuffle(columns[j], None, places)
            for i in range(rows):
                place = 2 * i + odd
                sums[place] = b.intrinsic("llvm.fma", spread[i], column, sums[place])
    for operand, value in zip(groups[0], sums, strict=True):
        b.write(operand, value, ins)
