"""Two 16-bit integers in one register. Source: PTX ISA, "Integer Arithmetic Instructions"."""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..table import lowers
from .integer import expect

_PAIRS = ("u16x2", "s16x2")


@lowers("add", types=_PAIRS)
def add(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    x, y = b.packed(ins.operands[1:], "i16", ins)
    b.write(ins.operands[0], b.join(b.op("add", x, y), "i32"), ins)


@lowers("min", "max", types=_PAIRS, modifiers="relu")
def extremum(b: Builder, ins: Instruction) -> None:
    """.relu: negative results become zero."""
    expect(ins, 3)
    kind = ins.opcode.type[0]
    x, y = b.packed(ins.operands[1:], "i16", ins)
    value = b.intrinsic(f"llvm.{kind}{ins.opcode.base}", x, y)
    if "relu" in ins.opcode.modifiers:
        if kind == "u":
            raise ins.refuse(".relu is for .s16x2")
        value = b.intrinsic("llvm.smax", value, b.constant("i16", 0))
    b.write(ins.operands[0], b.join(value, "i32"), ins)
