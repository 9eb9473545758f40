"""Integer arithmetic, of one integer, of several words with a carry, of two 16-bit halves.

The parser makes the carry flag CC.CF a predicate register: beside the destination where it is
written (.cc), the last operand where it is read (addc, subc, madc).
Source: PTX ISA, "Integer Arithmetic Instructions", "Extended-Precision Integer Arithmetic".
"""

from __future__ import annotations

from ...ptx_text import Opcode
from ..builder import Builder
from ..ptx import Group, Instruction
from ..table import INTEGERS, rows_of
from ..values import Value

lowers = rows_of("integer")

SIGNED = ("s16", "s32", "s64")


def width(ptx_type: str) -> int:
    """Bits of a type such as "s32"."""
    return int(ptx_type[1:])


def integers(b: Builder, ins: Instruction, first: int = 1, last: int | None = None) -> list[Value]:
    """Operands first..last as integers of the instruction's type."""
    return [b.integer(o, width(ins.opcode.type), ins) for o in ins.operands[first:last]]


def expect(ins: Instruction, count: int) -> None:
    """Refuse an instruction that has not `count` operands."""
    if len(ins.operands) != count:
        raise ins.refuse(f"expected {count} operands, found {len(ins.operands)}")


@lowers("add", "sub", types=INTEGERS, modifiers="sat cc")
def add(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    x, y = integers(b, ins)
    name = ins.opcode.base
    if "cc" in ins.opcode.modifiers:
        return _finish(b, ins, x, y)
    if "sat" not in ins.opcode.modifiers:
        return b.write(ins.operands[0], b.op(name, x, y), ins)
    if ins.opcode.type != "s32":
        raise ins.refuse(".sat is for .s32")
    return b.write(ins.operands[0], b.intrinsic(f"llvm.s{name}.sat", x, y), ins)


def product(b: Builder, ins: Instruction, x: Value, y: Value) -> Value:
    """x * y as .lo, .hi or .wide says."""
    modifiers, signed = ins.opcode.modifiers, ins.opcode.type in SIGNED
    if "lo" in modifiers:
        return b.op("mul", x, y)
    extend, bits = "sext" if signed else "zext", width(ins.opcode.type)
    if not modifiers & {"hi", "wide"} or ("wide" in modifiers and bits == 64):
        raise ins.refuse("expected .lo, .hi or .wide")
    wide = f"i{2 * bits}"
    full = b.op("mul", b.cast(extend, x, wide), b.cast(extend, y, wide))
    if "wide" in modifiers:
        return full
    return b.cast("trunc", b.op("lshr", full, bits), f"i{bits}")


def _types_of_product(opcode: Opcode) -> list[str]:
    """Types of result, factors and summand; of .wide the first and the last are twice as wide."""
    kind = opcode.type
    wide = f"{kind[0]}{2 * width(kind)}" if "wide" in opcode.modifiers else kind
    return [wide, kind, kind, wide]


@lowers("mul", types=INTEGERS, modifiers="lo hi wide", operands=_types_of_product)
def multiply(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    b.write(ins.operands[0], product(b, ins, *integers(b, ins)), ins)


@lowers("mad", types=INTEGERS, modifiers="lo hi wide cc", operands=_types_of_product)
def multiply_add(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    x, y = integers(b, ins, 1, 3)
    value = product(b, ins, x, y)
    bits = int(value.type[1:])
    z = b.integer(ins.operands[3], bits, ins)
    if "cc" in ins.opcode.modifiers:
        return _finish(b, ins, value, z)
    return b.write(ins.operands[0], b.op("add", value, z), ins)


@lowers("mul24", "mad24", types=("u32", "s32"), modifiers="lo hi")
def multiply_24(b: Builder, ins: Instruction) -> None:
    """Bits 0-31 (.lo) or 16-47 (.hi) of a product of the operands' low 24 bits."""
    expect(ins, 3 if ins.opcode.base == "mul24" else 4)
    if len(ins.opcode.modifiers) != 1:
        raise ins.refuse("expected .lo or .hi")
    shift = b.constant("i32", 8)
    down = "ashr" if ins.opcode.type == "s32" else "lshr"
    x, y, *rest = integers(b, ins)
    x, y = (b.op(down, b.op("shl", v, shift), shift) for v in (x, y))
    if "hi" in ins.opcode.modifiers:
        extend = "sext" if ins.opcode.type == "s32" else "zext"
        full = b.op("mul", *(b.cast(extend, v, "i64") for v in (x, y)))
        value = b.cast("trunc", b.op("lshr", full, 16), "i32")
    else:
        value = b.op("mul", x, y)
    b.write(ins.operands[0], b.op("add", value, rest[0]) if rest else value, ins)


@lowers("dp4a", "dp2a", types=("u32", "s32"), modifiers="lo hi")
def dot_product(b: Builder, ins: Instruction) -> None:
    """c + the products of a's bytes with b's; dp2a: of a's 16-bit halves with two bytes of b."""
    expect(ins, 4)
    if len(ins.opcode.types) != 2 or not {*ins.opcode.types} <= {"u32", "s32"}:
        raise ins.refuse("expected the types of a and b")
    half = ins.opcode.modifiers
    if len(half) != (1 if ins.opcode.base == "dp2a" else 0):
        raise ins.refuse("expected .lo or .hi on dp2a, and none on dp4a")
    x, y, total = (b.integer(operand, 32, ins) for operand in ins.operands[1:])
    count, first = (2, 2 if "hi" in half else 0) if half else (4, 0)
    for i in range(count):
        factor = _field(b, x, ins.opcode.types[0], i, 32 // count)
        other = _field(b, y, ins.opcode.types[1], first + i, 8)
        total = b.op("add", total, b.op("mul", factor, other))
    b.write(ins.operands[0], total, ins)


def _field(b: Builder, value: Value, ptx_type: str, index: int, bits: int) -> Value:
    """Field `index` of so many bits, extended to 32."""
    top = b.op("shl", value, 32 - bits * (index + 1))
    return b.op("ashr" if ptx_type == "s32" else "lshr", top, 32 - bits)


@lowers("div", "rem", types=INTEGERS)
def divide(b: Builder, ins: Instruction) -> None:
    """Division by zero is undefined in PTX. Here the quotient is all ones, the remainder x."""
    expect(ins, 3)
    x, y = integers(b, ins)
    signed = ins.opcode.type in SIGNED
    if y.text == "0":
        return b.write(
            ins.operands[0], x if ins.opcode.base == "rem" else b.constant(x.type, -1), ins
        )
    zero = b.compare("icmp eq", y, 0)
    safe = b.select(zero, b.constant(y.type, 1), y)
    # CPUs divide vectors of floating-point numbers, not of integers; by a literal, LLVM multiplies.
    if max(x.n, y.n) > 1 and y.text[0] == "%" and width(ins.opcode.type) <= 32:
        quotient = _divide_as_doubles(b, x, safe, signed)
    else:
        quotient = _divide(b, x, safe, signed)
    if ins.opcode.base == "rem":
        rest = b.op("sub", x, b.op("mul", quotient, y))
        return b.write(ins.operands[0], b.select(zero, x, rest), ins)
    ones = b.constant(x.type, -1)
    return b.write(ins.operands[0], b.select(zero, ones, quotient), ins)


def _divide_as_doubles(b: Builder, x: Value, y: Value, signed: bool) -> Value:
    """Exact: a quotient of 32-bit integers lies too far below the next integer to be rounded up."""
    to = "sitofp" if signed else "uitofp"
    quotient = b.op("fdiv", b.cast(to, x, "double"), b.cast(to, y, "double"))
    # 64 bits have room for 2^31 = INT_MIN / -1, which then wraps as on the GPU.
    return b.cast("trunc", b.cast("fptosi", quotient, "i64"), x.type)


def _divide(b: Builder, x: Value, y: Value, signed: bool) -> Value:
    """x / y for y that is not 0."""
    if not signed:
        return b.op("udiv", x, y)
    if y.text[0] == "%":
        # INT_MIN / -1 traps on some CPUs: divide by 1 and negate, which wraps as on the GPU.
        minus_one = b.compare("icmp eq", y, -1)
        quotient = b.op("sdiv", x, b.select(minus_one, b.constant(y.type, 1), y))
        return b.select(minus_one, b.op("sub", b.constant(x.type, 0), x), quotient)
    if int(y.text) == (1 << int(y.type[1:])) - 1:
        return b.op("sub", b.constant(x.type, 0), x)
    return b.op("sdiv", x, y)


@lowers("abs", types=SIGNED)
def absolute(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = integers(b, ins)
    b.write(ins.operands[0], b.intrinsic("llvm.abs", x, extra="i1 false"), ins)


@lowers("neg", types=SIGNED)
def negate(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = integers(b, ins)
    b.write(ins.operands[0], b.op("sub", b.constant(x.type, 0), x), ins)


@lowers("min", "max", types=INTEGERS, modifiers="relu")
def extremum(b: Builder, ins: Instruction) -> None:
    """.relu: negative results become zero."""
    expect(ins, 3)
    kind = "s" if ins.opcode.type in SIGNED else "u"
    value = b.intrinsic(f"llvm.{kind}{ins.opcode.base}", *integers(b, ins))
    if "relu" in ins.opcode.modifiers:
        if ins.opcode.type != "s32":
            raise ins.refuse(".relu is for .s32")
        value = b.intrinsic("llvm.smax", value, b.constant("i32", 0))
    b.write(ins.operands[0], value, ins)


@lowers("sad", types=INTEGERS)
def sum_of_differences(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    x, y, z = integers(b, ins)
    less = b.compare("icmp slt" if ins.opcode.type in SIGNED else "icmp ult", x, y)
    difference = b.select(less, b.op("sub", y, x), b.op("sub", x, y))
    b.write(ins.operands[0], b.op("add", z, difference), ins)


# -- several words ------------------------------------------------------------------------------

_EXTENDED = ("u32", "s32", "b32", "u64", "s64", "b64")


@lowers("addc", "subc", types=_EXTENDED, modifiers="cc")
def with_carry(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    x, y = integers(b, ins, 1, 3)
    _finish(b, ins, x, y, b.predicate(ins.operands[3], ins))


@lowers("madc", types=_EXTENDED, modifiers="lo hi cc")
def multiply_with_carry(b: Builder, ins: Instruction) -> None:
    expect(ins, 5)
    x, y, z = integers(b, ins, 1, 4)
    _finish(b, ins, product(b, ins, x, y), z, b.predicate(ins.operands[4], ins))


def _finish(b: Builder, ins: Instruction, x: Value, y: Value, carry: Value | None = None) -> None:
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


# -- two halves ---------------------------------------------------------------------------------

_PAIRS = ("u16x2", "s16x2")


@lowers("add", types=_PAIRS)
def add_pairs(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    x, y = b.packed(ins.operands[1:], "i16", ins)
    b.write(ins.operands[0], b.join(b.op("add", x, y), "i32"), ins)


@lowers("min", "max", types=_PAIRS, modifiers="relu")
def extremum_of_pairs(b: Builder, ins: Instruction) -> None:
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
