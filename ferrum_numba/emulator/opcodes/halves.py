"""Arithmetic of binary16 and bfloat16, one or two to a register.

Sums, differences, products and quotients of such are rounded right when computed in binary32 and
rounded again (24 >= 2 * 11 + 2 bits).  A fused multiply-add is where a factor is a power of two;
else its sum is rounded to odd in between.
Source: PTX ISA, "Half Precision Floating-Point Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

from ..builder import Builder
from ..ptx import Instruction, Operand, Register
from ..table import HALVES, rows_of
from ..values import Value
from .convert import at_least_zero, canonical, narrowed, narrowed_double, saturated, widened
from .floating import extreme, tanh
from .integer import expect
from .rounding import odd_sum

lowers = rows_of("half")


def values_of(b: Builder, ins: Instruction, first: int = 1) -> list[Value]:
    """The operands from `first` on, as half or bfloat in one common shape."""
    kind = "bfloat" if ins.opcode.type.startswith("b") else "half"
    operands = ins.operands[first:]
    if ins.opcode.type.endswith("x2"):
        return b.packed(operands, kind, ins)
    return b.together(*(b.real(operand, kind, ins) for operand in operands))


def in_floats(b: Builder, values: list[Value], operation: Callable[..., Value]) -> Value:
    """An operation computed in binary32 and rounded."""
    wide = (b.once(widened, value) for value in values)
    return narrowed(b, operation(*wide), values[0].type)


def finish(b: Builder, ins: Instruction, value: Value) -> None:
    """Write a result, saturated where the instruction says so; NaN is the canonical one."""
    value = canonical(b, value)
    if "sat" in ins.opcode.modifiers:
        value = saturated(b, value)
    _write(b, ins, value)


def _write(b: Builder, ins: Instruction, value: Value) -> None:
    if ins.opcode.type.endswith("x2"):
        value = b.join(value, "i32")
    b.write(ins.operands[0], value, ins)


@lowers("add", "sub", "mul", types=HALVES, modifiers="rn sat")
def arithmetic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    name = "f" + ins.opcode.base
    finish(b, ins, in_floats(b, values_of(b, ins), lambda x, y: b.op(name, x, y)))


@lowers("fma", types=HALVES, modifiers="rn sat relu")
def fused(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    values = values_of(b, ins)
    kind = values[0].type
    if kind == "half" and b.library.host.half_arithmetic:
        value = b.intrinsic("llvm.fma", *values)
    elif kind == "half":
        is_exact = any(_is_power_of_two(b, ins, operand) for operand in ins.operands[1:3])
        value = in_floats(b, values, lambda *v: _sum(b, is_exact, *v))
    else:  # its products pass the range of binary32
        x, y, z = (b.cast("fpext", widened(b, v), "double") for v in values)
        value = narrowed_double(b, _sum(b, False, x, y, z), kind)
    if "relu" in ins.opcode.modifiers:
        value = at_least_zero(b, value)
    finish(b, ins, value)


def _sum(b: Builder, is_exact: bool, x: Value, y: Value, z: Value) -> Value:
    """x * y + z, where products are exact; rounded to odd, unless that is exact enough."""
    return b.intrinsic("llvm.fma", x, y, z) if is_exact else odd_sum(b, b.op("fmul", x, y), z)


def _is_power_of_two(b: Builder, ins: Instruction, operand: Operand) -> bool:
    """True if halves are known to be normal powers of two."""
    if not isinstance(operand, Register):
        return False
    text = b.integer(operand, operand.bits, ins).text
    halves = [int(text) >> shift for shift in range(0, operand.bits, 16)] if text.isdigit() else []
    return bool(halves) and all(h & 0x3FF == 0 and 0 < h >> 10 & 31 < 31 for h in halves)


@lowers("neg", "abs", types=HALVES)
def sign(b: Builder, ins: Instruction) -> None:
    """The sign bit alone changes, also of NaN."""
    expect(ins, 2)
    (x,) = values_of(b, ins)
    bits = b.bitcast(x, "i16")
    if ins.opcode.base == "neg":
        bits = b.op("xor", bits, Value(_full("-32768", bits), "i16", bits.n))
    else:
        bits = b.op("and", bits, Value(_full("32767", bits), "i16", bits.n))
    _write(b, ins, b.bitcast(bits, x.type))


def _full(text: str, like: Value) -> str:
    return text if like.n == 1 else f"splat (i16 {text})"


@lowers("min", "max", types=HALVES, modifiers="NaN xorsign abs")
def extremum(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    finish(b, ins, in_floats(b, values_of(b, ins), lambda x, y: extreme(b, ins, x, y)))


@lowers("ex2", "tanh", types=HALVES, modifiers="approx ftz")
def function(b: Builder, ins: Instruction) -> None:
    """Computed in binary32 and rounded. (.ftz, which bfloat has, is for results below 2^-126.)"""
    expect(ins, 2)
    values = values_of(b, ins)

    def apply(x: Value) -> Value:
        if ins.opcode.base == "tanh":
            return tanh(b, x)
        flushed = "ftz" in ins.opcode.modifiers
        value = b.intrinsic("llvm.exp2", b.flush(x) if flushed else x)
        return b.flush(value) if flushed else value

    finish(b, ins, in_floats(b, values, apply))
