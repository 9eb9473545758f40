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

from decode_tiles import load_tile, multiply, unit, zero_of
from linear_layouts import along, linear_layout, log2
from mma_operands import first_pairs, first_words, next_group, pairs_layout, words_layout
from mma_outputs import in_file_order, load_bias, store_outputs
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents


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
    no_zero = (0x800000 - zero_of(dtype) - zero_bias).to(gl.float32)

    total = gl.zeros([WARPS, BLOCK_N, BLOCK_M], gl.float32, mma)
    tile = load_tile(
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
                fresh = load_tile(
                    q, a, s, z, left, group, row, q_step * 4, s_step, z_step, last_group,
                    group_size, STEPS, SPAN, pairs_at, groups_at,
                )  # fmt: skip
                # Always true; but past a branch the assembler cannot put off the loads above.
                if (pair + i) * STRIDE < K:
                    total = multiply(total, tile, z_shift, no_zero, STEPS, SPAN, APART, mma)
                tile = fresh

    if DEPENDENT == 2:
        gdc_launch_dependents()
    outputs_at: gl.constexpr = _outputs_layout(WARPS, BLOCK_M, BLOCK_N)
    total = gl.convert_layout(in_file_order(total, 1), outputs_at)
    outputs = gl.sum(total, 0) * (1 / unit(dtype))

    c_at: gl.constexpr = gl.SliceLayout(0, outputs_at)
    columns = first_quad * 4 + gl.arange(0, BLOCK_N, gl.SliceLayout(1, c_at))
    rows = first_row + gl.arange(0, BLOCK_M, gl.SliceLayout(0, c_at))
    offset = load_bias(bias, columns, N)
    rows = rows.to(gl.int64)
    own_at = rows[None, :] * stride_cm + columns.to(gl.int64)[:, None] * stride_cn
    wide_at = rows[None, :] * N + columns[:, None]
    mask = (rows < M)[None, :] & (columns < N)[:, None]
    store_outputs(outputs + offset[:, None], c, own_at, wide, wide_at, adds, mask, dtype)
