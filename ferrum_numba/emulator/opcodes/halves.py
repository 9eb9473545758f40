"""Arithmetic of binary16 and bfloat16, one or two to a register.

Sums, differences, products and quotients of such are rounded right when computed in binary32 and
rounded again (24 >= 2 * 11 + 2 bits).  A fused multiply-add is where a factor is a power of two;
else its sum is rounded to odd in between.
Source: PTX ISA, "Half Precision Floating-Point Instructions".
"""

from __future__ import annotations

from collections.abc import Callable

from ..builder import Builder, Sum
from ..layout import LANES
from ..ptx import Instruction, Operand, Register
from ..routine import Routine, routine
from ..table import HALVES, rows_of
from ..values import Text, Value, bits_of
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


def in_floats(b: Text, values: list[Value], operation: Callable[..., Value]) -> Value:
    """An operation computed in binary32 and rounded; NaN is the canonical one."""
    wide = (b.once(widened, value) for value in values)
    return canonical(b, narrowed(b, operation(*wide), values[0].type))


def finish(b: Builder, ins: Instruction, value: Value) -> None:
    """Write a result, saturated where the instruction says so."""
    its, to = b.sums.get(value), ins.operands[0]
    if "sat" in ins.opcode.modifiers:
        value, its = saturated(b, value), None
    _write(b, ins, value)
    if its and isinstance(to, Register) and to.bits == 32 and not ins.guard:
        b.sums[b.read(to, "i32")] = its


def _write(b: Builder, ins: Instruction, value: Value) -> None:
    if ins.opcode.type.endswith("x2"):
        value = b.join(value, "i32")
    b.write(ins.operands[0], value, ins)


@lowers("add", "sub", "mul", types=HALVES, modifiers="rn sat")
def arithmetic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    values = values_of(b, ins)
    if ins.opcode.base != "mul" or not _scale(b, ins, values):
        finish(b, ins, _computed(b, "f" + ins.opcode.base, values))


@lowers("fma", types=HALVES, modifiers="rn sat relu")
def fused(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    is_exact = any(_is_power_of_two(b, ins, operand) for operand in ins.operands[1:3])
    value = _computed(b, "exact" if is_exact else "fma", values_of(b, ins))
    if "relu" in ins.opcode.modifiers:
        value = at_least_zero(b, value)
    finish(b, ins, value)


def _computed(b: Builder, name: str, values: list[Value]) -> Value:
    """A result, rounded. A function of the library has it of all lanes: it is compiled once."""
    kind, n = values[0].type, values[0].n
    if n < LANES:
        return _result(b, name, values)
    packed = [b.bitcast(value, "i16") for value in values]
    whole = b.call(f"halves_{name}_{kind}_{n}", f"<{n} x i16>", *packed)
    result = b.bitcast(Value(whole, "i16", n), kind)
    if kind == "half" and name in _SUMS:
        b.sums[result] = Sum(name, values, whole, len(b.lines) - 2, b.upcoming)
    return result


@routine("halves")
def compute(r: Routine, name: str, kind: str, n: str) -> None:
    """(values) -> value, each <n x i16>."""
    types = [f"<{n} x i16>"] * (2 if name[0] == "f" and name != "fma" else 3)
    values = [r.bitcast(value, kind) for value in r.takes(*types)]
    r.ret(r.bitcast(_result(r, name, values), "i16"))


_SUMS = "fadd", "fsub", "exact"


def _scale(b: Builder, ins: Instruction, values: list[Value]) -> bool:
    """Multiply, where a factor is a sum that nothing else reads: both are one function then.

    So weights are made of 4-bit numbers.  The other operands most often are those of many weights,
    and are kept as numbers.
    """
    if "sat" in ins.opcode.modifiers or not b.takes_fragment(ins, ins.operands[:1]):
        return False
    for operand, value, other in zip(ins.operands[1:], values, reversed(values), strict=True):
        if not isinstance(operand, Register) or not ins.opcode.type.endswith("x2"):
            continue
        its = b.sums.get(b.integer(operand, 32, ins))
        if its is None or value == other or b.hooks.stepwise:
            continue
        if not b.is_read_beside(ins, operand, its.behind):
            # What made the sum goes: it is a call, which LLVM would not leave out.
            b.lines[its.line] = f"  {its.text} = freeze <{value.n} x i16> zeroinitializer"
            first, *others = its.values
            x, place = b.scratch(2 * value.n), b.room_for(ins.operands[:1])
            b.store(b.bitcast(first, "i16"), x, 0, 64)
            numbers = [_as_numbers(b, number) for number in (*others, other)]
            places = (b.at(*place), x, *numbers)
            b.call(f"scaled_{its.name}_{value.n}", "void", *(f"ptr {its}" for its in places))
            b.hold(ins.operands[:1], place)
            return True
    return False


def _as_numbers(b: Builder, value: Value) -> str:
    """Address of halves in the type in which they are computed; made once in a block."""
    key = ("half", value)
    if key not in b.prepared:
        kind = _number_type(b)
        b.prepared[key] = place = b.scratch(value.n * bits_of(kind) // 8)
        if kind == "half":
            b.store(b.bitcast(value, "i16"), place, 0, 64)
        else:
            b.call(f"numbers_{value.n}", "void", f"ptr {place}", b.bitcast(value, "i16"))
    return b.prepared[key]


def _number_type(b: Text) -> str:
    return "half" if b.library.host.half_arithmetic else "float"


@routine("numbers")
def numbers(r: Routine, n: str) -> None:
    """(out, halves): as floats."""
    out, value = r.takes("ptr", f"<{n} x i16>")
    r.store(widened(r, r.bitcast(value, "half")), out, 0, 64)


@routine("scaled")
def scaled(r: Routine, name: str, n: str) -> None:
    """(out, x, others of the sum…, factor): their sum times the factor, each rounded.

    Addresses of halves, and of the others as numbers.
    """
    kind, count = _number_type(r), 3 if name == "exact" else 2
    out, place, *places = r.takes("ptr", "ptr", *["ptr"] * count)
    x = r.load("half", int(n), place, 0, 64)
    x = x if kind == "half" else widened(r, x)
    *others, factor = (r.load(kind, int(n), place, 0, 64) for place in places)
    total = r.intrinsic("llvm.fma", x, *others) if count == 3 else r.op(name, x, *others)
    if kind == "float":
        total = widened(r, narrowed(r, total, "half"))
    product = canonical(r, narrowed(r, r.op("fmul", total, factor), "half"))
    r.store(r.bitcast(product, "i16"), out, 0, 64)


def _result(b: Text, name: str, values: list[Value]) -> Value:
    """x + y, x - y, x * y, or x * y + z ("fma"; "exact": a factor is a power of two)."""
    kind = values[0].type
    if name not in ("fma", "exact") and kind == "half" and b.library.host.half_arithmetic:
        return canonical(b, b.op(name, *values))
    if name not in ("fma", "exact"):
        return in_floats(b, values, lambda x, y: b.op(name, x, y))
    if kind == "half" and b.library.host.half_arithmetic:
        return canonical(b, b.intrinsic("llvm.fma", *values))
    if kind == "half":
        return in_floats(b, values, lambda *v: _sum(b, name == "exact", *v))
    # Products of bfloat pass the range of binary32.
    x, y, z = (b.cast("fpext", widened(b, v), "double") for v in values)
    return narrowed_double(b, _sum(b, False, x, y, z), kind)


def _sum(b: Text, is_exact: bool, x: Value, y: Value, z: Value) -> Value:
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
