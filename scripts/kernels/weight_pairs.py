"""Weights of a word, dequantised two at once, as registers of a left operand have them.

A nibble n becomes a weight exactly: under the mask 0x000f000f, with 0x6400 above it, it is the
float16 1024 + n, and under 0x00f000f0 it is 1024 + 16 n; one addition or fma makes n - z of it.
The scale multiplies that, rounded as a dequantised weight would be.  In bfloat16 128 + n takes the
place of 1024 + n.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def _dequantise_asm(dtype, odd):
    """$0: two weights of the word $1; twice each, $3: minus zero and offset, $5: the scale."""
    if dtype == gl.bfloat16:  # sm_80 has neither additions nor multiplications, only fma
        shift = "shr.u32 w, $1, 4;" if odd else "mov.b32 w, $1;"
        return (
            "{ .reg .b32 w, one, none;" + shift + "mov.b32 one, 0x3f803f80;"
            "mov.b32 none, 0x80008000;"
            "lop3.b32 w, w, 0x000f000f, 0x43004300, 0xea;"
            "fma.rn.bf16x2 w, w, one, $3;"
            "fma.rn.bf16x2 $0, w, $5, none; }"
        )
    if odd:
        return (
            "{ .reg .b32 w, part; mov.b32 part, 0x2c002c00;"
            "lop3.b32 w, $1, 0x00f000f0, 0x64006400, 0xea;"
            "fma.rn.f16x2 w, w, part, $3;"
            "mul.rn.f16x2 $0, w, $5; }"
        )
    return (
        "{ .reg .b32 w;"
        "lop3.b32 w, $1, 0x000f000f, 0x64006400, 0xea;"
        "add.rn.f16x2 w, w, $3;"
        "mul.rn.f16x2 $0, w, $5; }"
    )


@gluon.jit
def _pair(words, zero, scale, odd: gl.constexpr, dtype: gl.constexpr):
    """words [..., 2], each twice -> the two weights of a register."""
    pair = gl.inline_asm_elementwise(
        _dequantise_asm(dtype, odd), "=r,r,r,r,r,r,r", [words, zero, scale], gl.float16,
        is_pure=True, pack=2,
    )  # fmt: skip
    return pair.to(dtype, bitcast=True)


@gluon.jit
def pairs(words, zero, scale, odd: gl.constexpr, dtype: gl.constexpr):
    """Weights of the nibbles i and i + 4 (e) of each word, i = 0, 2 (h) or, odd, 1, 3.

    words [...], zero as `offsets_of` has it, scale twice as 16 bits -> [..., 2 (e), 2 (h)]
    """
    _, zero = gl.broadcast(words, zero)
    _, scale = gl.broadcast(words, scale)
    twice = gl.join(words, words)
    zero = gl.join(zero, zero)
    scale = gl.join(scale, scale)
    low = _pair(twice, zero, scale, odd, dtype)
    return gl.join(low, _pair(twice >> 8, zero, scale, odd, dtype))


@gluon.jit
def offsets_of(zero, zero_bias, dtype: gl.constexpr):
    """Minus the zero and its offset, twice each as 16 bits: for even and for odd nibbles."""
    # One multiplication and addition each: what is added is the same for all tiles.
    if dtype == gl.bfloat16:
        even = zero * 0x10001 + (zero_bias + 0xC300) * 0x10001
        odd = even
    else:
        even = zero * 0x10001 + (zero_bias + 0xE400) * 0x10001
        odd = zero * 0x100010 + (zero_bias * 16 + 0xD400) * 0x10001
    return even, odd
