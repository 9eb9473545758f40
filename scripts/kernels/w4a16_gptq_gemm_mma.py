"""The W4A16 GEMM for more rows than the decode kernel's: c[M, N] = a[M, K] @ dequantise(...)[K, N].

It computes on the tensors of a GPTQ checkpoint as they are, on every GPU from sm_80 on.

    a        float16 [M, K]                 activations
    qweight  int32   [K/8, N]               eight 4-bit weights a word, low nibble first along K
    scales   float16 [ceil(K/G), N]
    qzeros   int32   [ceil(K/G), N/8]       eight 4-bit zeros a word, low nibble first along N
    c        float16 [M, N]                 fp32 accumulation, rounded once
    bias     float16 [N]                    added before rounding; or NULL
    wide     float32 [M, N], C order        takes the result in place of c; or NULL
    adds                                    1: the result is added to what `wide` holds

or bfloat16 wherever it says float16.

As in the decode kernel, the words are operands of mma.m16n8k16 as they lie: mma_operands.py says
which lane has which, and weight_pairs.py how nibbles become weights.

Everything passes through rings in shared memory by cp.async, BLOCK_K k's at a time, STAGES deep;
mma_rings.py has their layouts.
WARPS_K groups of warps share out each tile's k's, and are summed at the end; a group's warps lie
along c's columns.

The grid is one-dimensional.  Blocks of c go to one CTA each, in as many full rounds of CTAS (about
what the GPU runs at once) as there are; the blocks left over are split along K among the CTAs left
over.  Those put float32 sums into `workspace` and count themselves in `counters`, zero before and
after; the last to arrive adds up all parts in their order, so that every run gives the same bits.

GROUP is 128 or 32, and group_size a multiple of it, or one group is all of K.  Columns beyond N and
rows beyond M read the last ones again and are not stored; k's beyond K are not read and count as
zero.  Strides are in elements; those of rows of a, qweight, scales and c keep accesses aligned,
that of rows of qzeros is any, the others are 1.  zero_bias is 1 for GPTQ v1 (the file stores
zero - 1) and 0 for GPTQ v2.
"""

from linear_layouts import along
from mma_operands import weights_of
from mma_outputs import in_file_order, load_bias, outputs_layout, store_outputs
from mma_rings import (
    allocate_rings,
    fetch_activations,
    fetch_weights,
    load_activations,
    load_scales,
    load_words,
    load_zeros,
)
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2
from weight_pairs import offsets_of, pairs


@gluon.jit
def _weights(
    words, zero, scale, odd: gl.constexpr, dtype: gl.constexpr, WARPS_N: gl.constexpr,
    operand: gl.constexpr,
):  # fmt: skip
    """words [WARPS_K, 4, BLOCK_N / 4, 4] -> one mma's weights [WARPS_K, BLOCK_N, 16].

    odd: which of the two mma's, p.
    """
    return weights_of(pairs(words, zero, scale, odd, dtype), WARPS_N, operand)


@gluon.jit
def _scales_and_zeros(
    s_slot, z_slot, zero_bias, span: gl.constexpr, SHARE: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Scale, and minus the zero and its offset for the even and for the odd mma, of each of a
    lane's words [WARPS_K, 1, BLOCK_N / 4, 4]: twice each, as two 16-bit numbers."""
    scale = load_scales(s_slot, span, SHARE, BLOCK_N)
    zero = load_zeros(z_slot, span, SHARE, BLOCK_N)
    even, odd = offsets_of(zero, zero_bias, s_slot.dtype)
    return gl.expand_dims(scale * 0x10001, 1), gl.expand_dims(even, 1), gl.expand_dims(odd, 1)


@gluon.jit
def _first(
    a, qweight, scales, qzeros, first_row, first_column, begin_k, end_k, M, N, group_size,
    a_step, q_step, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, PART_K: gl.constexpr,
    WARPS_K: gl.constexpr, STEPS: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """The first tile's elements: their places, how many k's are from each on, and their groups.

    activations [STEPS, WARPS_K * BLOCK_M, 16 pairs of k's]
    words       [STEPS, WARPS_K * 4, BLOCK_N]
    scales      [SPANS, WARPS_K, BLOCK_N]      without their group, as zeros
    zeros       [SPANS, WARPS_K, BLOCK_N / 8]
    """
    WARPS: gl.constexpr = gl.num_warps()
    ACROSS: gl.constexpr = min(WARPS, WARPS_K * 4)
    a_at: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 8, 4], [1, WARPS, 1], [2, 1, 0])
    q_at: gl.constexpr = gl.BlockedLayout(
        [1, 1, 4], [1, 1, 32], [1, ACROSS, WARPS // ACROSS], [2, 1, 0]
    )
    s_at: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 1, 32], [1, 1, WARPS], [2, 1, 0])
    z_at: gl.constexpr = gl.BlockedLayout([1, 1, 1], [1, 1, 32], [1, 1, WARPS], [2, 1, 0])

    lines = gl.arange(0, WARPS_K * BLOCK_M, along(a_at, 1))[None, :, None]
    pairs = gl.arange(0, 16, along(a_at, 2))[None, None, :]
    pairs += gl.arange(0, STEPS, along(a_at, 0))[:, None, None] * 16
    pairs += begin_k // 2 + lines // BLOCK_M * (PART_K // 2)
    rows = gl.minimum(first_row + lines % BLOCK_M, M - 1).to(gl.int64)
    a = a.cast(gl.pointer_type(gl.int32)) + (rows * a_step + pairs)
    a_left = end_k - pairs // 4 * 8

    lines = gl.arange(0, WARPS_K * 4, along(q_at, 1))[None, :, None]
    k8 = begin_k // 8 + lines // 4 * (PART_K // 8) + lines % 4
    k8 += gl.arange(0, STEPS, along(q_at, 0))[:, None, None] * 4
    columns = gl.arange(0, BLOCK_N, along(q_at, 2))[None, None, :]
    columns = gl.minimum((first_column + columns) // 4, N // 4 - 1) * 4 + columns % 4
    q = qweight + (k8.to(gl.int64) * q_step + columns.to(gl.int64))
    q_left = end_k - k8 * 8

    columns = gl.arange(0, BLOCK_N, along(s_at, 2))[None, None, :]
    columns = gl.minimum((first_column + columns) // 8, N // 8 - 1) * 8 + columns % 8
    s = scales + gl.broadcast(columns, gl.zeros([SPANS, WARPS_K, 1], gl.int32, s_at))[0]
    columns = first_column // 8 + gl.arange(0, BLOCK_N // 8, along(z_at, 2))[None, None, :]
    columns = gl.minimum(columns, N // 8 - 1)
    z = qzeros + gl.broadcast(columns, gl.zeros([SPANS, WARPS_K, 1], gl.int32, z_at))[0]

    groups_at: gl.constexpr = gl.SliceLayout(2, s_at)
    k = gl.arange(0, SPANS, gl.SliceLayout(1, groups_at))[:, None] * (PART_K // SPANS)
    k += begin_k + gl.arange(0, WARPS_K, gl.SliceLayout(0, groups_at))[None, :] * PART_K
    group = (k.to(gl.uint32) // group_size.to(gl.uint32)).to(gl.int32)
    row = k - group * group_size
    return (a, a_left), (q, s, z), q_left, (group, row)


@gluon.jit
def _multiply(
    activations, pointers, left, place, steps, tiles, K, group_size, zero_bias,
    SHARE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    STEPS: gl.constexpr, SPANS: gl.constexpr, STAGES: gl.constexpr,
    dtype: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """The products of `tiles` tiles along K: [WARPS_K, BLOCK_N, BLOCK_M]."""
    WARPS_N: gl.constexpr = SHARE[0]
    WARPS_K: gl.constexpr = SHARE[1]
    SPAN: gl.constexpr = STEPS // SPANS
    weights_at: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    activations_at: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    # Tiles take turns in two sets of rings: where one is read, the next tiles go into the other,
    # and one barrier a tile is enough, as the compiler can see.
    DEPTH: gl.constexpr = STAGES // 2
    sets = ()
    for _ in gl.static_range(2):
        sets = sets + (allocate_rings(dtype, DEPTH, STEPS, SPANS, WARPS_K, BLOCK_M, BLOCK_N),)
    a, a_left = activations
    for i in gl.static_range(STAGES - 1):
        pointers, left, place = fetch_weights(
            sets[i % 2], i // 2, pointers, left, place, steps, K, group_size, BLOCK_K
        )
    for i in gl.static_range(STAGES - 1):
        a, a_left = fetch_activations(sets[i % 2], i // 2, a, a_left, BLOCK_K)
    total = gl.zeros([WARPS_K, BLOCK_N, BLOCK_M], gl.float32, mma)
    slot = 0
    before = DEPTH - 1
    for pair in range(0, tiles, 2):
        for i in gl.static_range(2):
            if pair + i < tiles:
                async_copy.wait_group(STAGES - 2)
                free = before if i == 0 else slot
                pointers, left, place = fetch_weights(
                    sets[1 - i], free, pointers, left, place, steps, K, group_size, BLOCK_K
                )
                a, a_left = fetch_activations(sets[1 - i], free, a, a_left, BLOCK_K)
                a_ring, q_ring, s_ring, z_ring = sets[i]
                for span in gl.static_range(SPANS):
                    scale, even, odd = _scales_and_zeros(
                        s_ring.index(slot), z_ring.index(slot), zero_bias, span, SHARE, BLOCK_N
                    )
                    for step in gl.static_range(span * SPAN, span * SPAN + SPAN):
                        words = load_words(q_ring.index(slot), step, SHARE, BLOCK_N)
                        a0, a1 = load_activations(
                            a_ring.index(slot), step, dtype, SHARE, BLOCK_M, activations_at
                        )
                        w0 = _weights(words, even, scale, False, dtype, WARPS_N, weights_at)
                        total = mma_v2(w0, a0, total)
                        w1 = _weights(words, odd, scale, True, dtype, WARPS_N, weights_at)
                        total = mma_v2(w1, a1, total)
        before = slot
        slot = gl.where(slot == DEPTH - 1, 0, slot + 1)
    async_copy.wait_group(0)
    return total


@gluon.jit
def w4a16_gptq_gemm_mma(
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
    workspace,
    counters,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    WARPS_K: gl.constexpr,
    STAGES: gl.constexpr,
    CTAS: gl.constexpr,
    GROUP: gl.constexpr,
):
    WARPS: gl.constexpr = gl.num_warps()
    WARPS_N: gl.constexpr = WARPS // WARPS_K
    SHARE: gl.constexpr = (WARPS_N, WARPS_K)
    PART_K: gl.constexpr = BLOCK_K // WARPS_K  # k's of a tile for each of the warps along K
    STEPS: gl.constexpr = PART_K // 32
    SPANS: gl.constexpr = max(1, PART_K // GROUP)
    SIZE: gl.constexpr = BLOCK_M * BLOCK_N
    AT_ONCE: gl.constexpr = max(1, min(4, 64 // (SIZE // (32 * WARPS))))  # 64 registers
    dtype: gl.constexpr = a.dtype.element_ty
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS_K, WARPS_N, 1], [1, 16, 8])
    outputs_at: gl.constexpr = outputs_layout(SHARE, BLOCK_M, BLOCK_N)
    c_at: gl.constexpr = gl.SliceLayout(0, outputs_at)

    # `// 4 * 4` tells the compiler what the sidecar's constraints promise: loads are aligned.
    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_step = (stride_am // 8).to(gl.int64) * 4  # in pairs
    q_step = (stride_qwk // 4).to(gl.int64) * 4
    s_step = (stride_sk // 8).to(gl.int64) * 8
    z_step = stride_qzk.to(gl.int64)
    c_step = (stride_cm // 4).to(gl.int64) * 4

    # Whole blocks for as many full rounds of CTAs as there are; the rest is split along K.
    high = gl.cdiv(M, BLOCK_M)
    blocks = high * gl.cdiv(N, BLOCK_N)
    whole = blocks // CTAS * CTAS
    block = gl.program_id(0)
    part = 0
    parts = 1
    if block >= whole:
        parts = (gl.num_programs(0) - whole) // (blocks - whole)
        part = (block - whole) % parts
        block = whole + (block - whole) // parts
    deep = gl.cdiv(K, BLOCK_K)
    begin = deep * part // parts
    end = deep * (part + 1) // parts
    first_row = block % high * BLOCK_M
    first_column = block // high * BLOCK_N

    activations, pointers, left, place = _first(
        a, qweight, scales, qzeros, first_row, first_column, begin * BLOCK_K,
        gl.minimum(end * BLOCK_K, K), M, N, group_size, a_step, q_step,
        BLOCK_M, BLOCK_N, PART_K, WARPS_K, STEPS, SPANS,
    )  # fmt: skip
    total = _multiply(
        activations, pointers, left, place, (q_step, s_step, z_step), end - begin, K, group_size,
        zero_bias, SHARE, BLOCK_M, BLOCK_N, BLOCK_K, STEPS, SPANS, STAGES, dtype, mma,
    )  # fmt: skip
    total = in_file_order(total, WARPS_N)
    outputs = gl.sum(gl.convert_layout(total, outputs_at, assert_trivial=WARPS_K == 1), 0)

    n = gl.arange(0, BLOCK_N, gl.SliceLayout(1, c_at))
    m = gl.arange(0, BLOCK_M, gl.SliceLayout(0, c_at))
    complete = True
    if parts > 1:
        there = workspace + (m[None, :] * BLOCK_N + n[:, None])
        there += ((block - whole) * parts).to(gl.int64) * SIZE
        gl.store(there + part * SIZE, outputs)
        gl.thread_barrier()  # all of this CTA's stores come before its arrival
        arrived = gl.atomic_add(counters + (block - whole), 1, sem="acq_rel", scope="gpu")
        complete = arrived == parts - 1
        if complete:
            gl.store(counters + (block - whole), 0)
            outputs = gl.zeros_like(outputs)
            for first in range(0, parts, AT_ONCE):
                found = ()
                for i in gl.static_range(AT_ONCE):
                    here = there + (first + i) * SIZE
                    mask = first + i < parts
                    found = found + (gl.load(here, mask=mask, other=0, cache_modifier=".cg"),)
                for i in gl.static_range(AT_ONCE):
                    outputs += found[i]
    if complete:
        n += first_column
        m += first_row
        outputs += load_bias(bias, n, N)[:, None]
        own_at = m.to(gl.int64)[None, :] * c_step + n[:, None]
        wide_at = m.to(gl.int64)[None, :] * (N // 8 * 8) + n[:, None]
        mask = (m < M)[None, :] & (n < N // 4 * 4)[:, None]
        store_outputs(outputs, c, own_at, wide, wide_at, adds, mask, dtype)
