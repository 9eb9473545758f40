"""The W4A16 GEMM of many experts for few rows each, on the experts' tensors as the file has them.

    c[id, N] = weights[id] * (a[id / top_k, K] @ expert(id)[K, N])    for each choice id

    a                       T     [cdiv(T, top_k), K]  activations
    experts                 int64 [E, 3]               addresses of each expert's qweight int32
                                                       [K/8, N], scales T [ceil(K/G), N] and qzeros
                                                       int32 [ceil(K/G), N/8]; GATED: [E, 6], those
                                                       of gate and then those of up
    sorted_token_ids        int32 [blocks * BLOCK_M]   choices by expert, in blocks; from T on: none
    expert_ids              int32 [blocks]             the expert of each block; below 0: zeros
    num_tokens_post_padded  int32 [1]                  rows of blocks that there are
    weights                 float32 [T]                multiply the rows of c; or NULL
    c                       T     [T, N]               GATED: silu(gate) * up; rounded once
    wide                    float32 [T, N]             takes the result in place of c; or NULL

T of the sizes is the number of choices, `top_k` how many of them share a row of a.  Routing is as
vLLM has it, and is never read by the host: `blocks` bounds what there may be.

How a CTA computes its BLOCK_M rows and BLOCK_N columns, GATED half of them gate's and half of them
up's, is told in w4a16_gptq_gemm_decode.py.  A row's result depends neither on the other rows nor on
its place among them.

GROUP is 128 or 32, and group_size a multiple of it, or one group is all of K.  Strides are those of
rows, in elements, the same for all experts: a fused [E, K/8, 2 N] is no other case.
"""

from decode_tiles import load_tile, multiply, unit, zero_of
from expert_tiles import address, apart
from linear_layouts import along, linear_layout, log2
from mma_operands import next_group, pairs_layout, pairs_of, words_layout, words_of
from mma_outputs import in_file_order, store_outputs
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@gluon.constexpr_function
def _outputs_layout(WARPS, BLOCK_M, BLOCK_N):
    """[WARPS, 2, BLOCK_N / 2, BLOCK_M]: a thread has every warp's part of its outputs, and both
    halves."""
    threads = 5 + log2(WARPS)
    bits = [(2, i, i + 1) for i in range(log2(BLOCK_N // 2))]
    bits = bits + [(3, i, i + 1) for i in range(log2(BLOCK_M))]
    bits = bits + [(None, 0, 1)] * (threads - len(bits))
    return linear_layout(
        [WARPS, 2, BLOCK_N // 2, BLOCK_M],
        [(0, 0, log2(WARPS)), (1, 0, 1)] + bits[threads:],
        bits[:5],
        bits[5:threads],
    )


@gluon.jit
def moe_w4a16_gptq(
    a,
    experts,
    sorted_token_ids,
    expert_ids,
    num_tokens_post_padded,
    weights,
    c,
    wide,
    T,
    N,
    K,
    E,
    group_size,
    top_k,
    blocks,
    stride_am,
    stride_qwk,
    stride_sk,
    stride_qzk,
    zero_bias,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    GROUP: gl.constexpr,
    APART: gl.constexpr,
    GATED: gl.constexpr,
    DEPENDENT: gl.constexpr = 0,
):
    if DEPENDENT == 1:  # the next launch waits for the end of this one itself
        gdc_launch_dependents()
    if DEPENDENT:
        gdc_wait()
    dtype: gl.constexpr = a.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    STRIDE: gl.constexpr = WARPS * BLOCK_K  # k's from a warp's tile to its next one
    STEPS: gl.constexpr = BLOCK_K // 32
    SPAN: gl.constexpr = GROUP // 32  # steps that surely share a group
    HALF: gl.constexpr = BLOCK_N // 8  # quads of columns
    COLUMNS: gl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    PARTS: gl.constexpr = 2 if GATED else 1
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    words_at: gl.constexpr = words_layout((1, WARPS), BLOCK_N)
    columns_at: gl.constexpr = gl.SliceLayout(1, words_at)
    quads_at: gl.constexpr = gl.SliceLayout(2, columns_at)
    groups_at: gl.constexpr = gl.SliceLayout(1, quads_at)
    left_at: gl.constexpr = along(words_at, 0, 1)
    pairs_at: gl.constexpr = pairs_layout(WARPS, BLOCK_M)

    block = gl.program_id(1)
    if block * BLOCK_M < gl.load(num_tokens_post_padded):
        expert = gl.load(expert_ids + block)
        table = experts + gl.maximum(expert, 0).to(gl.int64) * (3 * PARTS)
        own_ids = sorted_token_ids + block * BLOCK_M
        qweight = address(table, 0, gl.int32)
        scales = address(table, 1, dtype)
        qzeros = gl.load(table + 2).to(gl.pointer_type(gl.int32))

        # `// 4 * 4` tells the compiler what the sidecar's constraints promise: loads are aligned.
        a_step = (stride_am // 8).to(gl.int64) * 4  # in pairs
        q_step = (stride_qwk // 4).to(gl.int64) * 4
        s_step = (stride_sk // 4).to(gl.int64) * 4
        z_step = stride_qzk.to(gl.int64)
        first_quad = gl.program_id(0) * (COLUMNS // 4)
        last_quad = N // 4 - 1

        first_k = gl.arange(0, WARPS, gl.SliceLayout(1, left_at)) * BLOCK_K
        k = first_k[:, None] + gl.arange(0, 4, gl.SliceLayout(0, left_at))[None, :] * 8
        quad = gl.arange(0, BLOCK_N // 4, along(words_at, 2))
        q_quads = gl.minimum(first_quad + (quad % HALF if GATED else quad), last_quad) * 4
        q_quads = q_quads.to(gl.int64)
        quad = gl.arange(0, BLOCK_N // 4, gl.SliceLayout(0, quads_at))
        quads = gl.minimum(first_quad + (quad % HALF if GATED else quad), last_quad)
        s_quads = quads.to(gl.int64) * 4
        z_quads = (quads // 2).to(gl.int64)
        if GATED:
            up = gl.arange(0, BLOCK_N // 4, along(words_at, 2)) >= HALF
            q_quads += gl.where(up, apart(table, 0, 16, 4), 0)
            s_quads += gl.where(quad >= HALF, apart(table, 1, 16, 2), 0)
            z_quads += gl.where(quad >= HALF, apart(table, 2, 4, 4), 0)
        q = words_of(qweight, k, q_quads, q_step, words_at)
        r = gl.arange(0, 4, along(columns_at, 2))[None, None, :]
        s = scales + (s_quads[None, :, None] + r)
        z = qzeros + z_quads[None, :]
        z_shift = (quads % 2 * 16)[None, :, None] + r * 4

        # Fillings read the row of the block's first choice again.
        first_id = gl.minimum(gl.load(own_ids), T - 1)
        ids = gl.load(own_ids + gl.arange(0, BLOCK_M, along(pairs_at, 1)))
        rows = (gl.where(ids < T, ids, first_id) // top_k).to(gl.int64)
        pairs = pairs_of(a, k, rows, a_step, pairs_at)

        left = gl.where(expert < 0, 0, K) - k
        group = (first_k.to(gl.uint32) // group_size.to(gl.uint32)).to(gl.int32)
        row = first_k - group * group_size
        groups_on = STRIDE // group_size
        rows_on = STRIDE - groups_on * group_size
        last_group = (K - 1) // group_size
        no_zero = (0x800000 - zero_of(dtype) - zero_bias).to(gl.float32)

        # What the results need is loaded ahead of the weights, which take long enough.
        outputs_at: gl.constexpr = _outputs_layout(WARPS, BLOCK_M, BLOCK_N)
        choices = gl.load(own_ids + gl.arange(0, BLOCK_M, along(outputs_at, 3)))
        there = (choices < T) & (weights.to(gl.int64) != 0)
        factor = gl.load(weights + choices, mask=there, other=1.0)

        total = gl.zeros([WARPS, BLOCK_N, BLOCK_M], gl.float32, mma)
        tile = load_tile(
            q, pairs, s, z, left, group, row, q_step * 4, s_step, z_step, last_group, group_size,
            STEPS, SPAN, pairs_at, groups_at,
        )  # fmt: skip
        tiles = gl.cdiv(K, STRIDE)
        for pair in range(0, tiles, 2):
            # By twos, so that two tiles take turns in the registers and none is copied.
            for i in gl.static_range(2):
                if pair + i < tiles:
                    q += q_step * (STRIDE // 8)
                    pairs += STRIDE // 2
                    left -= STRIDE
                    group, row = next_group(group, row, groups_on, rows_on, group_size)
                    fresh = load_tile(
                        q, pairs, s, z, left, group, row, q_step * 4, s_step, z_step, last_group,
                        group_size, STEPS, SPAN, pairs_at, groups_at,
                    )  # fmt: skip
                    # Always true; but past a branch the assembler cannot put off the loads above.
                    if (pair + i) * STRIDE < K:
                        total = multiply(total, tile, z_shift, no_zero, STEPS, SPAN, APART, mma)
                    tile = fresh

        if DEPENDENT == 2:  # its CTAs then find all multiprocessors alike, and do not crowd
            gdc_launch_dependents()
        total = in_file_order(total, 1).reshape([WARPS, 2, BLOCK_N // 2, BLOCK_M])
        total = gl.convert_layout(total, outputs_at)
        outputs = (gl.sum(total, 0) * (1 / unit(dtype))).permute([1, 2, 0])
        low, high = gl.split(outputs)
        c_at: gl.constexpr = low.type.layout
        columns = first_quad * 4 + gl.arange(0, BLOCK_N // 2, gl.SliceLayout(1, c_at))
        ids = gl.convert_layout(choices, gl.SliceLayout(0, c_at), assert_trivial=True)
        factor = gl.convert_layout(factor, gl.SliceLayout(0, c_at), assert_trivial=True)[None, :]
        at = ids.to(gl.int64)[None, :] * N + columns[:, None]
        mask = (ids < T)[None, :] & (columns < N)[:, None]
        if GATED:
            low = low / (1 + gl.exp(-low)) * high
        low *= factor
        high *= factor
        store_outputs(low, c, at, wide, at, 0, mask, dtype)
        if not GATED:
            at += BLOCK_N // 2
            mask = (ids < T)[None, :] & (columns + BLOCK_N // 2 < N)[:, None]
            store_outputs(high, c, at, wide, at, 0, mask, dtype)
