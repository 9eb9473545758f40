"""Logic, shifts and bit fields. Source: PTX ISA, "Logic and Shift Instructions"."""

from __future__ import annotations

from ..builder import Builder
from ..layout import LANES
from ..ptx import Immediate, Instruction
from ..routine import VECTOR, Routine, routine
from ..table import INTEGERS, rows_of
from ..values import Text, Value
from .integer import expect, integers, width

lowers = rows_of("logic")

BITS = ("b16", "b32", "b64")


@lowers("and", "or", "xor", types=BITS)
def logic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    b.write(ins.operands[0], b.op(ins.opcode.base, *integers(b, ins)), ins)


@lowers("and", "or", "xor", types=("pred",))
def predicate_logic(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    x, y = (b.predicate(operand, ins) for operand in ins.operands[1:])
    b.write(ins.operands[0], b.op(ins.opcode.base, x, y), ins)


@lowers("not", types=BITS)
def invert(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = integers(b, ins)
    b.write(ins.operands[0], b.op("xor", x, -1), ins)


@lowers("not", types=("pred",))
def invert_predicate(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    b.write(ins.operands[0], b.invert(b.predicate(ins.operands[1], ins)), ins)


@lowers("cnot", types=BITS)
def is_zero(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = integers(b, ins)
    zero = b.compare("icmp eq", x, 0)
    b.write(ins.operands[0], b.cast("zext", zero, x.type), ins)


@lowers("lop3", types=("b32",), operands="b32")
def logic_3(b: Builder, ins: Instruction) -> None:
    """Bit 4a + 2b + c of the table is the result for bits a, b, c."""
    expect(ins, 5)
    x, y, z = (b.integer(operand, 32, ins) for operand in ins.operands[1:4])
    table = ins.operands[4]
    if not isinstance(table, Immediate) or not 0 <= table.bits <= 255:
        raise ins.refuse("expected a table of 0 to 255 as the last operand")
    # Shannon's expansion: by z, then y, then x; equal halves need no choice.
    by_z = [_choose(b, z, table.bits >> 2 * i & 1, table.bits >> (2 * i + 1) & 1) for i in range(4)]
    by_y = [_mix(b, y, by_z[2 * i], by_z[2 * i + 1]) for i in range(2)]
    b.write(ins.operands[0], _mix(b, x, *by_y), ins)


def _choose(b: Builder, control: Value, zero: int, one: int) -> Value:
    """Bits: `one` where the control is 1, else `zero`."""
    if zero == one:
        return b.constant("i32", -one)
    return control if one else b.op("xor", control, -1)


def _mix(b: Builder, control: Value, zero: Value, one: Value) -> Value:
    """Bits of `one` where the control is 1, else those of `zero`."""
    if zero == one:
        return zero
    return b.op("xor", zero, b.op("and", control, b.op("xor", zero, one)))


@lowers("shl", "shr", types=INTEGERS, operands="last last u32")
def shift(b: Builder, ins: Instruction) -> None:
    """Amounts beyond the width shift everything out; in LLVM they would be poison."""
    expect(ins, 3)
    bits = width(ins.opcode.type)
    x = b.integer(ins.operands[1], bits, ins)
    b.write(ins.operands[0], shifted(b, ins, x, b.integer(ins.operands[2], 32, ins)), ins)


def shifted(b: Builder, ins: Instruction, x: Value, amount: Value) -> Value:
    """x shifted by an i32 amount in the direction that the instruction says."""
    bits, signed = int(x.type[1:]), ins.opcode.type[0] == "s" and ins.opcode.base == "shr"
    name = {"shl": "shl", "shr": "ashr" if signed else "lshr"}[ins.opcode.base]
    limit = bits - 1 if signed else bits
    if not amount.text.startswith("%"):  # a literal
        count = min(int(amount.text), limit)
        if count == bits:
            return b.constant(x.type, 0)
        return b.op(name, x, count)
    if signed:
        amount = b.intrinsic("llvm.umin", amount, b.constant("i32", limit))
        return b.op(name, x, _resize(b, amount, x.type))
    inside = b.compare("icmp ult", amount, bits)
    # The shift alone may be poison where the amount is too large: select does not look there.
    value = b.op(name, x, _resize(b, amount, x.type))
    return b.select(inside, value, 0)


def _resize(b: Builder, value: Value, llvm_type: str) -> Value:
    down = int(llvm_type[1:]) < int(value.type[1:])
    return b.cast("trunc" if down else "zext", value, llvm_type)


@lowers("shf", types=("b32",), modifiers="l r clamp wrap")
def funnel_shift(b: Builder, ins: Instruction) -> None:
    """The 64 bits {hi, lo} shifted; left gives the upper, right the lower word."""
    expect(ins, 4)
    low, high, amount = (b.integer(operand, 32, ins) for operand in ins.operands[1:])
    modifiers = ins.opcode.modifiers
    if "wrap" in modifiers:
        amount = b.op("and", amount, 31)
    else:
        amount = b.intrinsic("llvm.umin", amount, b.constant("i32", 32))
    low, high = (b.cast("zext", v, "i64") for v in (low, high))
    wide = b.op("or", b.op("shl", high, 32), low)
    amount = b.cast("zext", amount, "i64")
    if "l" in modifiers:
        value = b.op("lshr", b.op("shl", wide, amount), 32)
    else:
        value = b.op("lshr", wide, amount)
    b.write(ins.operands[0], b.cast("trunc", value, "i32"), ins)


@lowers("bfe", types=("u32", "s32", "u64", "s64"))
def extract_field(b: Builder, ins: Instruction) -> None:
    """bfe d, a, position, length: beyond the word signs (or zeros) follow."""
    expect(ins, 4)
    bits, signed = width(ins.opcode.type), ins.opcode.type[0] == "s"
    x = b.integer(ins.operands[1], bits, ins)
    position, length = (_in_byte(b, b.integer(o, 32, ins), bits) for o in ins.operands[2:])
    if isinstance(ins.operands[2], Immediate) and isinstance(ins.operands[3], Immediate):
        limit = 255 if bits == 32 else 0xFFFFFFFF
        start, count = ins.operands[2].bits & limit, ins.operands[3].bits & limit
        if 0 < count <= bits - start:
            top = b.op("shl", x, bits - start - count)
            down = "ashr" if signed else "lshr"
            value = b.op(down, top, bits - count)
            return b.write(ins.operands[0], value, ins)
    # Bring the field's top bit to the word's top, then shift it down.  A field that passes the
    # word's end is first extended, which in twice the width is a plain shift.
    wide = f"i{2 * bits}"
    full = b.cast("sext" if signed else "zext", x, wide)
    most = b.constant("i32", bits)
    position, length = (b.intrinsic("llvm.umin", v, most) for v in (position, length))
    field = b.op("ashr" if signed else "lshr", full, _resize(b, position, wide))
    unused = b.op("sub", b.constant(wide, 2 * bits), _resize(b, length, wide))
    # unused is between bits and 2*bits; the shift by 2*bits (an empty field) must not happen.
    empty = b.compare("icmp eq", length, 0)
    safe = b.select(empty, b.constant(wide, 0), unused)
    cut = b.op("ashr" if signed else "lshr", b.op("shl", field, safe), safe)
    value = b.select(empty, b.constant(wide, 0), cut)
    return b.write(ins.operands[0], b.cast("trunc", value, x.type), ins)


def _in_byte(b: Builder, value: Value, bits: int) -> Value:
    """A position or length. PTX restricts them to 0-255; a GPU takes larger ones modulo 256 in
    the 32-bit forms, and as they are in the 64-bit ones."""
    return value if bits == 64 else b.op("and", value, 255)


@lowers("bfi", types=("b32", "b64"))
def insert_field(b: Builder, ins: Instruction) -> None:
    """bfi d, a, b, position, length: the low bits of a put into b."""
    expect(ins, 5)
    bits = width(ins.opcode.type)
    x, into = (b.integer(operand, bits, ins) for operand in ins.operands[1:3])
    most = b.constant("i32", bits)
    position, length = (
        b.intrinsic("llvm.umin", _in_byte(b, b.integer(o, 32, ins), bits), most)
        for o in ins.operands[3:]
    )
    wide = f"i{2 * bits}"
    one = b.constant(wide, 1)
    ones = b.op("sub", b.op("shl", one, _resize(b, length, wide)), one)
    place = _resize(b, position, wide)
    mask = b.cast("trunc", b.op("shl", ones, place), x.type)
    field = b.cast("trunc", b.op("shl", b.cast("zext", x, wide), place), x.type)
    outside = b.op("xor", mask, -1)
    value = b.op("or", b.op("and", field, mask), b.op("and", into, outside))
    b.write(ins.operands[0], value, ins)


@lowers("bfind", types=("u32", "s32", "u64", "s64"), modifiers="shiftamt", operands="u32 last")
def find_top_bit(b: Builder, ins: Instruction) -> None:
    """Position of the highest bit that is not the sign; -1 where there is none."""
    expect(ins, 2)
    (x,) = integers(b, ins)
    bits = width(ins.opcode.type)
    if ins.opcode.type[0] == "s":
        x = b.op("xor", x, b.op("ashr", x, bits - 1))
    zeros = b.intrinsic("llvm.ctlz", x, extra="i1 false")
    none = b.compare("icmp eq", x, 0)
    if "shiftamt" not in ins.opcode.modifiers:
        zeros = b.op("sub", b.constant(x.type, bits - 1), zeros)
    value = b.select(none, b.constant(x.type, -1), zeros)
    b.write(ins.operands[0], _resize(b, value, "i32"), ins)


@lowers("popc", "clz", types=("b32", "b64"), operands="u32 last")
def count_bits(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    (x,) = integers(b, ins)
    if ins.opcode.base == "popc":
        value = b.intrinsic("llvm.ctpop", x)
    else:
        value = b.intrinsic("llvm.ctlz", x, extra="i1 false")
    b.write(ins.operands[0], _resize(b, value, "i32"), ins)


@lowers("szext", types=("u32", "s32"), modifiers="clamp wrap")
def extend(b: Builder, ins: Instruction) -> None:
    """The low b bits, with their sign or zeros above. .wrap: b modulo 32; .clamp: at most 32."""
    expect(ins, 3)
    x, count = integers(b, ins)
    if "wrap" in ins.opcode.modifiers:
        count = b.op("and", count, 31)
    else:
        count = b.intrinsic("llvm.umin", count, b.constant("i32", 32))
    none = b.compare("icmp eq", count, 0)
    unused = b.op("sub", b.constant("i32", 32), b.select(none, b.constant("i32", 32), count))
    down = "ashr" if ins.opcode.type == "s32" else "lshr"
    value = b.op(down, b.op("shl", x, unused), unused)
    b.write(ins.operands[0], b.select(none, b.constant("i32", 0), value), ins)


@lowers("bmsk", types=("b32",), modifiers="clamp wrap")
def mask(b: Builder, ins: Instruction) -> None:
    """Mask of b ones from bit a on. .wrap: both modulo 32; .clamp: at most 32."""
    expect(ins, 3)
    place, count = (b.integer(operand, 32, ins) for operand in ins.operands[1:])
    if "wrap" in ins.opcode.modifiers:
        place, count = (b.op("and", v, 31) for v in (place, count))
    else:
        place, count = (b.intrinsic("llvm.umin", v, b.constant("i32", 32)) for v in (place, count))
    one = b.constant("i64", 1)
    ones = b.op("sub", b.op("shl", one, b.cast("zext", count, "i64")), one)
    value = b.op("shl", ones, b.cast("zext", place, "i64"))
    b.write(ins.operands[0], b.cast("trunc", value, "i32"), ins)


@lowers("fns", types=("b32",))
def find_set(b: Builder, ins: Instruction) -> None:
    """fns d, mask, base, n: the n-th bit that is set from bit `base` on, upwards or for n < 0
    downwards; 0xffffffff where there is none.  n = 0: bit `base` itself."""
    expect(ins, 4)
    bits, base, n = (b.integer(operand, 32, ins) for operand in ins.operands[1:])
    zero, one = b.constant("i32", 0), b.constant("i32", 1)
    down = b.compare("icmp slt", n, zero)
    # Upwards from where the search begins: downwards is upwards in the mirror.
    bits = b.select(down, b.intrinsic("llvm.bitreverse", bits), bits)
    start = b.select(down, b.op("sub", b.constant("i32", 31), base), base)
    wanted = b.select(b.compare("icmp eq", n, zero), one, b.intrinsic("llvm.abs", n, extra="i1 0"))
    inside = b.compare("icmp ult", start, 32)
    low = b.op("shl", b.constant("i32", -1), b.op("and", start, 31))
    left = b.select(inside, b.op("and", bits, low), zero)
    found = b.constant("i32", -1)
    for i in range(32):
        place = b.intrinsic("llvm.cttz", left, extra="i1 false")
        last = b.compare("icmp eq", wanted, i + 1)
        found = b.select(b.op("and", last, b.compare("icmp ne", left, zero)), place, found)
        left = b.op("and", left, b.op("sub", left, one))
    itself = b.op("and", b.compare("icmp eq", n, zero), b.compare("icmp ne", found, start))
    none = b.op("or", itself, b.compare("icmp eq", found, -1))
    place = b.select(down, b.op("sub", b.constant("i32", 31), found), found)
    b.write(ins.operands[0], b.select(none, b.constant("i32", -1), place), ins)


@lowers("brev", types=("b32", "b64"))
def reverse(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    b.write(ins.operands[0], b.intrinsic("llvm.bitreverse", *integers(b, ins)), ins)


@lowers("prmt", types=("b32",), operands="b32")
def permute(b: Builder, ins: Instruction) -> None:
    """Four of the eight bytes {b, a}; bit 3 of a selector spreads the byte's sign."""
    expect(ins, 4)
    low, high, select = (b.integer(operand, 32, ins) for operand in ins.operands[1:])
    if isinstance(ins.operands[3], Immediate) and not ins.operands[3].bits & 0x8888:
        return b.write(ins.operands[0], _pick_bytes(b, low, high, ins.operands[3].bits), ins)
    low, high, select = b.together(low, high, select)
    if low.n == LANES:
        text = b.call("permute", low.full_type, low, high, select)
        return b.write(ins.operands[0], Value(text, "i32", LANES), ins)
    return b.write(ins.operands[0], _picked(b, low, high, select), ins)


@routine("permute")
def permute_lanes(r: Routine) -> None:
    """(a, b, selectors) -> result."""
    r.ret(_picked(r, *r.takes(VECTOR, VECTOR, VECTOR)))


def _picked(b: Text, low: Value, high: Value, select: Value) -> Value:
    """prmt with any selectors."""
    result = b.constant("i32", 0)
    for i in range(4):
        selector = b.op("lshr", select, 4 * i)
        in_high, spreads = (b.compare("icmp ne", b.op("and", selector, bit), 0) for bit in (4, 8))
        place = b.op("shl", b.op("and", selector, 3), 3)
        byte = b.op("and", b.op("lshr", b.select(in_high, high, low), place), 0xFF)
        sign = b.op("mul", b.op("lshr", byte, 7), 0xFF)
        byte = b.select(spreads, sign, byte)
        result = b.op("or", b.op("shl", byte, 8 * i), result)
    return result


def _pick_bytes(b: Builder, low: Value, high: Value, selectors: int) -> Value:
    """prmt with literal selectors, none of which spreads a sign."""
    low, high = b.together(low, high)
    n = low.n
    places = []
    for lane in range(n):
        for i in range(4):
            half, byte = divmod(selectors >> 4 * i & 7, 4)
            places.append(half * 4 * n + 4 * lane + byte)
    return b.join(b.shuffle(b.split(low, "i8"), b.split(high, "i8"), places), "i32")
