"""cvt. Source: PTX ISA, "Data Movement and Conversion Instructions: cvt"."""

from __future__ import annotations

from ...ptx_text import Opcode
from ..builder import Builder
from ..ptx import Instruction, Register
from ..table import rows_of
from ..values import Text, Value, bits_of
from .integer import expect
from .rounding import DIRECTED, directed, from_byte, to_byte, to_float

lowers = rows_of("convert")

FLOAT_TYPES = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double"}
_INTEGRAL = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


# -- binary16, bfloat16 <-> binary32 --------------------------------------------------------------


def widened(b: Text, value: Value) -> Value:
    """half or bfloat as float, exactly; other types as they are."""
    if value.type == "bfloat":
        bits = b.cast("zext", b.bitcast(value, "i16"), "i32")
        return b.bitcast(b.op("shl", bits, 16), "float")
    if value.type != "half":
        return value
    if b.library.host.half_conversion:
        return b.cast("fpext", value, "float")
    return _in_lanes(b, "widen_half", b.bitcast(value, "i16"), "float")


def narrowed(b: Text, value: Value, kind: str) -> Value:
    """float as half or bfloat, rounded to nearest even."""
    if kind == "half" and b.library.host.half_conversion:
        return b.cast("fptrunc", value, kind)
    return b.bitcast(_in_lanes(b, f"narrow_{kind}", value, "i16"), kind)


def _in_lanes(b: Text, name: str, value: Value, result: str) -> Value:
    """Call a function of 32 lanes on a value of 1, 2, 32 or 64 elements."""
    if value.n == 1:
        whole = b.vector(value)
        found = Value(b.call(name, f"<32 x {result}>", whole), result, 32)
        return b.element(found, 0)
    parts = []
    for start in range(0, value.n, 32):
        part = b.shuffle(value, None, [(start + i) % value.n for i in range(32)])
        parts.append(Value(b.call(name, f"<32 x {result}>", part), result, 32))
    other = parts[1] if len(parts) == 2 else None
    return b.shuffle(parts[0], other, range(value.n))


def narrowed_double(b: Text, value: Value, kind: str) -> Value:
    """double as half or bfloat, with one rounding to nearest even."""
    bits = b.bitcast(value, "i64")
    if kind == "bfloat":
        # Below 2^-126 the units of bfloat are 2^-133: adding 2^(52-133) rounds there.
        size = b.intrinsic("llvm.fabs", value)
        unit = Value("0x3AE0000000000000", "double")
        tiny = b.op("fsub", b.op("fadd", size, unit), unit)
        tiny = b.intrinsic("llvm.copysign", tiny, value)
        small = b.compare("fcmp olt", size, Value("0x3810000000000000", "double"))
        bits = b.select(small, b.bitcast(tiny, "i64"), bits)
    # To float with "rounding to odd": cut, and keep in the last bit whether anything was cut.
    # Rounding again, to fewer bits, then gives what one rounding would have given.
    cut = b.op("and", bits, (1 << 29) - 1)
    some = b.compare("icmp ne", cut, 0)
    last = b.select(some, b.constant("i64", 1 << 29), b.constant("i64", 0))
    kept = b.op("and", bits, -(1 << 29))
    odd = b.bitcast(b.op("or", kept, last), "double")
    return narrowed(b, b.cast("fptrunc", odd, "float"), kind)


# -- cvt ------------------------------------------------------------------------------------------


def _operand_types(opcode: Opcode) -> list[str]:
    if "pack" in opcode.modifiers:
        return ["b32", "s32", "s32", "b32"]
    return [(opcode.types or ("b32",))[0], opcode.type or "b32"]


@lowers(
    "cvt",
    modifiers="rn rz rm rp rni rzi rmi rpi ftz sat rna relu satfinite pack",
    operands=_operand_types,
)
def convert(b: Builder, ins: Instruction) -> None:
    types = ins.opcode.types
    if "pack" in ins.opcode.modifiers:
        return _pack_integers(b, ins)
    if len(types) != 2:
        raise ins.refuse("expected the result's and the source's type")
    to, source = types
    if "relu" in ins.opcode.modifiers and to[:4] not in ("f16", "f16x", "bf16", "e4m3", "e5m2"):
        raise ins.refuse(".relu is for types of 8 and 16 bits")
    if to in _PAIRS_OF_BYTES:
        return _pack_bytes(b, ins, to[:-2], source)
    if source in _PAIRS_OF_BYTES:
        return _unpack_bytes(b, ins, to, source[:-2])
    if "satfinite" in ins.opcode.modifiers:
        raise ins.refuse("the CPU device has .satfinite only for types of 8 bits")
    if to in ("f16x2", "bf16x2"):
        return _pack_halves(b, ins, to, source)
    expect(ins, 2)
    if to == "tf32" and source == "f32":
        return b.write(ins.operands[0], _to_tf32(b, ins), ins)
    from_float, to_float = source in FLOAT_TYPES, to in FLOAT_TYPES
    if not (from_float or _is_integer(source)) or not (to_float or _is_integer(to)):
        raise ins.refuse("the CPU device does not have this conversion")
    if from_float:
        value = b.real(ins.operands[1], FLOAT_TYPES[source], ins)
        lower = _float_to_float if to_float else _float_to_integer
    else:
        value = b.integer(ins.operands[1], int(source[1:]), ins)
        lower = _integer_to_float if to_float else _integer_to_integer
    value = lower(b, ins, value)
    target = ins.operands[0]
    if not to_float and isinstance(target, Register) and target.bits > bits_of(value.type):
        value = b.cast("sext" if to[0] == "s" else "zext", value, f"i{target.bits}")
    return b.write(target, value, ins)


def _is_integer(ptx_type: str) -> bool:
    return ptx_type[0] in "us" and ptx_type[1:].isdecimal()


def _expect_rounding(ins: Instruction, *allowed: str) -> None:
    found = ins.opcode.modifiers & {"rn", "rna", *DIRECTED, *_INTEGRAL}
    if len(found) > 1 or not found <= set(allowed):
        raise ins.refuse("the CPU device does not have this rounding here")


def _shortened(b: Builder, ins: Instruction, value: Value, kind: str) -> Value:
    """float or double as half or bfloat, rounded as the instruction says."""
    result = (narrowed_double if value.type == "double" else narrowed)(b, value, kind)
    for mode in ins.opcode.modifiers & DIRECTED:
        wide = b.cast("fpext", widened(b, result), value.type)
        result = directed(b, mode, value, result, wide)
    return at_least_zero(b, result) if "relu" in ins.opcode.modifiers else result


def at_least_zero(b: Builder, value: Value) -> Value:
    """Negative halves become +0, NaN the canonical one (.relu)."""
    wide = widened(b, value)
    negative = b.compare("fcmp ole", wide, Value("0.0", "float"))
    bits = b.bitcast(canonical(b, value), "i16")
    return b.bitcast(b.select(negative, Value("0", "i16"), bits), value.type)


def canonical(b: Text, value: Value) -> Value:
    """Every NaN of half as 0x7FFF; of bfloat `narrowed` gives no other."""
    if value.type != "half":
        return value
    bits = b.bitcast(value, "i16")
    nan = b.compare("icmp ugt", b.op("and", bits, 0x7FFF), 0x7C00)
    return b.bitcast(b.select(nan, b.constant("i16", 0x7FFF), bits), "half")


_PAIRS_OF_BYTES = ("e4m3x2", "e5m2x2")


def _pack_bytes(b: Builder, ins: Instruction, kind: str, source: str) -> None:
    """cvt.rn.satfinite.e4m3x2.f32 d, a, b: a goes to the upper byte; or from .f16x2."""
    if ins.opcode.modifiers - {"relu"} != {"rn", "satfinite"} or source not in ("f32", "f16x2"):
        raise ins.refuse("the CPU device has only .rn.satfinite from .f32 or .f16x2 here")
    relu = "relu" in ins.opcode.modifiers
    if source == "f16x2":
        expect(ins, 2)
        (pair,) = b.packed(ins.operands[1:], "half", ins)
        value = b.join(to_byte(b, kind, widened(b, pair), relu), "i16")
        return b.write(ins.operands[0], value, ins)
    expect(ins, 3)
    high, low = (
        b.cast("zext", to_byte(b, kind, b.real(operand, "float", ins), relu), "i16")
        for operand in ins.operands[1:]
    )
    value = b.op("or", b.op("shl", high, 8), low)
    return b.write(ins.operands[0], value, ins)


def _unpack_bytes(b: Builder, ins: Instruction, to: str, kind: str) -> None:
    """cvt.rn.f16x2.e4m3x2 d, a: exact."""
    expect(ins, 2)
    if to != "f16x2" or ins.opcode.modifiers - {"relu"} != {"rn"}:
        raise ins.refuse("the CPU device has only .rn to .f16x2 here")
    bytes_ = b.split(b.integer(ins.operands[1], 16, ins), "i8")
    if bytes_.n == 2:  # the same in all lanes
        bytes_ = b.shuffle(bytes_, None, [i % 2 for i in range(64)])
        halves = narrowed(b, from_byte(b, kind, bytes_), "half")
        halves = b.shuffle(halves, None, (0, 1))
    else:
        halves = narrowed(b, from_byte(b, kind, bytes_), "half")
    if "relu" in ins.opcode.modifiers:
        halves = at_least_zero(b, halves)
    b.write(ins.operands[0], b.join(halves, "i32"), ins)


def _pack_halves(b: Builder, ins: Instruction, to: str, source: str) -> None:
    """cvt.rn.f16x2.f32 d, a, b: a goes to the upper half."""
    expect(ins, 3)
    if source != "f32" or ins.opcode.modifiers - {"relu"} not in ({"rn"}, {"rz"}):
        raise ins.refuse("the CPU device has only .rn and .rz from .f32 here")
    parts = []
    for operand in ins.operands[1:]:
        value = _shortened(b, ins, b.real(operand, "float", ins), FLOAT_TYPES[to[:-2]])
        parts.append(b.cast("zext", b.bitcast(value, "i16"), "i32"))
    high = b.op("shl", parts[0], 16)
    b.write(ins.operands[0], b.op("or", high, parts[1]), ins)


def _to_tf32(b: Builder, ins: Instruction) -> Value:
    """Ten bits of mantissa, rounded to nearest, ties away from zero (.rna)."""
    if ins.opcode.modifiers != {"rna"}:
        raise ins.refuse("the CPU device has only .rna here")
    value = b.real(ins.operands[1], "float", ins)
    bits = b.bitcast(value, "i32")
    rounded = b.op("add", bits, 0x1000)
    size = b.op("and", bits, 0x7FFFFFFF)
    finite = b.compare("icmp ult", size, 0x7F800000)
    cut = b.op("and", b.select(finite, rounded, bits), -0x2000)
    nan = b.compare("icmp ugt", size, 0x7F800000)
    return b.select(nan, b.constant("i32", 0x7FFFFFFF), cut)


def _pack_integers(b: Builder, ins: Instruction) -> None:
    """cvt.pack.sat.u8.s32.b32 d, a, b, c: a and b, limited, below what there is room for of c."""
    to, *rest = ins.opcode.types
    behind = rest == ["s32", "b32"]
    known = to[:1] in "us" and to[1:] in (("2", "4", "8") if behind else ("16",))
    if ins.opcode.modifiers != {"pack", "sat"} or not known or rest[:1] != ["s32"]:
        raise ins.refuse("expected .sat, .u16 or .s16 from .s32, or fewer bits with .b32 behind")
    expect(ins, 4 if behind else 3)
    bits = int(to[1:])
    high, low = (
        b.op("and", _clamp(b, b.integer(operand, 32, ins), True, to), (1 << bits) - 1)
        for operand in ins.operands[1:3]
    )
    value = b.op("or", b.op("shl", high, bits), low)
    if behind:
        value = b.op("or", b.op("shl", b.integer(ins.operands[3], 32, ins), 2 * bits), value)
    b.write(ins.operands[0], value, ins)


def _integer_to_integer(b: Builder, ins: Instruction, value: Value) -> Value:
    to, source = ins.opcode.types
    _expect_rounding(ins)
    signed, bits, width = source[0] == "s", int(to[1:]), int(source[1:])
    if "sat" in ins.opcode.modifiers:
        value = _clamp(b, value, signed, to)
    if bits == width:
        return value
    extend = "sext" if signed else "zext"
    return b.cast("trunc" if bits < width else extend, value, f"i{bits}")


def _clamp(b: Builder, value: Value, signed: bool, to: str) -> Value:
    """An integer limited to what the type `to` holds."""
    bits, width = int(to[1:]), int(value.type[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if to[0] == "s" else (0, (1 << bits) - 1)
    least, most = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    kind = "s" if signed else "u"
    if high < most:
        value = b.intrinsic(f"llvm.{kind}min", value, b.constant(value.type, high))
    if low > least:
        value = b.intrinsic(f"llvm.{kind}max", value, b.constant(value.type, low))
    return value


def _integer_to_float(b: Builder, ins: Instruction, value: Value) -> Value:
    to, source = ins.opcode.types
    _expect_rounding(ins, "rn", *DIRECTED)
    name = "sitofp" if source[0] == "s" else "uitofp"
    kind, wide = FLOAT_TYPES[to], source[1:] == "64"
    if mode := ins.opcode.modifiers & DIRECTED:
        if kind != "float" or wide:
            raise ins.refuse("the CPU device has this rounding for .f32 of up to 32 bits")
        result = to_float(b, min(mode), b.cast(name, value, "double"))
    elif kind == "bfloat":
        value = _odd_integer(b, value, source[0] == "s") if wide else value
        result = narrowed_double(b, b.cast(name, value, "double"), kind)
    elif kind == "half":
        # Integers that a half can hold are exact as floats; so this rounds once.
        result = narrowed(b, b.cast(name, value, "float"), kind)
    else:
        result = b.cast(name, value, kind)
    return saturated(b, result) if "sat" in ins.opcode.modifiers else result


def _odd_integer(b: Builder, value: Value, signed: bool) -> Value:
    """An i64 of at most 53 significant bits: of larger ones the rest only sets the last bit."""
    size = b.intrinsic("llvm.abs", value, extra="i1 false") if signed else value
    rest = b.op("and", value, 0x7FF)
    some = b.compare("icmp ne", rest, 0)
    last = b.select(some, b.constant("i64", 0x800), b.constant("i64", 0))
    cut = b.op("or", b.op("and", value, -0x800), last)
    return b.select(b.compare("icmp ult", size, 1 << 53), value, cut)


def _float_to_integer(b: Builder, ins: Instruction, value: Value) -> Value:
    """Out of range saturates. NaN gives 0, or the top bit where a type has 64 bits."""
    to, source = ins.opcode.types
    _expect_rounding(ins, *_INTEGRAL)
    rounding = ins.opcode.modifiers & _INTEGRAL.keys()
    if not rounding:
        raise ins.refuse("expected a rounding, such as .rzi")
    value = widened(b, value)
    if "ftz" in ins.opcode.modifiers and source == "f32":
        value = b.flush(value)
    (mode,) = rounding
    whole = b.intrinsic(f"llvm.{_INTEGRAL[mode]}", value) if mode != "rzi" else value
    bits = int(to[1:])
    result = b.saturate("fptosi" if to[0] == "s" else "fptoui", whole, f"i{bits}")
    if source == "f64" or bits == 64:
        nan = b.compare("fcmp uno", value, value)
        result = b.select(nan, b.constant(result.type, 1 << bits - 1), result)
    return result


def _float_to_float(b: Builder, ins: Instruction, value: Value) -> Value:
    to, source = ins.opcode.types
    modifiers, kind = ins.opcode.modifiers, FLOAT_TYPES[to]
    if bits_of(kind) < bits_of(FLOAT_TYPES[source]) or {to, source} == {"f16", "bf16"}:
        _expect_rounding(ins, "rn", *DIRECTED)
    else:
        _expect_rounding(ins, *(_INTEGRAL if to == source else ("rn",)))
    if "ftz" in modifiers and source == "f32":
        value = b.flush(value)
    if to == source:
        for mode in modifiers & _INTEGRAL.keys():
            whole = b.intrinsic(f"llvm.{_INTEGRAL[mode]}", widened(b, value))
            value = narrowed(b, whole, value.type) if bits_of(value.type) == 16 else whole
    elif bits_of(kind) == 16:
        value = _shortened(b, ins, widened(b, value), kind)
    elif (to, source) == ("f32", "f64"):
        modes = modifiers & DIRECTED
        value = to_float(b, min(modes), value) if modes else b.cast("fptrunc", value, kind)
    else:
        value = b.cast("fpext", widened(b, value), kind)
    if "ftz" in modifiers and to == "f32":
        value = b.flush(value)
    return saturated(b, value) if "sat" in modifiers else value


def saturated(b: Builder, value: Value) -> Value:
    """Limited to 0..1; NaN becomes 0."""
    wide = widened(b, value)
    zero, one = (Value(text, wide.type) for text in ("0.0", "1.0"))
    positive = b.compare("fcmp ogt", wide, zero)
    wide = b.select(positive, wide, zero)
    large = b.compare("fcmp ogt", wide, one)
    wide = b.select(large, one, wide)
    return narrowed(b, wide, value.type) if bits_of(value.type) == 16 else wide
