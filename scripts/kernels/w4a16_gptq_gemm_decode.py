"""The W4A16 GEMM for few rows: c[M, N] = a[M, K] @ dequantise(qweight, qzeros, scales)[K, N].

It computes straight on the tensors of a GPTQ checkpoint, because those already lie as the tensor
cores want their operands: nothing is repacked, and no operand passes through shared memory.

    a        float16 [M, K]                 activations
    qweight  int32   [K/8, N]               eight 4-bit weights a word, low nibble first along K
    scales   float16 [ceil(K/G), N]
    qzeros   int32   [ceil(K/G), N/8]       eight 4-bit zeros a word, low nibble first along N
    c        float16 [M, N]                 fp32 accumulation, rounded once
    bias     float16 [N]                    added before rounding; or NULL
    wide     float32 [M, N], C order        takes the result in place of c; or NULL
    adds                                    1: the result is added to what `wide` holds

or bfloat16 wherever it says float16.

The words are the left operand of mma.m16n8k16 as they lie, the activations the right one, and a
lane multiplies the k's that its own loads bring; mma_operands.py says which those are.

A nibble n under the mask 0x000f000f is the float16 n * 2^-24, a subnormal, which the tensor cores
take as it is.  The nibbles of the second mma are shifted under that mask, or, where APART is 1,
they are left under 0x00f000f0, where they count 16-fold, and summed apart: fewer instructions for
more registers.  The zero z comes in once a group and not once a weight,

    sum(a * (n - z)) = sum(a * n) - z * sum(a),

where an mma with ones as weights gives sum(a); then the scale multiplies.  All that is float32.

In bfloat16 a nibble with 0x4300 above it is 128 + n, exactly, and the zero is 128 + z accordingly;
a nibble higher up would not fit, so APART is 0.

The warps of a CTA share out K, BLOCK_K = 128 at a time, and are summed at the end in a fixed order.
While a warp multiplies one tile, its loads of the next are under way.

GROUP is 128 or 32, and group_size a multiple of it, or one group is all of K.  Columns beyond N and
rows beyond M read the last one again and are not stored; k's beyond K are not read and count as
zero.  Strides are in elements; those of rows of a, qweight and scales keep the loads aligned, the
others are 1, or any for c and for rows of qzeros.  zero_bias is 1 for GPTQ v1 (the file stores
zero - 1) and 0 for GPTQ v2.

Where DEPENDENT is 1 or 2, the launch may be programmatic: it starts while launches ahead of it
still run, loads its first weights, scales and zeros, and waits for those launches before it touches
anything else.  So a, bias and c may be what any kernel writes or reads.  The weights may not: their
last writer has ended before the first of the programmatic launches in a row up to this one is
enqueued, or something that is no kernel, a copy or an event, stands in the stream in between.
The launch behind it may start at once (1), or when the products are done (2): its CTAs then find
all multiprocessors alike, and do not crowd where one was free first.
"""

from linear_layouts import along, linear_layout, log2
from mma_operands import (
    activations_of,
    first_pairs,
    first_words,
    load_pairs,
    next_group,
    pairs_layout,
    weights_of,
    words_layout,
)
from mma_outputs import in_file_order, load_bias, store_outputs
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@gluon.constexpr_function
def _outputs_layout(WARPS, BLOCK_M, BLOCK_N):
    """[WARPS, BLOCK_N, BLOCK_M]: a thread has every warp's part of its outputs."""
    threads = 5 + log2(WARPS)
    bits = [(1, i, i + 1) for i in range(log2(BLOCK_N))]
    bits = bits + [(2, i, i + 1) for i in range(log2(BLOCK_M))]
    bits = bits + [(None, 0, 1)] * (threads - len(bits))
    return linear_layout(
        [WARPS, BLOCK_N, BLOCK_M],
        [(0, 0, log2(WARPS))] + bits[threads:],
        bits[:5],
        bits[5:threads],
    )


@gluon.jit
def _as_mma_rows(columns):
    """[WARPS, BLOCK_N / 4, 4] in the file's order -> [WARPS, BLOCK_N] in the mma's."""
    WARPS: gl.constexpr = columns.shape[0]
    BLOCKS: gl.constexpr = columns.shape[1] // 8
    columns = columns.reshape([WARPS, BLOCKS, 8, 2, 2]).permute([0, 1, 3, 4, 2])
    return columns.reshape([WARPS, BLOCKS * 32])


@gluon.constexpr_function
def _unit(dtype):
    """What a weight of 1 is as an operand."""
    return 1.0 if dtype == gl.bfloat16 else 2.0**-24


@gluon.constexpr_function
def _zero_of(dtype):
    """What a weight of 0 is as an operand."""
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
def _load_tile(
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
def _multiply(
    total, tile, z_shift, no_zero,
    STEPS: gl.constexpr, SPAN: gl.constexpr, APART: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """total [WARPS, BLOCK_N, BLOCK_M] and a tile's products, in units of _unit().

    no_zero: 2^23 less what a stored zero of 0 stands for; so each zero takes one subtraction.
    """
    WARPS: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[2]
    weights_at: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    activations_at: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    rows_at: gl.constexpr = gl.SliceLayout(2, mma)
    words, pairs, scales, zeros = tile
    dtype: gl.constexpr = scales[0].dtype
    ones = gl.full([WARPS, 16, 16], _unit(dtype), dtype, weights_at)
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


@gluon.jit
def w4a16_gptq_gemm_decode(
    a,
    qweight,
    scales,
    qzeros,
    c,
    M,
    N,
    K,
    group_size,
    stride_am,
    stride_ak,
    stride_qwk,
    stride_qwn,
    stride_sk,
    stride_sn,
    stride_qzk,
    stride_qzn,
    stride_cm,
    stride_cn,
    bias,
    zero_bias,
    wide,
    adds,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    GROUP: gl.constexpr,
    APART: gl.constexpr,
    DEPENDENT: gl.constexpr = 0,
):
    if DEPENDENT == 1:  # the next launch waits for the end of this one itself
        gdc_launch_dependents()
    dtype: gl.constexpr = c.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    STRIDE: gl.constexpr = WARPS * BLOCK_K  # k's from a warp's tile to its next one
    STEPS: gl.constexpr = BLOCK_K // 32
    SPAN: gl.constexpr = GROUP // 32  # steps that surely share a group
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    words_at: gl.constexpr = words_layout((1, WARPS), BLOCK_N)
    columns_at: gl.constexpr = gl.SliceLayout(1, words_at)
    quads_at: gl.constexpr = gl.SliceLayout(2, columns_at)
    groups_at: gl.constexpr = gl.SliceLayout(1, quads_at)
    left_at: gl.constexpr = along(words_at, 0, 1)
    pairs_at: gl.constexpr = pairs_layout(WARPS, BLOCK_M)

    # `// 4 * 4` tells the compiler what the sidecar's constraints promise: loads are aligned.
    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_step = (stride_am // 8).to(gl.int64) * 4  # in pairs
    q_step = (stride_qwk // 4).to(gl.int64) * 4
    s_step = (stride_sk // 4).to(gl.int64) * 4
    z_step = stride_qzk.to(gl.int64)
    first_row = gl.program_id(0) * BLOCK_M
    first_quad = gl.program_id(1) * (BLOCK_N // 4)
    last_quad = N // 4 - 1

    first_k = gl.arange(0, WARPS, gl.SliceLayout(1, left_at)) * BLOCK_K
    k = first_k[:, None] + gl.arange(0, 4, gl.SliceLayout(0, left_at))[None, :] * 8
    q = first_words(qweight, k, first_quad, last_quad, q_step, words_at)
    a = first_pairs(a, k, first_row, M, a_step, pairs_at)

    quads = first_quad + gl.arange(0, BLOCK_N // 4, gl.SliceLayout(0, quads_at))
    quads = gl.minimum(quads, last_quad)
    r = gl.arange(0, 4, along(columns_at, 2))[None, None, :]
    s = scales + ((quads.to(gl.int64) * 4)[None, :, None] + r)
    z = qzeros + (quads // 2)[None, :]
    z_shift = (quads % 2 * 16)[None, :, None] + r * 4

    left = K - k
    group = (first_k.to(gl.uint32) // group_size.to(gl.uint32)).to(gl.int32)
    row = first_k - group * group_size
    groups_on = STRIDE // group_size
    rows_on = STRIDE - groups_on * group_size
    last_group = (K - 1) // group_size
    no_zero = (0x800000 - _zero_of(dtype) - zero_bias).to(gl.float32)

    total = gl.zeros([WARPS, BLOCK_N, BLOCK_M], gl.float32, mma)
    tile = _load_tile(
        q, a, s, z, left, group, row, q_step * 4, s_step, z_step, last_group, group_size,
        STEPS, SPAN, pairs_at, groups_at, DEPENDENT,
    )  # fmt: skip
    tiles = gl.cdiv(K, STRIDE)
    for pair in range(0, tiles, 2):
        # By twos, so that two tiles take turns in the registers and none is copied.
        for i in gl.static_range(2):
            if pair + i < tiles:
                q += q_step * (STRIDE // 8)
                a += STRIDE // 2
                left -= STRIDE
                group, row = next_group(group, row, groups_on, rows_on, group_size)
                fresh = _load_tile(
                    q, a, s, z, left, group, row, q_step * 4, s_step, z_step, last_group,
                    group_size, STEPS, SPAN, pairs_at, groups_at,
                )  # fmt: skip
                # Always true; but past a branch the assembler cannot put off the loads above.
                if (pair + i) * STRIDE < K:
                    total = _multiply(total, tile, z_shift, no_zero, STEPS, SPAN, APART, mma)
                tile = fresh

    if DEPENDENT == 2:
        gdc_launch_dependents()
    outputs_at: gl.constexpr = _outputs_layout(WARPS, BLOCK_M, BLOCK_N)
    total = gl.convert_layout(in_file_order(total, 1), outputs_at)
    outputs = gl.sum(total, 0) * (1 / _unit(dtype))

    c_at: gl.constexpr = gl.SliceLayout(0, outputs_at)
    columns = first_quad * 4 + gl.arange(0, BLOCK_N, gl.SliceLayout(1, c_at))
    rows = first_row + gl.arange(0, BLOCK_M, gl.SliceLayout(0, c_at))
    offset = load_bias(bias, columns, N)
    rows = rows.to(gl.int64)
    own_at = rows[None, :] * stride_cm + columns.to(gl.int64)[:, None] * stride_cn
    wide_at = rows[None, :] * N + columns[:, None]
    mask = (rows < M)[None, :] & (columns < N)[:, None]
    store_outputs(outputs + offset[:, None], c, own_at, wide, wide_at, adds, mask, dtype)
