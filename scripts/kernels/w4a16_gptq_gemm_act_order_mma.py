"""The W4A16 GEMM for checkpoints in activation order, where each k names its group.

    a        T       [M, K]                 activations
    qweight  int32   [K/8, N]               eight 4-bit weights a word, low nibble first along K
    scales   T       [groups, N]
    qzeros   int32   [groups, N/8]          eight 4-bit zeros a word, low nibble first along N
    g_idx    int32   [K]                    the group of each k, 0 .. groups - 1, in any order
    c        T       [M, N]                 fp32 accumulation, rounded once
    bias     T       [N]                    added before rounding; or NULL
    wide     float32 [M, N], C order        takes the result in place of c; or NULL
    adds                                    1: the result is added to what `wide` holds

T is float16 or bfloat16.  As in w4a16_gptq_gemm_decode.py, the words are operands of mma.m16n8k16
as they lie; mma_operands.py says which lane has which (g = lane / 4, t = lane % 4).

What differs is that no two k's need share a group.  So the scale and the zero come in once a
weight, before the mma: a lane looks up, for each of its eight k's, the scales (8 bytes) and the
zeros (2 bytes) of its four columns.  All groups of a CTA's columns, up to CAPACITY, lie in shared
memory; in four COPIES, so that the four lanes t, whose groups have nothing to do with each other,
read from different banks, or in one.  Where SYMMETRIC is 1 every zero is 8, and none is read.

A nibble n below 0x6400 is the float16 1024 + n, and one place higher, below 0x5400, it is 64 + n:
weight less zero is exact either way, and its product with the scale is rounded once.  In bfloat16 a
nibble below 0x4300 is 128 + n, and there is no room for it one place higher.

The warps of a CTA share out K, BLOCK_K at a time, and are summed at the end in a fixed order.
While a warp multiplies one tile, its loads of the next are under way.

Columns beyond N and rows beyond M read the last one again and are not stored; k's beyond K are not
read and count as zero.  Strides are in elements; those of rows of a, qweight, scales and c keep the
accesses aligned, those of rows of qzeros are any, the others are 1.  zero_bias is 1 for GPTQ v1
(the file stores zero - 1) and 0 for GPTQ v2.
"""

from linear_layouts import along, linear_layout, log2
from mma_operands import (
    activations_of,
    first_pairs,
    first_words,
    load_pairs,
    pairs_layout,
    weights_of,
    words_layout,
)
from mma_outputs import in_file_order, load_bias, outputs_layout, store_outputs
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2


@gluon.constexpr_function
def _lookups_layout(WARPS, BLOCK_N):
    """[WARPS, 4 (t), 8 (nibble), BLOCK_N / 4 (g, ...)]: four columns of eight k's a lane."""
    return linear_layout(
        [WARPS, 4, 8, BLOCK_N // 4],
        [(2, 0, 3), (3, 3, log2(BLOCK_N // 4))],
        [(1, 0, 2), (3, 0, 3)],
        [(0, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _dequantise_asm(dtype, odd, symmetric):
    """$0: two weights; twice each, $1: their word, $3: their zeros' word, $5: their scales,
    $7: minus the zero's bias.

    odd: nibbles lie one place higher.  The product is one fma, which also takes the zero's bias
    off: minus the scale where there is one, else minus 0.
    """
    offset = "lop3.b32 offset, $5, $7, 0x80008000, 0x6a;"  # $7 ? $5 ^ 0x80008000 : 0x80008000
    if symmetric:
        offset = "mov.b32 offset, 0x80008000;"
    mask, magic = ("0x00f000f0", "0x54005400") if odd else ("0x000f000f", "0x64006400")
    if dtype == gl.bfloat16:
        magic = "0x43004300"
    take = "lop3.b32 w, $1, " + mask + ", " + magic + ", 0xea;"
    if symmetric:  # every zero is 8
        eight = {"0x64006400": "0x64086408", "0x54005400": "0x54805480", "0x43004300": "0x43084308"}
        take = take + "mov.b32 z, " + eight[magic] + ";"
    else:
        take = take + "lop3.b32 z, $3, " + mask + ", " + magic + ", 0xea;"
    if dtype == gl.bfloat16:  # sm_80 has neither subtractions nor multiplications, only fma
        return (
            "{ .reg .b32 w, z, minus, offset; mov.b32 minus, 0xbf80bf80;" + take + offset
            + "fma.rn.bf16x2 w, z, minus, w; fma.rn.bf16x2 $0, w, $5, offset; }"
        )  # fmt: skip
    return (
        "{ .reg .b32 w, z, offset;" + take + offset
        + "sub.rn.f16x2 w, w, z; fma.rn.f16x2 $0, w, $5, offset; }"
    )  # fmt: skip


@gluon.jit
def _nibbles(values):
    """values [WARPS, 4, 8 (nibble), columns] -> (of e = 0, of e = 1) for each p, [., 4, ., h]."""
    values = values.reshape([values.shape[0], 4, 2, 2, 2, values.shape[3]])  # [., 4, e, h, p, .]
    even, odd = gl.split(values.permute([0, 1, 5, 3, 2, 4]))
    return gl.split(even), gl.split(odd)


@gluon.jit
def _pairs_of_scales(low, high):
    """Four columns' scales, 64 bits, of e = 0 and 1 -> [., 4, ., 4 (r), h], each pair 32 bits."""
    r0, r1, r2, r3 = gl.inline_asm_elementwise(
        "{ .reg .b32 a, b, c, d; mov.b64 {a, b}, $4; mov.b64 {c, d}, $5;"
        "prmt.b32 $0, a, c, 0x5410;"
        "prmt.b32 $1, a, c, 0x7632;"
        "prmt.b32 $2, b, d, 0x5410;"
        "prmt.b32 $3, b, d, 0x7632; }",
        "=&r,=&r,=&r,=&r,l,l",
        [low, high],
        (gl.int32, gl.int32, gl.int32, gl.int32),
        is_pure=True,
        pack=1,
    )
    return _by_column(gl.join(gl.join(r0, r2), gl.join(r1, r3)))


@gluon.jit
def _pairs_of_zeros(low, high, HIGH: gl.constexpr):
    """Four columns' zeros, 16 bits, of e = 0 and 1 -> [., 4, ., 4 (r), h], where nibbles are."""
    pair = low | (high << 16)
    if HIGH:
        pair = gl.join(gl.join(pair << 4, pair >> 4), gl.join(pair, pair >> 8))
    else:
        pair = gl.join(gl.join(pair, pair >> 8), gl.join(pair >> 4, pair >> 12))
    return _by_column(pair)


@gluon.jit
def _by_column(values):
    """values [., 4, ., h, r1, r0] -> [., 4, ., 4 (r), h]."""
    values = values.permute([0, 1, 2, 4, 5, 3])
    return values.reshape([values.shape[0], 4, values.shape[2], 4, 2])


@gluon.jit
def _weights(
    words,
    zeros,
    scales,
    zero_bias,
    dtype: gl.constexpr,
    odd: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    operand: gl.constexpr,
):
    """One mma's weights [WARPS, BLOCK_N, 16].

    words [WARPS, 4, BLOCK_N / 4, 4 (r)]; for e = 0 and 1, [WARPS, 4, BLOCK_N / 4, 2 (h)] each:
    zeros, 16 bits, and scales, 64 bits, of four columns.
    """
    HIGH: gl.constexpr = odd and dtype == gl.float16
    if odd and not HIGH:
        words = words >> 4
    words = gl.join(words, words >> 8)  # [., 4, ., r, h]
    zeros = _pairs_of_zeros(zeros[0], zeros[1], HIGH)
    scales = _pairs_of_scales(scales[0], scales[1])
    zeros = gl.convert_layout(zeros, words.type.layout, assert_trivial=True)
    scales = gl.convert_layout(scales, words.type.layout, assert_trivial=True)
    words = gl.join(words, words)
    weights = gl.inline_asm_elementwise(
        _dequantise_asm(dtype, HIGH, SYMMETRIC), "=r,r,r,r,r,r,r,r,r",
        [words, gl.join(zeros, zeros), gl.join(scales, scales), gl.full_like(words, -zero_bias)],
        gl.float16, is_pure=True, pack=2,
    ).to(dtype, bitcast=True)  # fmt: skip
    return weights_of(weights.permute([0, 1, 2, 3, 5, 4]), 1, operand)


@gluon.jit
def _load_weights(q, g, left, q_step, STEPS: gl.constexpr, groups_at: gl.constexpr):
    """One tile of BLOCK_K k's for each warp: words and groups a step.

    left: [WARPS, 4], how many k's there are from this lane's first one on.
    """
    words, groups = (), ()
    q_left = gl.expand_dims(gl.expand_dims(left, 2), 3)
    g_left = gl.convert_layout(left, gl.SliceLayout(2, groups_at), assert_trivial=True)[:, :, None]
    for i in gl.static_range(STEPS):
        groups = groups + (gl.load(g + i * 32, g_left > 32 * i, 0),)
        # Read once and never again: to be evicted first leaves the caches to what is read again.
        fresh = gl.load(q + i * q_step, q_left > 32 * i, 0, eviction_policy="evict_first")
        words = words + (fresh,)
    return words, groups


@gluon.constexpr_function
def _table(COPIES):
    """Bytes of 32 columns' scales and zeros in one group, in shared memory."""
    return 64 * COPIES, 16 * COPIES


@gluon.jit
def _places(t, quad, CAPACITY: gl.constexpr, COPIES: gl.constexpr, BLOCK_N: gl.constexpr):
    """Places of group 0's scales and zeros of quads of columns in shared memory, for lanes t.

    Blocks of 32 columns follow each other, first all scales, then all zeros; in each of them the
    groups.  With four copies each t has its own, in banks that no other t reads.
    """
    S_ROW: gl.constexpr = _table(COPIES)[0]
    Z_ROW: gl.constexpr = _table(COPIES)[1]
    t, quad = gl.broadcast(t, quad)
    s = quad % 8 * 8
    z = quad % 8 * 2
    if COPIES == 4:
        s = quad % 8 // 4 * 128 + t * 32 + quad % 4 * 8
        z += t * 16
    s += quad // 8 * (CAPACITY * S_ROW)
    z += quad // 8 * (CAPACITY * Z_ROW) + BLOCK_N // 32 * CAPACITY * S_ROW
    return _in_shared(s), _in_shared(z)


@gluon.jit
def _in_shared(offset):
    """The address of a byte of the table, which lies where the compiler's shared memory begins."""
    return gl.inline_asm_elementwise(
        "{ .reg .b32 base; mov.b32 base, global_smem; add.u32 $0, base, $1; }", "=r,r", [offset],
        gl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _store_shared(form: gl.constexpr, place, value, mask):
    """Gluon can only store whole blocks to shared memory, and only load whole blocks."""
    gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.u32 p, $3, 0; mov.b32 $0, 0;"
        "@p st.shared." + form + " [$1], $2; }",
        "=r,r,l,r" if form == "b64" else "=r,r,h,r", [place, value, mask.to(gl.int32)],
        gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def _fill(
    scales, qzeros, groups, first_quad, last_quad, s_step, z_step,
    CAPACITY: gl.constexpr, COPIES: gl.constexpr, SYMMETRIC: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Copy all groups' scales and zeros of a CTA's columns to shared memory."""
    S_ROW: gl.constexpr = _table(COPIES)[0]
    Z_ROW: gl.constexpr = _table(COPIES)[1]
    QUADS: gl.constexpr = BLOCK_N // 4
    AT_ONCE: gl.constexpr = 64 * gl.num_warps()
    at: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    first = gl.arange(0, AT_ONCE, at)
    quad = first % QUADS
    there = gl.minimum(first_quad + quad, last_quad)
    for item in range(0, groups * QUADS, AT_ONCE):
        group = (item + first) // QUADS
        mask = group < groups
        s = scales.cast(gl.pointer_type(gl.int64)) + group.to(gl.int64) * s_step + there
        z = qzeros.cast(gl.pointer_type(gl.uint16)) + group.to(gl.int64) * z_step + there
        scale = gl.load(s, mask)
        if not SYMMETRIC:
            zero = gl.load(z, mask)
        for t in gl.static_range(COPIES):
            s_place, z_place = _places(gl.full_like(quad, t), quad, CAPACITY, COPIES, BLOCK_N)
            _store_shared("b64", s_place + group * S_ROW, scale, mask)
            if not SYMMETRIC:
                _store_shared("u16", z_place + group * Z_ROW, zero, mask)
    gl.thread_barrier()


@gluon.jit
def _look_up(groups, s, z, COPIES: gl.constexpr, SYMMETRIC: gl.constexpr):
    """Four columns' scales and zeros for groups [WARPS, 4, 8], both [., 4, 8, BLOCK_N / 4].

    s, z: where those of group 0 are.
    """
    there = groups[:, :, :, None]
    scales = gl.inline_asm_elementwise(
        "ld.shared.b64 $0, [$1];", "=l,r", [s + there * _table(COPIES)[0]], gl.int64,
        is_pure=False, pack=1,
    )  # fmt: skip
    zeros = gl.full_like(s + there, 0)
    if not SYMMETRIC:
        zeros = gl.inline_asm_elementwise(
            "ld.shared.u16 $0, [$1];", "=r,r", [z + there * _table(COPIES)[1]], gl.int32,
            is_pure=False, pack=1,
        )  # fmt: skip
    return scales, zeros


@gluon.jit
def _multiply(
    total, words, pairs, scales, zeros, zero_bias, dtype: gl.constexpr,
    SYMMETRIC: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """total [WARPS, BLOCK_N, BLOCK_M] and a step's products."""
    weights_at: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    s0, s1 = _nibbles(scales)
    z0, z1 = _nibbles(zeros)
    a0, a1 = activations_of(pairs, dtype, gl.DotOperandLayout(1, mma, 2))
    total = mma_v2(_weights(words, z0, s0, zero_bias, dtype, 0, SYMMETRIC, weights_at), a0, total)
    return mma_v2(_weights(words, z1, s1, zero_bias, dtype, 1, SYMMETRIC, weights_at), a1, total)


@gluon.jit
def w4a16_gptq_gemm_act_order_mma(
    a,
    qweight,
    scales,
    qzeros,
    g_idx,
    c,
    M,
    N,
    K,
    groups,
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
    CAPACITY: gl.constexpr,
    COPIES: gl.constexpr,
    SYMMETRIC: gl.constexpr,
):
    dtype: gl.constexpr = c.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    STRIDE: gl.constexpr = WARPS * BLOCK_K  # k's from a warp's tile to its next one
    STEPS: gl.constexpr = BLOCK_K // 32
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    words_at: gl.constexpr = words_layout((1, WARPS), BLOCK_N)
    left_at: gl.constexpr = along(words_at, 0, 1)
    lookups_at: gl.constexpr = _lookups_layout(WARPS, BLOCK_N)
    groups_at: gl.constexpr = gl.SliceLayout(3, lookups_at)
    pairs_at: gl.constexpr = pairs_layout(WARPS, BLOCK_M)

    # `// 4 * 4` tells the compiler what the sidecar's constraints promise: loads are aligned.
    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_step = (stride_am // 8).to(gl.int64) * 4  # in pairs
    q_step = (stride_qwk // 4).to(gl.int64) * 4
    c_step = (stride_cm // 4).to(gl.int64) * 4
    first_row = gl.program_id(0) * BLOCK_M
    first_quad = gl.program_id(1) * (BLOCK_N // 4)
    last_quad = N // 4 - 1

    first_k = gl.arange(0, WARPS, gl.SliceLayout(1, left_at)) * BLOCK_K
    k = first_k[:, None] + gl.arange(0, 4, gl.SliceLayout(0, left_at))[None, :] * 8
    left = K - k
    q = first_words(qweight, k, first_quad, last_quad, q_step, words_at)
    a = first_pairs(a, k, first_row, M, a_step, pairs_at)
    g = gl.convert_layout(k, gl.SliceLayout(2, groups_at), assert_trivial=True)[:, :, None]
    g = g_idx + (g + gl.arange(0, 8, along(groups_at, 2))[None, None, :])

    total = gl.zeros([WARPS, BLOCK_N, BLOCK_M], gl.float32, mma)
    words, there = _load_weights(q, g, left, q_step * 4, STEPS, groups_at)

    THREADS: gl.constexpr = 32 * WARPS
    WORDS: gl.constexpr = BLOCK_N // 32 * CAPACITY * (_table(COPIES)[0] + _table(COPIES)[1]) // 4
    table = gl.allocate_shared_memory(
        gl.int32, [WORDS // THREADS, THREADS], gl.SwizzledSharedLayout(1, 1, 1, [0])
    )
    # A first use, so that the compiler sets the memory aside.
    at: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    table.index(0).store(gl.zeros([THREADS], gl.int32, at))
    gl.thread_barrier()
    _fill(
        scales, qzeros, groups, first_quad, last_quad, stride_sk // 4, stride_qzk * 2,
        CAPACITY, COPIES, SYMMETRIC, BLOCK_N,
    )  # fmt: skip
    quad = gl.arange(0, BLOCK_N // 4, along(lookups_at, 3))[None, None, None, :]
    t = gl.arange(0, 4, along(lookups_at, 1))[None, :, None, None]
    s, z = _places(t, quad, CAPACITY, COPIES, BLOCK_N)

    pairs = load_pairs(a, left, STEPS, pairs_at)
    tiles = gl.cdiv(K, STRIDE)
    for _ in range(0, tiles, 2):
        # By twos, so that two tiles take turns in the registers and none is copied; one too many
        # has no k's, and adds nothing.
        for _turn in gl.static_range(2):
            q += q_step * (STRIDE // 8)
            a += STRIDE // 2
            g += STRIDE
            left -= STRIDE
            fresh, next_there = _load_weights(q, g, left, q_step * 4, STEPS, groups_at)
            next_pairs = load_pairs(a, left, STEPS, pairs_at)
            for i in gl.static_range(STEPS):
                scale, zero = _look_up(there[i], s, z, COPIES, SYMMETRIC)
                total = _multiply(
                    total, words[i], pairs[i], scale, zero, zero_bias, dtype, SYMMETRIC, mma
                )
            words, pairs, there = fresh, next_pairs, next_there

    gl.thread_barrier()  # before anything else is put where the table is
    table._keep_alive()
    outputs_at: gl.constexpr = outputs_layout((1, WARPS), BLOCK_M, BLOCK_N)
    outputs = gl.sum(gl.convert_layout(in_file_order(total, 1), outputs_at), 0)

    c_at: gl.constexpr = gl.SliceLayout(0, outputs_at)
    columns = first_quad * 4 + gl.arange(0, BLOCK_N, gl.SliceLayout(1, c_at))
    rows = first_row + gl.arange(0, BLOCK_M, gl.SliceLayout(0, c_at))
    offset = load_bias(bias, columns, N)
    rows = rows.to(gl.int64)
    own_at = rows[None, :] * c_step + columns[:, None]
    wide_at = rows[None, :] * (N // 8 * 8) + columns[:, None]
    mask = (rows < M)[None, :] & (columns < N // 4 * 4)[:, None]
    store_outputs(outputs + offset[:, None], c, own_at, wide, wide_at, adds, mask, dtype)
