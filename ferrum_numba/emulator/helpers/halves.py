"""Conversions between small floating-point types and binary32 by integer arithmetic.

Of binary16 for CPUs without them; of the 8-bit types e4m3 and e5m2 for all.

widen_half(<32 x i16>) -> <32 x float>, widen_e4m3 and widen_e5m2(<32 x i8>): exact
narrow_half(<32 x float>) -> <32 x i16>: rounded to nearest even; NaN becomes a quiet NaN
"""

from __future__ import annotations

from ..library import Helpers, family


@family("widen")
def widen(helpers: Helpers, name: str, kind: str) -> str:
    if kind != "half":
        return _widen_byte(name, kind)
    # A half's exponent and mantissa, shifted into a float's place, make a number too small by
    # 2^112 (= the difference of the biases); the multiplication is exact, for denormals too.
    return f"""
define internal <32 x float> @{name}(<32 x i16> %half) #0 {{
  %bits = zext <32 x i16> %half to <32 x i32>
  %magnitude = and <32 x i32> %bits, splat (i32 32767)
  %placed = shl <32 x i32> %magnitude, splat (i32 13)
  %small = bitcast <32 x i32> %placed to <32 x float>
  %scaled = fmul <32 x float> %small, splat (float 0x46F0000000000000)
  %scaled.bits = bitcast <32 x float> %scaled to <32 x i32>
  %special = icmp uge <32 x i32> %magnitude, splat (i32 31744)
  %special.bits = or <32 x i32> %placed, splat (i32 2139095040)
  %unsigned = select <32 x i1> %special, <32 x i32> %special.bits, <32 x i32> %scaled.bits
  %sign = and <32 x i32> %bits, splat (i32 32768)
  %sign.placed = shl <32 x i32> %sign, splat (i32 16)
  %all = or <32 x i32> %unsigned, %sign.placed
  %result = bitcast <32 x i32> %all to <32 x float>
  ret <32 x float> %result
}}
"""


def _widen_byte(name: str, kind: str) -> str:
    # As for binary16.  e5m2 is the upper half of a binary16; e4m3 has one NaN and no infinity.
    place, scale, special = {
        "e4m3": (20, "0x4770000000000000", 0x7F),  # 2^120
        "e5m2": (21, "0x46F0000000000000", 0x7C),  # 2^112
    }[kind]
    return f"""
define internal <32 x float> @{name}(<32 x i8> %byte) #0 {{
  %bits = zext <32 x i8> %byte to <32 x i32>
  %magnitude = and <32 x i32> %bits, splat (i32 127)
  %placed = shl <32 x i32> %magnitude, splat (i32 {place})
  %small = bitcast <32 x i32> %placed to <32 x float>
  %scaled = fmul <32 x float> %small, splat (float {scale})
  %scaled.bits = bitcast <32 x float> %scaled to <32 x i32>
  %special = icmp uge <32 x i32> %magnitude, splat (i32 {special})
  %special.bits = or <32 x i32> %placed, splat (i32 2139095040)
  %unsigned = select <32 x i1> %special, <32 x i32> %special.bits, <32 x i32> %scaled.bits
  %sign = and <32 x i32> %bits, splat (i32 128)
  %sign.placed = shl <32 x i32> %sign, splat (i32 24)
  %all = or <32 x i32> %unsigned, %sign.placed
  %result = bitcast <32 x i32> %all to <32 x float>
  ret <32 x float> %result
}}
"""


@family("narrow")
def narrow(helpers: Helpers, name: str, _kind: str) -> str:
    # Normal: add half a unit of the last place kept (less one, plus the last bit) and cut; the
    # carry runs into the exponent, up to infinity.  Denormal: adding 0.5 lets the FPU round at
    # 2^-24, a unit of the last place of 0.5 as a float.
    return f"""
define internal <32 x i16> @{name}(<32 x float> %float) #0 {{
  %bits = bitcast <32 x float> %float to <32 x i32>
  %magnitude = and <32 x i32> %bits, splat (i32 2147483647)
  %last = lshr <32 x i32> %magnitude, splat (i32 13)
  %odd = and <32 x i32> %last, splat (i32 1)
  %rebiased = add <32 x i32> %magnitude, splat (i32 -939520001)
  %rounded = add <32 x i32> %rebiased, %odd
  %normal = lshr <32 x i32> %rounded, splat (i32 13)
  %absolute = bitcast <32 x i32> %magnitude to <32 x float>
  %shifted = fadd <32 x float> %absolute, splat (float 5.0e-01)
  %shifted.bits = bitcast <32 x float> %shifted to <32 x i32>
  %denormal = sub <32 x i32> %shifted.bits, splat (i32 1056964608)
  %is.small = icmp ult <32 x i32> %magnitude, splat (i32 947912704)
  %finite = select <32 x i1> %is.small, <32 x i32> %denormal, <32 x i32> %normal
  %is.large = icmp uge <32 x i32> %magnitude, splat (i32 1199570944)
  %bounded = select <32 x i1> %is.large, <32 x i32> splat (i32 31744), <32 x i32> %finite
  %is.nan = icmp ugt <32 x i32> %magnitude, splat (i32 2139095040)
  %unsigned = select <32 x i1> %is.nan, <32 x i32> splat (i32 32767), <32 x i32> %bounded
  %sign = lshr <32 x i32> %bits, splat (i32 16)
  %sign.bit = and <32 x i32> %sign, splat (i32 32768)
  %all = or <32 x i32> %unsigned, %sign.bit
  %result = trunc <32 x i32> %all to <32 x i16>
  ret <32 x i16> %result
}}
"""
