"""Conversions between small floating-point types and binary32 by integer arithmetic.

Of binary16 for CPUs without them; of bfloat16 and the 8-bit types e4m3 and e5m2 for all.

widen_half(<32 x i16>) -> <32 x float>, widen_e4m3 and widen_e5m2(<32 x i8>): exact
narrow_half, narrow_bfloat(<32 x float>) -> <32 x i16>: rounded to nearest even; NaN is 0x7FFF
"""

from __future__ import annotations

from ..routine import Routine, routine
from ..values import Value

# Of each type: its bits, how far its exponent and mantissa are from a float's place, what then
# makes up for the difference of the biases, and from where on numbers are not finite.
_FORMS = {
    "half": (16, 13, "0x46F0000000000000", 0x7C00),  # 2^112
    "e4m3": (8, 20, "0x4770000000000000", 0x7F),  # 2^120; one NaN and no infinity
    "e5m2": (8, 21, "0x46F0000000000000", 0x7C),  # the upper half of a binary16
}


@routine("widen")
def widen(r: Routine, kind: str) -> None:
    """Widen halves: in a float's place they are too small by a power of two, which is exact."""
    bits, place, scale, special = _FORMS[kind]
    (given,) = r.takes(f"<32 x i{bits}>")
    wide = r.cast("zext", given, "i32")
    size = r.op("and", wide, (1 << bits - 1) - 1)
    placed = r.op("shl", size, place)
    scaled = r.op("fmul", r.bitcast(placed, "float"), Value(scale, "float"))
    infinite = r.op("or", placed, 0x7F800000)
    found = r.select(r.compare("icmp uge", size, special), infinite, r.bitcast(scaled, "i32"))
    sign = r.op("shl", r.op("and", wide, 1 << bits - 1), 32 - bits)
    r.ret(r.bitcast(r.op("or", found, sign), "float"))


@routine("narrow")
def narrow(r: Routine, kind: str) -> None:
    """Normal: add half a unit of the last place kept (less one, plus the last bit) and cut; the
    carry runs into the exponent, up to infinity.  Denormal: adding 0.5 lets the FPU round at 2^-24,
    a unit of the last place of 0.5 as a float."""
    (given,) = r.takes("<32 x float>")
    bits = r.bitcast(given, "i32")
    if kind == "bfloat":
        odd = r.op("and", r.op("lshr", bits, 16), 1)
        rounded = r.op("add", r.op("add", bits, 0x7FFF), odd)
        nan = r.compare("fcmp uno", given, given)
        high = r.op("lshr", r.select(nan, r.constant("i32", 0x7FFF0000), rounded), 16)
        r.ret(r.cast("trunc", high, "i16"))
        return
    size = r.op("and", bits, 0x7FFFFFFF)
    odd = r.op("and", r.op("lshr", size, 13), 1)
    offset = (1 << 12) - 1 - (127 - 15 << 23)
    normal = r.op("lshr", r.op("add", r.op("add", size, offset), odd), 13)
    half = Value("5.0e-01", "float")
    shifted = r.bitcast(r.op("fadd", r.bitcast(size, "float"), half), "i32")
    tiny = r.op("sub", shifted, 0x3F000000)
    found = r.select(r.compare("icmp ult", size, 113 << 23), tiny, normal)
    infinity, nan = r.constant("i32", 0x7C00), r.constant("i32", 0x7FFF)
    found = r.select(r.compare("icmp uge", size, 143 << 23), infinity, found)
    found = r.select(r.compare("icmp ugt", size, 0x7F800000), nan, found)
    sign = r.op("and", r.op("lshr", bits, 16), 0x8000)
    r.ret(r.cast("trunc", r.op("or", found, sign), "i16"))
