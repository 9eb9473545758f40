"""Matrix instructions whose fragments only they know: wmma.load, wmma.mma, wmma.store.

Fragments lie in registers as those of mma.m16n8 do, B and the sums as two of them side by side; of
.f16, which has twice the registers, the second half repeats the first.
Source: PTX ISA, "Warp Level Matrix Instructions for wmma".
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ptx_text import Opcode
from ..builder import Builder
from ..hooks import Access
from ..layout import LANES
from ..ptx import Instruction, Operand
from ..runtime.tiles import ELEMENTS
from ..table import rows_of
from ..values import Value
from .matrix import (
    check_whole_warp,
    fragment_of,
    multiply_tiles,
    prepared,
    sums_of,
)
from .memory import address_of, load_lanes, space_of, store_lanes

lowers = rows_of("tensor")

_FACTORS = ("f16", "bf16", "tf32", "s8", "u8")
_SHAPES = {"m16n16k16": 16, "m16n16k8": 8}
_SPACES = "global shared shared::cta"
_FORM = f"sync aligned row col {' '.join(_SHAPES)}"
_SUMS = ("f32", "f16", "s32")


def _k_of(ins: Instruction, kind: str) -> int:
    """The extent K, which a factor's type decides; sums may go with either."""
    shapes = ins.opcode.modifiers & _SHAPES.keys()
    wanted = {"tf32": {"m16n16k8"}}.get(kind, {"m16n16k16"})
    if len(shapes) != 1 or (kind in _FACTORS and shapes != wanted):
        raise ins.refuse("the CPU device has .m16n16k16, and .m16n16k8 of .tf32")
    return _SHAPES[min(shapes)]


def _count(letter: str, kind: str) -> int:
    """Registers of a fragment as mma has it, of B and sums the two together."""
    if letter in "cd":
        return 4 if kind == "f16" else 8
    return 2 if kind in ("s8", "u8") else 4


def _elements(letter: str, kind: str) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """Register of each element of a fragment, its place there, and every lane's row and column."""
    lanes = [divmod(lane, 4) for lane in range(LANES)]
    per = 2 if letter in "cd" and kind == "f16" else 1 if letter in "cd" else ELEMENTS[kind]
    for register in range(_count(letter, kind)):
        for part in range(per):
            if letter == "a":
                rows = [g + 8 * (register & 1) for g, _ in lanes]
                columns = [t * per + part + 4 * per * (register >> 1) for _, t in lanes]
            elif letter == "b":
                half, its = divmod(register, _count(letter, kind) // 2)
                rows = [t * per + part + 4 * per * its for _, t in lanes]
                columns = [g + 8 * half for g, _ in lanes]
            else:
                half, its = divmod(register, _count(letter, kind) // 2)
                row, odd = (its, part) if per == 2 else divmod(its, 2)
                rows = [g + 8 * row for g, _ in lanes]
                columns = [2 * t + odd + 8 * half for _, t in lanes]
            yield register, part, rows, columns


def _places(
    b: Builder, ins: Instruction, letter: str, kind: str, space: str, operands: tuple[Operand, ...]
) -> Iterator[tuple[int, int, Value]]:
    """Registers, places there, and addresses of a fragment's elements. operands: [base], stride."""
    k = _k_of(ins, kind)
    by_rows = "row" in ins.opcode.modifiers
    extents = {"a": (16, k), "b": (k, 16)}.get(letter, (16, 16))
    stride = b.constant("i32", extents[by_rows])
    if len(operands) > 1:
        stride = b.integer(operands[1], 32, ins)
    base, nbytes = b.vector(address_of(b, ins, operands[0], space)), _nbytes(letter, kind)
    for register, part, rows, columns in _elements(letter, kind):
        far, near = (rows, columns) if by_rows else (columns, rows)
        offset = b.op("mul", b.numbers("i32", far), b.vector(stride))
        offset = b.op("mul", b.op("add", offset, b.numbers("i32", near)), nbytes)
        yield register, part, b.op("add", base, b.cast("sext", offset, base.type))


def _nbytes(letter: str, kind: str) -> int:
    return (2 if kind == "f16" else 4) if letter in "cd" else 4 // ELEMENTS[kind]


def _letter(ins: Instruction, letters: str) -> str:
    found = ins.opcode.modifiers & {*letters}
    if len(found) != 1 or not {"sync", "aligned"} <= ins.opcode.modifiers:
        raise ins.refuse(f"expected one of {', '.join(f'.{letter}' for letter in letters)}")
    return min(found)


@lowers(
    "wmma.load",
    types=(*_FACTORS, "f32", "s32"),
    modifiers=f"{_FORM} {_SPACES} a b c",
    varying=True,
    accesses=("load",),
    operands="b32",
)
def load(b: Builder, ins: Instruction) -> None:
    """wmma.load.{a, b, c} fragment, [address], stride."""
    check_whole_warp(ins, b, len(ins.operands))
    letter, kind, space = _letter(ins, "abc"), ins.opcode.type, space_of(ins)
    nbytes = _nbytes(letter, kind)
    registers: list[Value | None] = [None] * _count(letter, kind)
    for register, part, address in _places(b, ins, letter, kind, space, ins.operands[1:]):
        condition = b.hooks.access(b, Access(ins, space, address, nbytes, "load"), b.condition(ins))
        (value,) = load_lanes(b, space, address, 8 * nbytes, 1, condition)
        value = b.cast("zext", value, "i32")
        shifted = b.op("shl", value, 8 * nbytes * part) if part else value
        old = registers[register]
        registers[register] = shifted if old is None else b.op("or", old, shifted)
    twice = letter in "ab" and kind == "f16"
    values = registers * 2 if twice else registers
    targets = fragment_of(ins, ins.operands[0], len(values))
    for target, its in zip(targets, values, strict=True):
        assert its is not None
        b.write(target, its, ins)


@lowers(
    "wmma.store",
    types=_SUMS,
    modifiers=f"{_FORM} {_SPACES} d",
    writes=0,
    accesses=("store",),
    operands="b32",
)
def store(b: Builder, ins: Instruction) -> None:
    """wmma.store.d [address], fragment, stride."""
    check_whole_warp(ins, b, len(ins.operands))
    letter, kind, space = _letter(ins, "d"), ins.opcode.type, space_of(ins)
    nbytes = _nbytes(letter, kind)
    sources = fragment_of(ins, ins.operands[1], _count(letter, kind))
    words = [b.vector(b.integer(source, 32, ins)) for source in sources]
    place = (ins.operands[0], *ins.operands[2:])
    for register, part, address in _places(b, ins, letter, kind, space, place):
        at = Access(ins, space, address, nbytes, "store")
        condition = b.hooks.access(b, at, b.condition(ins))
        value = b.op("lshr", words[register], 8 * nbytes * part) if part else words[register]
        value = b.cast("trunc", value, f"i{8 * nbytes}")
        whole = store_lanes(b, space, address, [value], condition)
        b.hooks.stored(b, at, whole, condition)


def _types(opcode: Opcode) -> list[str]:
    """Types of the registers of D, A, B and C."""
    to, source = opcode.types[0], opcode.types[-1]
    kinds = {"f16": "f16x2"}
    return [kinds.get(to, to), "b32", "b32", kinds.get(source, source)]


@lowers(
    "wmma.mma",
    modifiers=f"mma {_FORM} satfinite",
    varying=True,
    operands=_types,
)
def multiply(b: Builder, ins: Instruction) -> None:
    """D = A B + C, as two mma.m16n8 do it. How A and B lay in memory does not matter any more."""
    check_whole_warp(ins, b, 4)
    kinds = ins.opcode.types
    kind, kind_b = kinds[1:3] if len(kinds) == 4 else ("f16", "f16")
    if kind not in _FACTORS or kind != kind_b or kinds[0] != kinds[-1]:
        raise ins.refuse("the CPU device has A and B of one type, and C and D of one type")
    k = _k_of(ins, kind)
    registers = k // (4 * ELEMENTS[kind])
    count = 8 if kind == "f16" else 2 * registers
    a, both = (
        [b.vector(b.integer(o, 32, ins)) for o in fragment_of(ins, ins.operands[i], count)]
        for i in (1, 2)
    )
    tiles = [prepared(b, "b", kind, both[i : i + registers]) for i in (0, registers)]
    a_place = prepared(b, "a", kind, a[: 2 * registers])
    to, source = (sums_of(ins, position, 8) for position in (0, 3))
    half = len(to) // 2
    parts = [slice(half), slice(half, None)]
    sums = [(tile, to[part], source[part]) for tile, part in zip(tiles, parts, strict=True)]
    multiply_tiles(b, ins, kind, k, a_place, sums)
