"""Tiles of the GEMMs for few rows: what a warp loads of one, and how it multiplies that.

How a warp multiplies the words as they lie is told in w4a16_gptq_gemm_decode.py.
"""

from linear_layouts import log2
from mma_operands import activations_of, load_pairs, next_group, weights_of
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_wait


@gluon.jit
def _as_mma_rows(columns):
    """[WARPS, BLOCK_N / 4, 4] in the file's order -> [WARPS, BLOCK_N] in the mma's."""
    WARPS: gl.constexpr = columns.shape[0]
    BLOCKS: gl.constexpr = columns.shape[1] // 8
    columns = columns.reshape([WARPS, BLOCKS, 8, 2, 2]).permute([0, 1, 3, 4, 2])
    return columns.reshape([WARPS, BLOCKS * 32])


@gluon.constexpr_function
def unit(dtype):
    """A weight of 1 as an operand."""
    return 1.0 if dtype == gl.bfloat16 else 2.0**-24


@gluon.constexpr_function
def zero_of(dtype):
    """A weight of 0 as an operand."""
    return 128 if dtype == gl.bfloat16 else 0


@gluon.constexpr_function
def _nibbles_asm(mask, dtype):
    if dtype == gl.bfloat16:
        return "lop3.b32 $0, $1, " + mask + ", 0x43004300, 0xea;"
    return "and.b32 $0, $1, " + mask + ";"


@gluon.jit
def _as_float(words):
    """2^23 and the lowest nibble, by its bits."""
    bits = gl.inline_asm_elementwise(
        "lop3.b32 $0, $1, 15, 0x4b000000, 0xea;", "=r,r", [words], gl.int32, is_pure=True, pack=1
    )
    return bits.to(gl.float32, bitcast=True)


@gluon.jit
def _nibbles(words, mask: gl.constexpr, dtype: gl.constexpr):
    """The two nibbles under `mask` as floats.  words [..., 2]: each word twice, one per half."""
    nibbles = gl.inline_asm_elementwise(
        _nibbles_asm(mask, dtype), "=r,r,r", [words], gl.float16, is_pure=True, pack=2
    )
    return nibbles.to(dtype, bitcast=True)


@gluon.jit
def _weights(words, mask: gl.constexpr, dtype: gl.constexpr, operand: gl.constexpr):
    """words [WARPS, 4, BLOCK_N / 4, 4] -> one mma's weights [WARPS, BLOCK_N, 16]."""
    words = gl.join(words, words)
    weights = gl.join(_nibbles(words, mask, dtype), _nibbles(words >> 8, mask, dtype))
    return weights_of(weights, 1, operand)


@gluon.jit
def load_tile(
    q, a, s, z, left, group, row,
    q_step, s_step, z_step, last_group, group_size,
    STEPS: gl.constexpr, SPAN: gl.constexpr, pairs_at: gl.constexpr, groups_at: gl.constexpr,
    WAIT: gl.constexpr = 0,
):  # fmt: skip
    """One tile of BLOCK_K k's for each warp: words and pairs a step, scales and zeros a span.

    left: [WARPS, 4], how many k's there are from this lane's first one on.
    group, row: [WARPS], the first k's group, and its row in that group.
    WAIT: whether to wait for the launches ahead before the pairs, which then come last.
    """
    words, pairs, scales, zeros = (), (), (), ()
    q_left = gl.expand_dims(gl.expand_dims(left, 2), 3)
    for i in gl.static_range(STEPS):
        # Read once and never again: to be evicted first leaves the caches to what is read again.
        fresh = gl.load(q + i * q_step, q_left > 32 * i, 0, eviction_policy="evict_first")
        words = words + (fresh,)
    if not WAIT:
        pairs = load_pairs(a, left, STEPS, pairs_at)
    for _ in gl.static_range(STEPS // SPAN):
        there = gl.minimum(group, last_group)
        there = gl.convert_layout(there, groups_at, assert_trivial=True).to(gl.int64)
        zeros = zeros + (gl.load(z + (there * z_step)[:, None]),)
        scales = scales + (gl.load(s + (there * s_step)[:, None, None]),)
        group, row = next_group(group, row, 0, 32 * SPAN, group_size)
    if WAIT:
        gdc_wait()
        pairs = load_pairs(a, left, STEPS, pairs_at)
    return words, pairs, scales, zeros


@gluon.jit
def multiply(
    total, tile, z_shift, no_zero,
    STEPS: gl.constexpr, SPAN: gl.constexpr, APART: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """total [WARPS, BLOCK_N, BLOCK_M] and a tile's products, in units of unit().

    no_zero: 2^23 less what a stored zero of 0 stands for; so each zero takes one subtraction.
    """
    WARPS: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[2]
    weights_at: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    activations_at: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    rows_at: gl.constexpr = gl.SliceLayout(2, mma)
    words, pairs, scales, zeros = tile
    dtype: gl.constexpr = scales[0].dtype
    ones = gl.full([WARPS, 16, 16], unit(dtype), dtype, weights_at)
    for span in gl.static_range(STEPS // SPAN):
        low = gl.zeros_like(total)
        high = gl.zeros_like(total)
        sums = gl.zeros([WARPS, 16, BLOCK_M], gl.float32, mma)
        for i in gl.static_range(span * SPAN, span * SPAN + SPAN):
            a0, a1 = activations_of(pairs[i], dtype, activations_at)
            low = mma_v2(_weights(words[i], "0x000f000f", dtype, weights_at), a0, low)
            if APART:
                high = mma_v2(_weights(words[i], "0x00f000f0", dtype, weights_at), a1, high)
            else:
                low = mma_v2(_weights(words[i] >> 4, "0x000f000f", dtype, weights_at), a1, low)
            sums = mma_v2(ones, a0, sums)
            sums = mma_v2(ones, a1, sums)
        for i in gl.static_range(log2(total.shape[1] // 16)):  # the same in all rows
            sums = gl.join(sums, sums).permute([0, 3, 1, 2])
            sums = sums.reshape([WARPS, 32 * 2**i, BLOCK_M])
        sums = gl.convert_layout(sums, mma, assert_trivial=True)
        zero = _as_mma_rows(no_zero - _as_float(zeros[span][:, :, None] >> z_shift))
        zero = gl.convert_layout(zero, rows_at, assert_trivial=True)[:, :, None]
        scale = _as_mma_rows(scales[span].to(gl.float32))
        scale = gl.convert_layout(scale, rows_at, assert_trivial=True)[:, :, None]
        part = low
        if APART:
            part = gl.fma(high, gl.full_like(high, 1 / 16), low)
        zero, sums = gl.broadcast(zero, sums)
        total += gl.fma(zero, sums, part) * scale
    return total
