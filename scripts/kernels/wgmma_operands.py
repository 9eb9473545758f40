"""Weights as the left operand of wgmma: which bits of the file's words each lane takes, and how.

wgmma wants of a lane (g = lane / 4, t = lane % 4) the weights of rows g and g + 8 and of
k = 2t, 2t + 1 of each eight.  These two k's are byte t of a word, so the four lanes of a quad read
the same words, and each picks its byte.  Rows g and g + 8 are the columns 2g and 2g + 1 of the
file, so that a lane reads two words at once and in the end stores two neighbours of c.  Bits of a
column's number, low to high: in the file [r, g0, g1, g2, ...], in wgmma [g0, g1, g2, r, ...].

A byte (low, high) becomes two float16 numbers exactly, by the bits of 1024 = 0x6400:

    {0x6400 | low, 0x6400 | high << 4} = {1024 + low, 1024 + 16 high}
    fma by {1, 1/16} and {-1024 - z, -64 - z} = {low - z, high - z}

and bfloat16 likewise by 128 = 0x4300, with the high nibble shifted down first.  One multiplication
by the scale, rounded, follows.
"""

from linear_layouts import along, linear_layout, log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from wgmma_products import pieces_of


@gluon.constexpr_function
def weights_layout(EIGHTS, BLOCK_N, WARPS):
    """[EIGHTS (k / 8), BLOCK_N / 8, 8 (g1, g0, r), 4 (t), 2]: the left operand of wgmma."""
    rows = 1 + log2(WARPS)
    return linear_layout(
        [EIGHTS, BLOCK_N // 8, 8, 4, 2],
        [(4, 0, 1), (2, 0, 1), (0, 0, log2(EIGHTS)), (1, rows, log2(BLOCK_N // 8))],
        [(3, 0, 2), (2, 1, 3), (1, 0, 1)],
        [(1, 1, rows)],
    )


@gluon.jit
def affine(scales, zeros, zero_bias, at: gl.constexpr):
    """Summands and factors of _dequantise, for the columns of `scales` [BLOCK_N / 8, 8]."""
    scale = scales.load(along(at, 1, 2))[None, :, :, None, None]
    zero = zeros.load(along(at, 1))[None, :, None, None, None]
    high = gl.arange(0, 2, along(at, 4))[None, None, None, None, :]
    shift = (gl.arange(0, 8, along(at, 2)) * 4)[None, None, :, None, None]
    zero = ((zero >> shift) & 15) + zero_bias
    if scale.dtype == gl.float16:
        zero = gl.where(high == 0, 0xE400 + zero, 0xD400 + zero * 16)  # -1024 - zero, -64 - zero
    else:
        zero = 0xC300 + zero + high * 0  # -128 - zero
    return zero.to(gl.int16).to(scale.dtype, bitcast=True), scale


@gluon.jit
def _dequantise(words, byte, zero, scale):
    """The two weights in one byte of each word; all are [..., 2], the same word in both."""
    if scale.dtype == gl.float16:
        weights = gl.inline_asm_elementwise(
            "{ .reg .b32 both, factor;"
            "mov.b32 factor, 0x2c003c00;"  # {1, 1/16}
            "prmt.b32 both, $1, 0, $3;"
            "lop3.b32 both, both, 0x00f0000f, 0x64006400, 0xea;"
            "fma.rn.f16x2 both, both, factor, $5;"
            "mul.f16x2 $0, both, $6; }",
            "=r,r,r,r,r,r,r", [words, byte * 0x0101 + 0x4040, zero, scale], gl.float16,
            is_pure=True, pack=2,
        )  # fmt: skip
    else:
        weights = gl.inline_asm_elementwise(
            "{ .reg .b32 both;"
            "shr.u32 both, $1, 4;"
            "prmt.b32 both, $1, both, $3;"
            "lop3.b32 both, both, 0x000f000f, 0x43004300, 0xea;"
            "add.bf16x2 both, both, $5;"
            "mul.bf16x2 $0, both, $6; }",
            "=r,r,r,r,r,r,r", [words, byte * 0x0101 + 0x0400, zero, scale], gl.bfloat16,
            is_pure=True, pack=2,
        )  # fmt: skip
    return weights


@gluon.constexpr_function
def _words_layout(EIGHTS, BLOCK_N, WARPS):
    """[EIGHTS, BLOCK_N]: the words of weights_layout, the same for all lanes of a quad."""
    columns = 4 + log2(WARPS)
    return linear_layout(
        [EIGHTS, BLOCK_N],
        [(1, 0, 1), (0, 0, log2(EIGHTS)), (1, columns, log2(BLOCK_N))],
        [(None, 0, 2), (1, 1, 4)],
        [(1, 4, columns)],
    )


@gluon.jit
def no_words(BLOCK_N: gl.constexpr, at: gl.constexpr):
    """As many as load_words gives of eight rows, which the swizzle has together."""
    EIGHTS: gl.constexpr = at.shape[0]
    words = ()
    for _ in gl.static_range(max(1, 8 // EIGHTS)):
        words += (gl.zeros([EIGHTS, BLOCK_N // 8, 8], gl.int32, along(at, 0, 1, 2)),)
    return words


@gluon.jit
def load_words(words, at: gl.constexpr):
    """words [EIGHTS times a power of two, BLOCK_N] in shared memory -> so many for weights_of."""
    EIGHTS: gl.constexpr = at.shape[0]
    ROWS: gl.constexpr = words.shape[0]
    BLOCK_N: gl.constexpr = words.shape[1]
    own: gl.constexpr = along(at, 0, 1, 2)
    loaded = words.load(_words_layout(ROWS, BLOCK_N, gl.num_warps()))
    pieces = pieces_of(loaded.permute([1, 0]), ROWS, EIGHTS)
    parts = ()
    for i in gl.static_range(len(pieces)):
        part = pieces[i].permute([1, 0]).reshape([EIGHTS, BLOCK_N // 8, 8])
        parts += (gl.convert_layout(part, own, assert_trivial=True),)
    return parts


@gluon.jit
def weights_of(words, zero, scale, at: gl.constexpr, operand: gl.constexpr):
    """words [EIGHTS, BLOCK_N / 8, 8] of load_words -> [BLOCK_N, 8 * EIGHTS] for wgmma."""
    EIGHTS: gl.constexpr = words.shape[0]
    BLOCK_N: gl.constexpr = words.shape[1] * 8
    words = words[:, :, :, None, None]
    byte = gl.arange(0, 4, along(at, 3))[None, None, None, :, None]
    words, byte = gl.broadcast(words, byte)
    words, zero = gl.broadcast(words, zero)
    byte, zero = gl.broadcast(byte, zero)
    words, scale = gl.broadcast(words, scale)
    weights = _dequantise(words, byte, zero, scale)
    # [k / 8, ..., g2, g1 g0, r, t, k % 2]
    weights = weights.reshape([EIGHTS, BLOCK_N // 16, 2, 4, 2, 4, 2])
    weights = weights.permute([1, 4, 2, 3, 0, 5, 6]).reshape([BLOCK_N, 8 * EIGHTS])
    return gl.convert_layout(weights, operand, assert_trivial=True)
