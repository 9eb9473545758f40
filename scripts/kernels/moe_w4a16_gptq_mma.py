"""The W4A16 GEMM of many experts for some rows each, on the experts' tensors as the file has them.

Parameters, routing and results are those of moe_w4a16_gptq.py, blocks being of UNIT rows, but

    tiles    int32 [1 + blocks]   how many tiles there are, and of each its first block and how many
                                  blocks of one expert it has, up to BLOCK_M / UNIT, as
                                  16 * first + count; or NULL: each block is a tile
    lines                         how many tiles there may be
    c, wide                       SORTED: as moe_w4a16_gptq_wgmma.py wants them to read, which is
                                  [blocks * UNIT, cdiv(N, 32) * 32] in the order of blocks

A CTA takes one tile and BLOCK_N columns, GATED half of them gate's and half of them up's, and
multiplies its blocks together, as the next number of blocks that SIZES has (bit i: i); the weights
are dequantised once.  Everything passes through rings in shared memory, as in
w4a16_gptq_gemm_mma.py; its warps lie along columns.
"""

from expert_tiles import address, apart, permuted, size_of, variants
from linear_layouts import along, linear_layout, log2
from mma_operands import next_group, weights_of, words_layout
from mma_outputs import in_file_order, outputs_layout, store_outputs
from mma_rings import allocate_rings, load_activations, load_scales, load_words, load_zeros
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from weight_pairs import offsets_of, pairs


@gluon.constexpr_function
def _heights(ROWS):
    """Powers of two that add up to the rows of a tile, the highest first."""
    return tuple(1 << bit for bit in range(ROWS.bit_length() - 1, -1, -1) if ROWS >> bit & 1)


@gluon.constexpr_function
def _first_row(ROWS, HEIGHT):
    """The first row of the piece of that height."""
    return ROWS // (2 * HEIGHT) * (2 * HEIGHT)


@gluon.jit
def _columns(
    at, table, place: gl.constexpr, size: gl.constexpr, first, N, BLOCK_N: gl.constexpr,
    EACH: gl.constexpr, TURN: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """Places of a tile's elements in a row of gate's tensor, EACH of them read at a time.

    GATED: TURN elements of gate's and TURN of up's take turns.  size: bytes of an element.
    N: elements of a row, a multiple of EACH.
    """
    n = gl.arange(0, BLOCK_N, at)
    up = n // TURN % 2 == 1
    if GATED:
        n = n // (2 * TURN) * TURN + n % TURN
    n = (gl.minimum((first + n) // EACH, N // EACH - 1) * EACH + n % EACH).to(gl.int64)
    if GATED:
        n += gl.where(up, apart(table, place, EACH * size, size), 0)
        n = gl.max_contiguous(gl.multiple_of(n, EACH), EACH)
    return n


@gluon.jit
def _first_activations(
    a, own_ids, rows, there, T, top_k, a_step, BLOCK_M: gl.constexpr
):  # fmt: skip
    """The first 32 k's activations: their places, and how many k's are from each on."""
    at: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 8, 4], [1, gl.num_warps(), 1], [2, 1, 0])
    k_pairs = gl.arange(0, 16, along(at, 2))[None, None, :]
    m = gl.arange(0, BLOCK_M, along(at, 1))[None, :, None]
    ids = gl.load(own_ids + m, mask=m < rows, other=T)
    own = (gl.minimum(ids, T - 1) // top_k).to(gl.int64) * a_step
    # Of fillings nothing is read.
    left = (ids < T).to(gl.int32) * there - k_pairs // 4 * 8
    return a.cast(gl.pointer_type(gl.int32)) + (own + k_pairs), left


@gluon.jit
def _first_weights(
    table, first_column, there, N, group_size, steps, dtype: gl.constexpr, BLOCK_N: gl.constexpr,
    STEPS: gl.constexpr, SPANS: gl.constexpr, SPAN_K: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """The first step's words, and how many k's there are from each on; and its scales and zeros,
    the row of each span's first k in its group, and how many k's there are from that on.
    """
    _, q_step, s_step, z_step = steps
    WARPS: gl.constexpr = gl.num_warps()
    ACROSS: gl.constexpr = min(WARPS, 4)
    q_at: gl.constexpr = gl.BlockedLayout(
        [1, 1, 4], [1, 1, 32], [1, ACROSS, WARPS // ACROSS], [2, 1, 0]
    )
    s_at: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 1, 32], [1, 1, WARPS], [2, 1, 0])
    z_at: gl.constexpr = gl.BlockedLayout([1, 1, 1], [1, 1, 32], [1, 1, WARPS], [2, 1, 0])

    qweight = address(table, 0, gl.int32)
    k8 = gl.arange(0, 4, along(q_at, 1))[None, :, None]
    k8 += gl.arange(0, STEPS, along(q_at, 0))[:, None, None] * 4
    columns = _columns(along(q_at, 2), table, 0, 4, first_column, N, BLOCK_N, 4, 16, GATED)
    q = qweight + (k8.to(gl.int64) * q_step + columns[None, None, :])
    q_left = there - k8 * 8

    groups_at: gl.constexpr = gl.SliceLayout(2, s_at)
    k = gl.arange(0, SPANS, gl.SliceLayout(1, groups_at))[:, None] * SPAN_K
    k += gl.arange(0, 1, gl.SliceLayout(0, groups_at))[None, :]
    group = (k.to(gl.uint32) // group_size.to(gl.uint32)).to(gl.int32)
    row = k - group * group_size
    g_left = there - k

    columns = _columns(along(s_at, 2), table, 1, 2, first_column, N, BLOCK_N, 8, 16, GATED)
    s = address(table, 1, dtype) + columns[None, None, :]
    s += (group.to(gl.int64) * s_step)[:, :, None]
    columns = _columns(
        along(z_at, 2), table, 2, 4, first_column // 8, N // 8, BLOCK_N // 8, 1, 2, GATED
    )
    z = gl.load(table + 2).to(gl.pointer_type(gl.int32)) + columns[None, None, :]
    z += gl.convert_layout(group.to(gl.int64) * z_step, gl.SliceLayout(2, z_at))[:, :, None]
    return (q, q_left), (s, z, row, g_left)


@gluon.jit
def _fetch(
    rings, slot, activations, words, groups, steps, group_size, BLOCK_K: gl.constexpr,
    SPAN: gl.constexpr,
):  # fmt: skip
    """Start copying a step's elements into a slot of the rings, as one commit group; go on.

    SPAN: k's to the next step's groups; 0 where this one has none of its own.
    """
    a_ring, q_ring, s_ring, z_ring = rings
    _, q_step, s_step, z_step = steps
    q, left = words
    async_copy.async_copy_global_to_shared(q_ring.index(slot), q, left > 0)
    if SPAN:
        s, z, row, g_left = groups
        z_at: gl.constexpr = gl.SliceLayout(2, z.type.layout)
        there = g_left > 0
        z_there = gl.convert_layout(there, z_at)
        async_copy.async_copy_global_to_shared(s_ring.index(slot), s, there[:, :, None])
        async_copy.async_copy_global_to_shared(z_ring.index(slot), z, z_there[:, :, None])
        whole = SPAN // group_size
        on, row = next_group(whole, row, 0, SPAN - whole * group_size, group_size)
        s += (on.to(gl.int64) * s_step)[:, :, None]
        z += gl.convert_layout(on.to(gl.int64) * z_step, z_at)[:, :, None]
        groups = (s, z, row, g_left - SPAN)
    # Those of all 32 k's of a step have one place, and one `left`, in the registers.
    a, a_left = activations
    step = gl.arange(0, BLOCK_K // 32, along(a.type.layout, 0))[:, None, None]
    async_copy.async_copy_global_to_shared(a_ring.index(slot), a + step * 16, a_left > step * 32)
    async_copy.commit_group()
    words = (q + q_step * (BLOCK_K // 8), left - BLOCK_K)
    return (a + BLOCK_K // 2, a_left - BLOCK_K), words, groups


@gluon.constexpr_function
def _span(i, BLOCK_K, GROUP):
    """k's from step i's groups to the next ones; 0 where an odd step shares the one before it's."""
    if GROUP < 2 * BLOCK_K:
        return BLOCK_K
    return 0 if i % 2 else 2 * BLOCK_K


@gluon.jit
def _zeros(BLOCK_N: gl.constexpr, ROWS: gl.constexpr, mma: gl.constexpr):
    return gl.zeros([1, BLOCK_N, ROWS], gl.float32, mma)


@gluon.jit
def _product(
    total, low, high, a_slot, step: gl.constexpr, FIRST: gl.constexpr, dtype: gl.constexpr
):  # fmt: skip
    """total [1, BLOCK_N, ROWS] and the products of a step's two mma's with rows from FIRST on."""
    ROWS: gl.constexpr = total.shape[2]
    operand: gl.constexpr = gl.DotOperandLayout(1, total.type.layout, 2)
    a_slot = a_slot.slice(FIRST, ROWS, 1)
    a0, a1 = load_activations(a_slot, step, dtype, (gl.num_warps(), 1), ROWS, operand)
    return mma_v2(high, a1, mma_v2(low, a0, total))


@gluon.jit
def _multiply(
    sets, sources, steps, tiles, group_size, zero_bias, ROWS: gl.constexpr,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, SPANS: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, dtype: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """The sums of ROWS rows [1, BLOCK_N, rows], in pieces of powers of two."""
    SHARE: gl.constexpr = (gl.num_warps(), 1)
    STEPS: gl.constexpr = BLOCK_K // 32
    SPAN: gl.constexpr = STEPS // SPANS
    HEIGHTS: gl.constexpr = _heights(ROWS)
    PIECES: gl.constexpr = len(HEIGHTS)
    weights_at: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    DEPTH: gl.constexpr = STAGES // 2
    activations, words_from, groups = sources
    totals = ()
    for j in gl.static_range(PIECES):
        totals += (_zeros(BLOCK_N, HEIGHTS[j], mma),)
    words_at: gl.constexpr = gl.SliceLayout(1, words_layout(SHARE, BLOCK_N))
    scale = gl.zeros([1, BLOCK_N // 4, 4], gl.int32, words_at)
    even = scale
    odd = scale
    slot = 0
    before = DEPTH - 1
    for _ in range(0, tiles, 2):  # where they are odd, the last one is zeros
        for i in gl.static_range(2):
            async_copy.wait_group(STAGES - 2)
            free = before if i == 0 else slot
            activations, words_from, groups = _fetch(
                sets[1 - i], free, activations, words_from, groups, steps, group_size,
                BLOCK_K, _span(1 - i, BLOCK_K, GROUP),
            )  # fmt: skip
            a_ring, q_ring, s_ring, z_ring = sets[i]
            for span in gl.static_range(SPANS):
                if _span(i, BLOCK_K, GROUP):
                    scale = load_scales(s_ring.index(slot), span, SHARE, BLOCK_N) * 0x10001
                    zero = load_zeros(z_ring.index(slot), span, SHARE, BLOCK_N)
                    even, odd = offsets_of(zero, zero_bias, dtype)
                for step in gl.static_range(span * SPAN, span * SPAN + SPAN):
                    words = load_words(q_ring.index(slot), step, SHARE, BLOCK_N)
                    scales = gl.expand_dims(scale, 1)
                    low = weights_of(
                        pairs(words, gl.expand_dims(even, 1), scales, False, dtype),
                        SHARE[0], weights_at,
                    )  # fmt: skip
                    high = weights_of(
                        pairs(words, gl.expand_dims(odd, 1), scales, True, dtype),
                        SHARE[0], weights_at,
                    )  # fmt: skip
                    sums = ()
                    for j in gl.static_range(PIECES):
                        sums += (
                            _product(
                                totals[j], low, high, a_ring.index(slot), step,
                                _first_row(ROWS, HEIGHTS[j]), dtype,
                            ),
                        )  # fmt: skip
                    totals = sums
        before = slot
        slot = gl.where(slot == DEPTH - 1, 0, slot + 1)
    async_copy.wait_group(0)
    return totals


@gluon.constexpr_function
def _halves_layout(WARPS, ROWS, BLOCK_N):
    """[BLOCK_N / 32, 2, 16, ROWS]: as outputs_layout, but a thread has gate and up of a column."""
    return linear_layout(
        [BLOCK_N // 32, 2, 16, ROWS],
        [(2, 0, 2), (1, 0, 1), (0, log2(WARPS), log2(BLOCK_N // 32)), (3, 3, log2(ROWS))],
        [(3, 1, 3), (2, 2, 4), (3, 0, 1)],
        [(0, 0, log2(WARPS))],
    )


@gluon.jit
def _store(
    total, first, results, sizes, dtype: gl.constexpr, GATED: gl.constexpr, SORTED: gl.constexpr,
):  # fmt: skip
    """One piece's sums, from the tile's row `first` on, to the rows of c that are its choices'.

    SORTED: that are the tile's own ones.
    """
    first_row, sorted_token_ids, weights, c, wide = results
    rows, first_column, T, N = sizes
    WARPS: gl.constexpr = gl.num_warps()
    BLOCK_N: gl.constexpr = total.shape[1]
    ROWS: gl.constexpr = total.shape[2]
    COLUMNS: gl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    total = in_file_order(total, WARPS)
    if GATED:
        total = total.reshape([BLOCK_N // 32, 2, 16, ROWS])
        total = gl.convert_layout(total, _halves_layout(WARPS, ROWS, BLOCK_N))
        gate, up = gl.split(total.permute([0, 2, 3, 1]))
        total = gate / (1 + gl.exp(-gate)) * up
    else:
        at: gl.constexpr = outputs_layout((WARPS, 1), ROWS, BLOCK_N)
        total = gl.convert_layout(total, at, assert_trivial=True)
    total = total.reshape([COLUMNS, ROWS])
    to: gl.constexpr = total.type.layout
    m = first + gl.arange(0, ROWS, gl.SliceLayout(0, to))
    ids = gl.load(sorted_token_ids + first_row + m, mask=m < rows, other=T)
    n = first_column + gl.arange(0, COLUMNS, gl.SliceLayout(1, to))
    if weights.to(gl.int64) != 0:
        total *= gl.load(weights + ids, mask=ids < T, other=0)[None, :]
    if SORTED:
        total = gl.where((n < N)[:, None], total, 0)
        padded = (N + 31) // 32 * 32
        there = (first_row + m).to(gl.int64)[None, :] * padded + permuted(n)[:, None]
        mask = (m < rows)[None, :] & (n < padded)[:, None]
    else:
        there = ids.to(gl.int64)[None, :] * (N // 8 * 8) + n[:, None]
        mask = (ids < T)[None, :] & (n < N // 4 * 4)[:, None]
    store_outputs(total, c, there, wide, there, 0, mask, dtype)


@gluon.jit
def moe_w4a16_gptq_mma(
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
    tiles,
    lines,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    UNIT: gl.constexpr,
    GROUP: gl.constexpr,
    GATED: gl.constexpr,
    SORTED: gl.constexpr,
    STAGES: gl.constexpr,
    SIZES: gl.constexpr,
    DEPENDENT: gl.constexpr = 0,
):
    if DEPENDENT == 1:  # the next launch waits for the end of this one itself
        gdc_launch_dependents()
    if DEPENDENT:
        gdc_wait()
    dtype: gl.constexpr = a.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    STEPS: gl.constexpr = BLOCK_K // 32
    SPANS: gl.constexpr = max(1, BLOCK_K // GROUP)
    PARTS: gl.constexpr = 2 if GATED else 1
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, WARPS, 1], [1, 16, 8])

    line = gl.program_id(1)
    first = line
    count = 1
    if tiles.to(gl.int64) != 0:
        if line < gl.load(tiles):
            packed = gl.load(tiles + 1 + line)
            first = packed // 16
            count = packed % 16
        else:
            count = 0
    elif line * UNIT >= gl.load(num_tokens_post_padded):
        count = 0
    if count > 0:
        expert = gl.load(expert_ids + first)
        there = gl.where(expert < 0, 0, K)  # nothing of an expert that is not here
        table = experts + gl.maximum(expert, 0).to(gl.int64) * (3 * PARTS)
        own_ids = sorted_token_ids + first * UNIT
        rows = count * UNIT

        # `// 4 * 4` tells the compiler what the sidecar's constraints promise: loads are aligned.
        a_step = (stride_am // 8).to(gl.int64) * 4  # in pairs
        q_step = (stride_qwk // 4).to(gl.int64) * 4
        s_step = (stride_sk // 8).to(gl.int64) * 8
        z_step = stride_qzk.to(gl.int64)
        first_column = gl.program_id(0) * (BLOCK_N // PARTS)

        steps = (a_step, q_step, s_step, z_step)
        activations = _first_activations(a, own_ids, rows, there, T, top_k, a_step, BLOCK_M)
        words, groups = _first_weights(
            table, first_column, there, N, group_size, steps, dtype, BLOCK_N, STEPS, SPANS,
            BLOCK_K // SPANS, GATED,
        )  # fmt: skip

        # Steps take turns in two sets of rings: where one is read, the next ones go into the other,
        # and one barrier a step is enough, as the compiler can see.
        DEPTH: gl.constexpr = STAGES // 2
        sets = ()
        for _ in gl.static_range(2):
            sets = sets + (allocate_rings(dtype, DEPTH, STEPS, SPANS, 1, BLOCK_M, BLOCK_N),)
        for i in gl.static_range(STAGES - 1):
            activations, words, groups = _fetch(
                sets[i % 2], i // 2, activations, words, groups, steps, group_size, BLOCK_K,
                _span(i, BLOCK_K, GROUP),
            )  # fmt: skip

        for i in gl.static_range(variants(SIZES)):
            if (count > size_of(i, SIZES)) & (count <= size_of(i + 1, SIZES)):
                totals = _multiply(
                    sets, (activations, words, groups), steps, gl.cdiv(K, BLOCK_K), group_size,
                    zero_bias, size_of(i + 1, SIZES) * UNIT, BLOCK_N, BLOCK_K, SPANS, GROUP,
                    STAGES,
                    dtype, mma,
                )  # fmt: skip
                if DEPENDENT == 2:
                    gdc_launch_dependents()
                for j in gl.static_range(len(totals)):
                    _store(
                        totals[j], _first_row(size_of(i + 1, SIZES) * UNIT, totals[j].shape[2]),
                        (first * UNIT, sorted_token_ids, weights, c, wide),
                        (rows, first_column, T, N), dtype, GATED, SORTED,
                    )  # fmt: skip
