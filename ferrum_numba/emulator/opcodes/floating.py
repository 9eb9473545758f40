"""Floating-point arithmetic of 32 and 64 bits.

Roundings other than to nearest even are refused.  No two operations are fused: .rn forbids it,
and for those without it PTX leaves it open.  NaN payloads are the host's.
Source: PTX ISA, "Floating-Point Instructions".
"""

from __future__ import annotations

import math
import struct

from ..builder import Builder, Value, bits_of
from ..ptx import Instruction
from ..table import FLOATS, lowers
from .convert import saturated
from .integer import expect

_KINDS = {"f32": "float", "f64": "double"}


def reals(b: Builder, ins: Instruction, first: int = 1) -> list[Value]:
    """The operands from `first` on; denormals become zero where the instruction says .ftz."""
    kind = _KINDS[ins.opcode.type]
    values = [b.real(operand, kind, ins) for operand in ins.operands[first:]]
    return [b.flush(v) for v in values] if "ftz" in ins.opcode.modifiers else values


def finish(b: Builder, ins: Instruction, value: Value) -> None:
    """Write a result, flushed and saturated as the instruction says."""
    if "ftz" in ins.opcode.modifiers:
        value = b.flush(value)
    if "sat" in ins.opcode.modifiers:
        value = saturated(b, value)
    b.write(ins.operands[0], value, ins)


@lowers("add", "sub", "mul", types=FLOATS, modifiers="rn ftz sat")
def arithmetic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    finish(b, ins, b.op("f" + ins.opcode.base, *reals(b, ins)))


@lowers("fma", "mad", types=FLOATS, modifiers="rn ftz sat")
def fused(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    finish(b, ins, b.intrinsic("llvm.fma", *reals(b, ins)))


@lowers("div", types=FLOATS, modifiers="rn full approx ftz")
def divide(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    finish(b, ins, b.op("fdiv", *reals(b, ins)))


@lowers("neg", types=FLOATS, modifiers="ftz")
def negate(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = reals(b, ins)
    finish(b, ins, Value(b.emit(f"fneg {x}"), x.type, x.n))


@lowers("abs", types=FLOATS, modifiers="ftz")
def absolute(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    finish(b, ins, b.intrinsic("llvm.fabs", *reals(b, ins)))


@lowers("min", "max", types=FLOATS, modifiers="ftz NaN")
def extremum(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    finish(b, ins, extreme(b, ins, *reals(b, ins)))


def extreme(b: Builder, ins: Instruction, x: Value, y: Value) -> Value:
    """min or max: of a number and NaN the number, with .NaN the NaN; -0 is less than +0.

    Spelt out, because llvm.minimumnum and llvm.maximumnum give wrong results in LLVM 20.
    """
    least = ins.opcode.base == "min"
    first = b.compare("fcmp olt" if least else "fcmp ogt", x, y)
    value = b.select(b.op("or", first, b.compare("fcmp uno", y, y)), x, y)
    bits = f"i{bits_of(x.type)}"
    # Of equal numbers only zeros can differ, by the sign bit.
    both = b.op("or" if least else "and", b.bitcast(x, bits), b.bitcast(y, bits))
    value = b.select(b.compare("fcmp oeq", x, y), b.bitcast(both, x.type), value)
    if "NaN" not in ins.opcode.modifiers:
        return value
    nan = Value("0x7FF8000000000000", x.type)
    return b.select(b.compare("fcmp uno", x, y), nan, value)


@lowers("copysign", types=FLOATS)
def copy_sign(b: Builder, ins: Instruction) -> None:
    """copysign d, a, b: the sign of a on b."""
    expect(ins, 3)
    sign, size = reals(b, ins)
    finish(b, ins, b.intrinsic("llvm.copysign", size, sign))


@lowers("rcp", types=FLOATS, modifiers="rn approx ftz")
def reciprocal(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = reals(b, ins)
    finish(b, ins, b.op("fdiv", Value("1.0", x.type), x))


@lowers("sqrt", "rsqrt", types=FLOATS, modifiers="rn approx ftz")
def square_root(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    root = b.intrinsic("llvm.sqrt", *reals(b, ins))
    if ins.opcode.base == "rsqrt":
        root = b.op("fdiv", Value("1.0", root.type), root)
    finish(b, ins, root)


_FUNCTIONS = {"ex2": "exp2", "lg2": "log2", "sin": "sin", "cos": "cos"}


@lowers(*_FUNCTIONS, types=("f32",), modifiers="approx ftz")
def function(b: Builder, ins: Instruction) -> None:
    """The host's own functions: closer to the true value than the GPU's approximations."""
    expect(ins, 2)
    finish(b, ins, b.intrinsic(f"llvm.{_FUNCTIONS[ins.opcode.base]}", *reals(b, ins)))


@lowers("tanh", types=("f32",), modifiers="approx")
def hyperbolic_tangent(b: Builder, ins: Instruction) -> None:
    """tanh |x| = 1 - 2 / (e^(2|x|) + 1), in double: exact enough for small x too."""
    expect(ins, 2)
    (x,) = reals(b, ins)
    size = b.cast("fpext", b.intrinsic("llvm.fabs", x), "double")
    (log2_e,) = struct.unpack("<Q", struct.pack("<d", 2 / math.log(2)))
    power = b.intrinsic("llvm.exp2", b.op("fmul", size, Value(f"0x{log2_e:016X}", "double")))
    one, two = Value("1.0", "double"), Value("2.0", "double")
    value = b.op("fsub", one, b.op("fdiv", two, b.op("fadd", power, one)))
    finish(b, ins, b.intrinsic("llvm.copysign", b.cast("fptrunc", value, "float"), x))
