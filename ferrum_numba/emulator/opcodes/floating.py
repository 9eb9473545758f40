"""Floating-point arithmetic of 32 and 64 bits.

Roundings other than to nearest even are for .f32, and for sums of .f64.  No two operations are
fused: .rn forbids it, and for those without it PTX leaves it open.  NaN payloads are the host's.
Source: PTX ISA, "Floating-Point Instructions".
"""

from __future__ import annotations

import math
import struct

from ..builder import Builder
from ..layout import LANES
from ..ptx import Instruction
from ..routine import Routine, routine
from ..table import FLOATS, rows_of
from ..values import Text, Value, bits_of
from .convert import saturated
from .integer import expect
from .rounding import DIRECTED, rounded_sum
from .rounding import arithmetic as rounded

lowers = rows_of("float")

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


_ROUNDINGS = "rn rz rm rp"


def in_direction(b: Builder, ins: Instruction) -> bool:
    """Lower an operation with .rz, .rm or .rp; False for one without."""
    modes = ins.opcode.modifiers & DIRECTED
    if not modes:
        return False
    double = ins.opcode.type == "f64"
    if len(ins.opcode.modifiers & {"rn", *DIRECTED}) > 1 or (
        double and ins.opcode.base not in ("add", "sub")
    ):
        raise ins.refuse(
            "the CPU device has one of .rz, .rm, .rp for .f32, and to add and subtract .f64"
        )
    finish(b, ins, (rounded_sum if double else rounded)(b, ins, min(modes), reals(b, ins)))
    return True


@lowers("add", "sub", "mul", types=FLOATS, modifiers=f"{_ROUNDINGS} ftz sat")
def arithmetic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    if in_direction(b, ins):
        return
    finish(b, ins, b.op("f" + ins.opcode.base, *reals(b, ins)))


@lowers("fma", "mad", types=FLOATS, modifiers=f"{_ROUNDINGS} ftz sat")
def fused(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    if in_direction(b, ins):
        return
    finish(b, ins, b.intrinsic("llvm.fma", *reals(b, ins)))


@lowers("div", types=FLOATS, modifiers=f"{_ROUNDINGS} full approx ftz")
def divide(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    if in_direction(b, ins):
        return
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


@lowers("min", "max", types=FLOATS, modifiers="ftz NaN xorsign abs")
def extremum(b: Builder, ins: Instruction) -> None:
    """Extremum of two numbers, or on newer targets of three."""
    of_three = len(ins.operands) == 4 and ins.opcode.type == "f32"
    if of_three and "xorsign" not in ins.opcode.modifiers:
        values = reals(b, ins)
        if "abs" in ins.opcode.modifiers:
            values = [b.intrinsic("llvm.fabs", value) for value in values]
        x, y, z = values
        return finish(b, ins, _extreme(b, ins, _extreme(b, ins, x, y), z))
    expect(ins, 3)
    return finish(b, ins, extreme(b, ins, *reals(b, ins)))


def extreme(b: Builder, ins: Instruction, x: Value, y: Value) -> Value:
    """min or max: of a number and NaN the number, with .NaN the NaN; -0 is less than +0.

    .xorsign.abs: of the magnitudes, with the sign that the product would have.
    Spelt out, because llvm.minimumnum and llvm.maximumnum give wrong results in LLVM 20.
    """
    if ins.opcode.modifiers & {"xorsign", "abs"}:
        if not ins.opcode.modifiers >= {"xorsign", "abs"} or ins.opcode.type == "f64":
            raise ins.refuse("expected .xorsign.abs together, and not of .f64")
        value = _extreme(b, ins, *(b.intrinsic("llvm.fabs", v) for v in (x, y)))
        bits = f"i{bits_of(x.type)}"
        sign = b.bitcast(b.op("xor", b.bitcast(x, bits), b.bitcast(y, bits)), x.type)
        signed = b.intrinsic("llvm.copysign", value, sign)
        return b.select(b.compare("fcmp uno", value, value), value, signed)
    return _extreme(b, ins, x, y)


def _extreme(b: Builder, ins: Instruction, x: Value, y: Value) -> Value:
    least = ins.opcode.base == "min"
    first = b.compare("fcmp olt" if least else "fcmp ogt", x, y)
    value = b.select(b.op("or", first, b.compare("fcmp uno", y, y)), x, y)
    bits = f"i{bits_of(x.type)}"
    # Of equal numbers only zeros can differ, by the sign bit.
    both = b.op("or" if least else "and", b.bitcast(x, bits), b.bitcast(y, bits))
    value = b.select(b.compare("fcmp oeq", x, y), b.bitcast(both, x.type), value)
    if "NaN" not in ins.opcode.modifiers:
        return value
    nan = Value("0x7FFFFFFFE0000000" if x.type == "float" else "0x7FF8000000000000", x.type)
    return b.select(b.compare("fcmp uno", x, y), nan, value)


@lowers("add", "sub", "mul", "fma", types=("f32x2",), modifiers="rn ftz")
def packed(b: Builder, ins: Instruction) -> None:
    """Two floats side by side in each register."""
    count = 4 if ins.opcode.base == "fma" else 3
    expect(ins, count)
    words = b.together(*(b.integer(operand, 64, ins) for operand in ins.operands[1:]))
    values = [b.split(word, "float") for word in words]
    flushes = "ftz" in ins.opcode.modifiers
    if flushes:
        values = [b.flush(value) for value in values]
    fused = count == 4
    value = b.intrinsic("llvm.fma", *values) if fused else b.op("f" + ins.opcode.base, *values)
    b.write(ins.operands[0], b.join(b.flush(value) if flushes else value, "i64"), ins)


@lowers("copysign", types=FLOATS)
def copy_sign(b: Builder, ins: Instruction) -> None:
    """copysign d, a, b: the sign of a on b."""
    expect(ins, 3)
    sign, size = reals(b, ins)
    finish(b, ins, b.intrinsic("llvm.copysign", size, sign))


@lowers("rcp", types=FLOATS, modifiers=f"{_ROUNDINGS} approx ftz")
def reciprocal(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    if in_direction(b, ins):
        return
    (x,) = reals(b, ins)
    finish(b, ins, b.op("fdiv", Value("1.0", x.type), x))


@lowers("sqrt", "rsqrt", types=FLOATS, modifiers=f"{_ROUNDINGS} approx ftz")
def square_root(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    if ins.opcode.base == "sqrt" and in_direction(b, ins):
        return
    root = b.intrinsic("llvm.sqrt", *reals(b, ins))
    if ins.opcode.base == "rsqrt":
        root = b.op("fdiv", Value("1.0", root.type), root)
    finish(b, ins, root)


_FUNCTIONS = {"ex2": "exp2", "lg2": "log2", "sin": "sin", "cos": "cos"}


@lowers(*_FUNCTIONS, types=("f32",), modifiers="approx ftz")
@lowers("tanh", types=("f32",), modifiers="approx")
def function(b: Builder, ins: Instruction) -> None:
    """The host's own functions: closer to the true value than the GPU's approximations."""
    expect(ins, 2)
    x = b.real(ins.operands[1], "float", ins)
    how = (ins.opcode.base, *(ins.opcode.modifiers & {"ftz"}))
    if x.n < LANES:
        value = _applied(b, x, *how)
    else:
        value = Value(b.call("_".join(["function", *how]), x.full_type, x), x.type, x.n)
    b.write(ins.operands[0], value, ins)


@routine("function")
def apply(r: Routine, name: str, *ftz: str) -> None:
    """(values) -> value, which LLVM computes lane by lane."""
    (x,) = r.takes("<32 x float>")
    r.ret(_applied(r, x, name, *ftz))


def _applied(b: Text, x: Value, name: str, ftz: str = "") -> Value:
    x = b.flush(x) if ftz else x
    value = tanh(b, x) if name == "tanh" else b.intrinsic(f"llvm.{_FUNCTIONS[name]}", x)
    return b.flush(value) if ftz else value


def tanh(b: Text, x: Value) -> Value:
    """tanh |x| = 1 - 2 / (e^(2|x|) + 1), in double; below 2^-12, where it is x to 24 bits, x."""
    size = b.cast("fpext", b.intrinsic("llvm.fabs", x), "double")
    (log2_e,) = struct.unpack("<Q", struct.pack("<d", 2 / math.log(2)))
    power = b.intrinsic("llvm.exp2", b.op("fmul", size, Value(f"0x{log2_e:016X}", "double")))
    one, two = Value("1.0", "double"), Value("2.0", "double")
    value = b.op("fsub", one, b.op("fdiv", two, b.op("fadd", power, one)))
    result = b.intrinsic("llvm.copysign", b.cast("fptrunc", value, "float"), x)
    small = b.compare("fcmp olt", size, Value("0x3F30000000000000", "double"))
    return b.select(small, x, result)


@lowers(
    "testp",
    types=FLOATS,
    modifiers="finite infinite number notanumber normal subnormal",
)
def test_property(b: Builder, ins: Instruction) -> None:
    """testp.property p, a. Zero is a normal number here."""
    expect(ins, 2)
    (x,) = reals(b, ins)
    bits = bits_of(x.type)
    fraction = 23 if bits == 32 else 52
    word = b.bitcast(x, f"i{bits}")
    size = b.op("and", word, (1 << bits - 1) - 1)
    least, infinity = 1 << fraction, ((1 << bits - 1) - 1) >> fraction << fraction
    ranges = {
        "finite": (0, infinity),
        "infinite": (infinity, infinity + 1),
        "number": (0, infinity + 1),
        "notanumber": (infinity + 1, 1 << bits - 1),
        "normal": (least, infinity),
        "subnormal": (1, least),
    }
    if len(ins.opcode.modifiers) != 1:
        raise ins.refuse("expected one property, such as .finite")
    (name,) = ins.opcode.modifiers
    low, high = ranges[name]
    inside = b.compare("icmp uge", size, low)
    below = b.compare("icmp ult", size, high)
    result = b.op("and", inside, below)
    if name == "normal":
        result = b.op("or", result, b.compare("icmp eq", size, 0))
    b.write(ins.operands[0], result, ins)
