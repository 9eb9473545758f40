"""Integers of several words: sums, differences and products with a carry.

The parser makes the carry flag CC.CF a predicate register: beside the destination where it is
written (.cc), the last operand where it is read (addc, subc, madc).
Source: PTX ISA, "Extended-Precision Integer Arithmetic Instructions".
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Group, Instruction
from ..table import lowers
from ..values import Value
from .integer import expect, integers, product, width

_TYPES = ("u32", "s32", "b32", "u64", "s64", "b64")


@lowers("addc", "subc", types=_TYPES, modifiers="cc")
def with_carry(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    x, y = integers(b, ins, 1, 3)
    finish(b, ins, x, y, b.predicate(ins.operands[3], ins))


@lowers("madc", types=_TYPES, modifiers="lo hi cc")
def multiply_with_carry(b: Builder, ins: Instruction) -> None:
    expect(ins, 5)
    x, y, z = integers(b, ins, 1, 4)
    finish(b, ins, product(b, ins, x, y), z, b.predicate(ins.operands[4], ins))


def finish(b: Builder, ins: Instruction, x: Value, y: Value, carry: Value | None = None) -> None:
    """Write x + y + carry, or x - y - carry, and the carry out where the instruction says .cc."""
    subtracts = ins.opcode.base.startswith("sub")
    name = "sub" if subtracts else "add"
    value = b.op(name, x, y)
    out = b.compare("icmp ult", x, y) if subtracts else b.compare("icmp ult", value, x)
    if carry is not None:
        one = b.cast("zext", carry, f"i{width(ins.opcode.type)}")
        first, value = value, b.op(name, value, one)
        pair = (first, one) if subtracts else (value, first)
        out = b.op("or", out, b.compare("icmp ult", *pair))
    if "cc" not in ins.opcode.modifiers:
        return b.write(ins.operands[0], value, ins)
    target = ins.operands[0]
    assert isinstance(target, Group)
    b.write(target.elements[0], value, ins)
    return b.write(target.elements[1], out, ins)
