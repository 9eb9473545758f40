"""Directed roundings, and the 8-bit floating-point types: exact integer arithmetic.

A directed rounding takes the nearest value and steps to its neighbour where that lies on the wrong
side of the exact one.  The exact value is a double, or one that was "rounded to odd": cut, with
the last bit set where anything was cut, so that comparisons with shorter numbers stay right.
Source: PTX ISA, "Rounding Modifiers", "cvt", "Alternate Floating-Point Data Formats".
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..values import Text, Value, bits_of

DIRECTED = frozenset({"rz", "rm", "rp"})


def directed(b: Builder, mode: str, exact: Value, nearest: Value, wide: Value) -> Value:
    """`nearest` (whose value in the type of `exact` is `wide`), rounded as `mode` says instead.

    Works on bit patterns, which of numbers of one sign are in the order of their magnitude.
    """
    bits = f"i{bits_of(nearest.type)}"
    pattern = b.bitcast(nearest, bits)
    one = b.constant(bits, 1)
    top = b.constant(bits, -(1 << bits_of(bits) - 1))
    negative = b.compare("icmp slt", pattern, 0)
    if mode == "rz":
        size, limit = (b.intrinsic("llvm.fabs", v) for v in (wide, exact))
        beyond = b.compare("fcmp ogt", size, limit)
        stepped = b.op("sub", pattern, one)
    elif mode == "rm":  # down: away from zero where negative; below +0 comes the least negative
        beyond = b.compare("fcmp ogt", wide, exact)
        positive = b.select(
            b.compare("icmp eq", pattern, 0),
            b.op("or", one, top),
            b.op("sub", pattern, one),
        )
        stepped = b.select(negative, b.op("add", pattern, one), positive)
    else:
        beyond = b.compare("fcmp olt", wide, exact)
        below = b.select(b.compare("icmp eq", pattern, top), one, b.op("sub", pattern, one))
        stepped = b.select(negative, below, b.op("add", pattern, one))
    return b.bitcast(b.select(beyond, stepped, pattern), nearest.type)


def to_float(b: Builder, mode: str, exact: Value) -> Value:
    """A double as float, rounded as `mode` says."""
    nearest = b.cast("fptrunc", exact, "float")
    return directed(b, mode, exact, nearest, b.cast("fpext", nearest, "double"))


# -- binary32 arithmetic --------------------------------------------------------------------------


def arithmetic(b: Builder, ins: Instruction, mode: str, values: list[Value]) -> Value:
    """add, sub, mul, fma, div, rcp or sqrt of floats, rounded as `mode` says."""
    x, *rest = (b.cast("fpext", value, "double") for value in values)
    base = ins.opcode.base
    if base in ("add", "sub"):
        y = rest[0] if base == "add" else Value(b.emit(f"fneg {rest[0]}"), "double", rest[0].n)
        return _sum(b, mode, x, y)
    if base == "mul":
        return to_float(b, mode, b.op("fmul", x, rest[0]))
    if base in ("fma", "mad"):
        return _sum(b, mode, b.op("fmul", x, rest[0]), rest[1])
    if base == "sqrt":
        root = b.intrinsic("llvm.sqrt", x)
        left = b.intrinsic("llvm.fma", Value(b.emit(f"fneg {root}"), "double", root.n), root, x)
        return to_float(b, mode, _odd(b, root, left))
    if base == "rcp":
        x, rest = Value("1.0", "double"), [x]
    quotient = b.op("fdiv", x, rest[0])
    minus = Value(b.emit(f"fneg {quotient}"), "double", quotient.n)
    left = b.intrinsic("llvm.fma", minus, rest[0], x)
    # What is left has the sign of the error times that of the divisor.
    sign = b.intrinsic("llvm.copysign", Value("1.0", "double"), rest[0])
    return to_float(b, mode, _odd(b, quotient, b.op("fmul", left, sign)))


def _sum(b: Builder, mode: str, x: Value, y: Value) -> Value:
    """x + y of doubles (exact products, or floats) as float."""
    return _signed_zero(b, mode, x, y, to_float(b, mode, odd_sum(b, x, y)))


def _signed_zero(b: Builder, mode: str, x: Value, y: Value, total: Value) -> Value:
    """A sum with the right sign where it is zero: down, x - x is -0, and only +0 + +0 is +0."""
    if mode != "rm":
        return total
    signs = b.op("or", b.bitcast(x, "i64"), b.bitcast(y, "i64"))
    negative = b.compare("icmp slt", signs, 0)
    none = b.compare("fcmp oeq", total, Value("0.0", total.type))
    return b.select(b.op("and", none, negative), Value("-0.0", total.type), total)


def rounded_sum(b: Builder, ins: Instruction, mode: str, values: list[Value]) -> Value:
    """x + y or x - y of doubles, rounded as `mode` says."""
    x, y = values
    if ins.opcode.base == "sub":
        y = Value(b.emit(f"fneg {y}"), "double", y.n)
    total, error = _two_sum(b, x, y)
    infinite = b.compare("fcmp oeq", b.intrinsic("llvm.fabs", total), Value(_INFINITY, "double"))
    finite = [
        b.compare("fcmp one", b.intrinsic("llvm.fabs", v), Value(_INFINITY, "double"))
        for v in (x, y)
    ]
    too_large = b.op("and", infinite, b.op("and", *finite))
    # Numbers of the sizes 1 and 1/2 or 3/2 that lie as the sum and the exact sum do.
    size = b.intrinsic("llvm.copysign", Value("1.0", "double"), total)
    half = b.intrinsic("llvm.copysign", Value("0.5", "double"), error)
    moved = b.select(b.compare("fcmp one", error, Value("0.0", "double")), half, _zero(half))
    moved = b.select(too_large, b.op("fmul", size, Value("-0.5", "double")), moved)
    return _signed_zero(b, mode, x, y, directed(b, mode, b.op("fadd", size, moved), total, size))


_INFINITY = "0x7FF0000000000000"


def _zero(like: Value) -> Value:
    return Value("0.0", like.type)


def odd_sum(b: Text, x: Value, y: Value) -> Value:
    """x + y of floats or doubles, rounded to odd."""
    return _odd(b, *_two_sum(b, x, y))


def _two_sum(b: Text, x: Value, y: Value) -> tuple[Value, Value]:
    """x + y of floats or doubles and its error, exactly (Knuth's TwoSum)."""
    total = b.op("fadd", x, y)
    part = b.op("fsub", total, x)
    other = b.op("fsub", total, part)
    return total, b.op("fadd", b.op("fsub", x, other), b.op("fsub", y, part))


def _odd(b: Text, value: Value, error: Value) -> Value:
    """A float or double that is the exact value less `error`, rounded to odd."""
    kind = f"i{bits_of(value.type)}"
    bits = b.bitcast(value, kind)
    inexact = b.compare("fcmp one", error, _zero(error))
    even = b.compare("icmp eq", b.op("and", bits, 1), 0)
    # Where the error has the value's sign the exact magnitude is larger.
    larger = b.compare("icmp sge", b.op("xor", bits, b.bitcast(error, kind)), 0)
    step = b.select(larger, b.constant(kind, 1), b.constant(kind, -1))
    moved = b.op("add", bits, step)
    return b.bitcast(b.select(b.op("and", inexact, even), moved, bits), value.type)


# -- 8-bit types ----------------------------------------------------------------------------------

# Bits of the mantissa; the float whose last place is the least denormal; largest number.
_SMALL = {"e4m3": (3, "0x40D0000000000000", 0x7E), "e5m2": (2, "0x4060000000000000", 0x7B)}


def to_byte(b: Builder, kind: str, value: Value, relu: bool) -> Value:
    """float as e4m3 or e5m2 in an i8: nearest even, limited to the largest number (.satfinite)."""
    mantissa, unit_text, largest = _SMALL[kind]
    exponent_bias = {"e4m3": 7, "e5m2": 15}[kind]
    bits = b.bitcast(value, "i32")
    size = b.op("and", bits, 0x7FFFFFFF)
    shift = 23 - mantissa
    odd = b.op("and", b.op("lshr", size, shift), 1)
    offset = (1 << shift - 1) - 1 - ((127 - exponent_bias) << 23)
    rounded = b.op("add", b.op("add", size, offset), odd)
    normal = b.op("lshr", rounded, shift)
    # Adding the unit lets the FPU round at the last place of denormals.
    unit = Value(unit_text, "float")
    tiny = b.bitcast(b.op("fadd", b.bitcast(size, "float"), unit), "i32")
    tiny = b.op("sub", tiny, b.bitcast(unit, "i32"))
    small = b.compare("icmp ult", size, (128 - exponent_bias) << 23)
    result = b.intrinsic("llvm.umin", b.select(small, tiny, normal), b.constant("i32", largest))
    sign = b.op("and", b.op("lshr", bits, 24), 0x80)
    result = b.op("or", result, sign)
    if relu:
        negative = b.compare("icmp slt", bits, 0)
        result = b.select(negative, b.constant("i32", 0), result)
    nan = b.compare("icmp ugt", size, 0x7F800000)
    return b.cast("trunc", b.select(nan, b.constant("i32", 0x7F), result), "i8")


def from_byte(b: Builder, kind: str, value: Value) -> Value:
    """e4m3 or e5m2 in an i8 as float, exactly."""
    whole = b.vector(value)
    parts = []
    for start in range(0, whole.n, 32):
        part = whole if whole.n == 32 else b.shuffle(whole, None, range(start, start + 32))
        text = b.call(f"widen_{kind}", "<32 x float>", part)
        parts.append(Value(text, "float", 32))
    result = parts[0] if len(parts) == 1 else b.shuffle(parts[0], parts[1], range(64))
    if value.n == 1:
        return b.element(result, 0)
    return result
