"""Matrix products of a warp group: four warps, 64 rows.

They are done at once, by each warp for its 16 rows, so that fences and waits matter to checks only.
Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
"""

from __future__ import annotations

import re

from ..builder import Builder, Place
from ..layout import LANES, WARP
from ..ptx import Address, Group, Immediate, Instruction, Operand
from ..runtime.tiles import ELEMENTS, number_type
from ..table import rows_of
from ..values import Value
from .integer import expect
from .matrix import (
    Registers,
    accumulators,
    added,
    are_multiplied,
    check_whole_warp,
    fragment_of,
    sums_of,
    types_of_product,
    write_results,
)

lowers = rows_of("tensor")

_SHAPE = re.compile(r"m64n(\d+)k(\d+)")
_SHAPES = " ".join(f"m64n{n}k{k}" for n in range(8, 257, 8) for k in (8, 16, 32))
_ORDERS = "fence commit_group wait_group sync aligned"
_SUMS: dict[str, tuple[str, ...]] = {
    "f16": ("f16", "f32"),
    "bf16": ("f32",),
    "tf32": ("f32",),
    "s8": ("s32",),
}
_SUMS |= {"u8": ("s32",), "e4m3": ("f16", "f32"), "e5m2": ("f16", "f32")}


@lowers("wgmma", types=("",), modifiers=_ORDERS, writes=0, orders=True)
def order(b: Builder, ins: Instruction) -> None:
    """wgmma.fence, .commit_group, .wait_group."""
    if len(ins.opcode.modifiers & {"fence", "commit_group", "wait_group"}) != 1:
        raise ins.refuse("expected one of .fence, .commit_group, .wait_group")
    expect(ins, 1 if "wait_group" in ins.opcode.modifiers else 0)
    b.hooks.orders_products(b, ins)


@lowers(
    "wgmma",
    types=_SUMS,
    modifiers=f"mma_async sync aligned satfinite {_SHAPES}",
    varying=True,
    accumulates=True,
    orders=True,
    operands=types_of_product,
)
def multiply(b: Builder, ins: Instruction) -> None:
    """D = A B + D, or A B where the scale of D is false."""
    kind, kind_b, n = _form(ins)
    a_form, b_form, scale = _operands(ins, kind)
    check_whole_warp(ins, b, len(ins.operands))
    b.hooks.product(b, ins)
    number, registers, old = number_type(kind), sums_of(ins, 0, n // 2), []
    if ins.opcode.types[0] == "f32":
        place = _in_place(b, ins, scale, registers)
    else:
        place = b.scratch(64 * n), 0
        old = _kept(b, ins, scale, registers)
        for i, value in enumerate(old):
            zero = b.vector(b.constant("i32", 0))
            b.store(zero if number == "i32" else value, place[0], 128 * i, 64)
    warp = b.load("i32", 1, "%ctx", WARP, 4)
    row = b.op("shl", b.op("and", warp, 3), 4)
    a, in_a = "i64 0", "ptr null"
    if a_form == "r":
        in_a = f"ptr {_registers(b, ins)}"
    else:
        value = _descriptor(b, ins, ins.operands[1])
        a = str(b.hooks.descriptor(b, ins, value, f"a_{a_form}", 16, row))
    name = f"wgmma_{kind}_{kind_b}_{n}_{a_form}_{b_form}"
    descriptor = _descriptor(b, ins, ins.operands[2])
    descriptor = b.hooks.descriptor(b, ins, descriptor, f"b_{b_form}", n, b.constant("i32", 0))
    b.call(name, "void", "ptr %shared", row, a, in_a, descriptor, f"ptr {b.at(*place)}")
    if ins.opcode.types[0] == "f32":
        return b.hold(registers, place)
    results = [b.load(number, LANES, place[0], 128 * i, 64) for i in range(n // 2)]
    if number == "i32":
        results = [added(b, ins, *pair) for pair in zip(old, results, strict=True)]
    return write_results(b, ins, registers, results)


def _form(ins: Instruction) -> tuple[str, str, int]:
    """The types of A and B, and n."""
    to, kind, other = (*ins.opcode.types, "", "", "")[:3]
    shapes = [found for m in ins.opcode.modifiers if (found := _SHAPE.fullmatch(m))]
    matched = len(ins.opcode.types) == 3 and are_multiplied(kind, other) and kind in _SUMS
    if matched and len(shapes) == 1:
        n, k = int(shapes[0][1]), int(shapes[0][2])
        if to in _SUMS[kind] and k == 8 * ELEMENTS[kind]:
            return kind, other, n
    raise ins.refuse("the CPU device has k of 8 .tf32; 16 .f16, .bf16; 32 .s8, .u8, .e4m3, .e5m2")


def _operands(ins: Instruction, kind: str) -> tuple[str, str, Operand]:
    """Places of A and B (see runtime/wgmma.py), and the operand that says whether D is added."""
    if len(ins.operands) < 4:
        raise ins.refuse(f"expected at least 4 operands, found {len(ins.operands)}")
    in_registers = isinstance(ins.operands[1], Group)
    scale, *rest = ins.operands[3:]
    numbers = [o.bits if isinstance(o, Immediate) else None for o in rest]
    signs = 0 if kind in ("s8", "u8") else 2
    transposes = (1 if in_registers else 2) if kind in ("f16", "bf16") else 0
    if len(numbers) != signs + transposes:
        raise ins.refuse(f"expected {4 + signs + transposes} operands, found {len(ins.operands)}")
    if any(number != 1 for number in numbers[:signs]):
        raise ins.refuse("the CPU device does not negate A or B")
    flags = numbers[signs:]
    if not {*flags} <= {0, 1}:
        raise ins.refuse("expected 0 or 1 for a transposed operand")
    majors = ["mn" if flag else "k" for flag in flags] or ["k", "k"]
    return "r" if in_registers else majors[0], majors[-1], scale


def _in_place(b: Builder, ins: Instruction, scale: Operand, registers: Registers) -> Place:
    """Memory of the floats of D that the product is added to, and where it stays."""
    place = b.room_for(registers)
    keep = b.constant("i1", scale.bits) if isinstance(scale, Immediate) else b.predicate(scale, ins)
    if b.held(registers) == place and keep.n == 1:
        with b.when(b.invert(keep)):
            room = Value(b.at(*place), "ptr")
            b.clear_bytes(room, b.constant("i64", 128 * len(registers)))
    else:
        for i, value in enumerate(_kept(b, ins, scale, registers)):
            b.store(value, b.at(*place), 128 * i, 64)
    return place


def _kept(b: Builder, ins: Instruction, scale: Operand, registers: Registers) -> list[Value]:
    """The numbers of D that the product is added to."""
    is_whole = ins.opcode.types[0] == "s32"
    zero = b.vector(Value("0", "i32") if is_whole else Value("0.0", "float"))
    old = accumulators(b, ins, registers)
    if isinstance(scale, Immediate):
        return old if scale.bits else [zero] * len(old)
    keep = b.predicate(scale, ins)
    return [b.select(keep, value, zero) for value in old]


def _registers(b: Builder, ins: Instruction) -> str:
    place = b.scratch(512)
    for i, element in enumerate(fragment_of(ins, ins.operands[1], 4)):
        b.store(b.vector(b.integer(element, 32, ins)), place, 128 * i, 64)
    return place


def _descriptor(b: Builder, ins: Instruction, operand: Operand) -> Value:
    """A descriptor; all lanes have the same."""
    if isinstance(operand, Address):
        raise ins.refuse("expected a descriptor, not an address")
    value = b.integer(operand, 64, ins)
    return value if value.n == 1 else b.element(value, 0)
