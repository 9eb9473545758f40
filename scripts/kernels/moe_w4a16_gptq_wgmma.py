"""The W4A16 GEMM of many experts for many rows each, on Hopper, on their tensors as they lie.

Parameters, routing and result are those of moe_w4a16_gptq.py, blocks being of UNIT rows, and

    tiles    int32 [1 + blocks]   how many tiles there are, and of each its first block and how many
                                  blocks of one expert it has, up to BLOCK_M / UNIT, as
                                  16 * first + count; or NULL: each block is a tile

A tile's rows are multiplied as the next power of two of blocks, its weights dequantised once.

Warps are specialised, as in w4a16_gptq_gemm_wgmma.py, and what is told there of stages, chunks and
registers holds here.  Activations come row by row, as the routing has them, by cp.async.

GATED: rows g and g + 8 of each sixteen that wgmma computes are a column of gate and the same one of
up, so that one thread has both.
"""

from linear_layouts import along, linear_layout, log2
from mma_outputs import store_outputs
from tile_schedule import place_of
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from wgmma_operands import _dequantise


@gluon.constexpr_function
def _layout(shape, EIGHTS, TILES, WARPS, registers, lanes):
    """A layout whose dimension `EIGHTS` is a thread's own, and whose `TILES` the warps share."""
    own = [(EIGHTS, 0, log2(shape[EIGHTS]))] if EIGHTS is not None else []
    own = registers + own + [(TILES, log2(WARPS), log2(shape[TILES]))]
    return linear_layout(shape, own, lanes, [(TILES, 0, log2(WARPS))])


@gluon.constexpr_function
def _weights_layout(EIGHTS, TILES, WARPS):
    """[EIGHTS (k / 8), TILES, 8 (g), 2 (r), 4 (t), 2]: the left operand of wgmma."""
    shape = [EIGHTS, TILES, 8, 2, 4, 2]
    return _layout(shape, 0, 1, WARPS, [(5, 0, 1), (3, 0, 1)], [(4, 0, 2), (2, 0, 3)])


@gluon.constexpr_function
def _outputs_layout(ROWS, TILES, WARPS):
    """[ROWS, TILES, 8 (g), 2 (r)]: wgmma's result."""
    registers = [(3, 0, 1), (0, 0, 1), (0, 3, log2(ROWS))]
    return _layout([ROWS, TILES, 8, 2], None, 1, WARPS, registers, [(0, 1, 3), (2, 0, 3)])


@gluon.constexpr_function
def _words_layout(EIGHTS, TILES, WARPS, GATED):
    """GATED: [EIGHTS, TILES, 8 (g)]; else [EIGHTS, 2 * TILES, 8]: a lane's words as they lie."""
    if GATED:
        return _layout([EIGHTS, TILES, 8], 0, 1, WARPS, [], [(None, 0, 2), (2, 0, 3)])
    return linear_layout(
        [EIGHTS, 2 * TILES, 8],
        [(2, 0, 1), (0, 0, log2(EIGHTS)), (1, 1 + log2(WARPS), 1 + log2(TILES))],
        [(None, 0, 2), (2, 1, 3), (1, 0, 1)],
        [(1, 1, 1 + log2(WARPS))],
    )


@gluon.constexpr_function
def _scales_layout(TILES, WARPS, GATED):
    """GATED: [TILES, 8 (g)]; else [2 * TILES, 8]: the scales of a lane's words as they lie."""
    if GATED:
        return _layout([TILES, 8], None, 0, WARPS, [], [(None, 0, 2), (1, 0, 3)])
    return linear_layout(
        [2 * TILES, 8],
        [(1, 0, 1), (0, 1 + log2(WARPS), 1 + log2(TILES))],
        [(None, 0, 2), (1, 1, 3), (0, 0, 1)],
        [(0, 1, 1 + log2(WARPS))],
    )


@gluon.jit
def _words_of(
    ring, first: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr, at: gl.constexpr
):
    """Words [EIGHTS, eights of columns, 8] in shared memory -> [EIGHTS, TILES, 8 (g), 2 (r)]."""
    WARPS: gl.constexpr = gl.num_warps()
    EIGHTS: gl.constexpr = ring.shape[0]
    HALF: gl.constexpr = ring.shape[1] // 2
    own: gl.constexpr = _words_layout(EIGHTS, TILES, WARPS, GATED)
    if GATED:
        words = gl.join(
            ring.slice(first, TILES, 1).load(own), ring.slice(HALF + first, TILES, 1).load(own)
        )
    else:
        words = ring.slice(2 * first, 2 * TILES, 1).load(own).reshape([EIGHTS, TILES, 8, 2])
    return gl.convert_layout(words, along(at, 0, 1, 2, 3), assert_trivial=True)


@gluon.jit
def _nibbles(words, at: gl.constexpr):
    """[eights of columns] in shared memory, eight nibbles each -> [eights, 8]."""
    shift = gl.arange(0, 8, gl.SliceLayout(0, at)) * 4
    return (words.load(gl.SliceLayout(1, at))[:, None] >> shift[None, :]) & 15


@gluon.jit
def _affine_of(
    s_ring, z_ring, zero_bias, first: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr,
    at: gl.constexpr,
):  # fmt: skip
    """What `_dequantise` adds and multiplies by, [TILES, 8 (g), 2 (r)], of one span's columns."""
    WARPS: gl.constexpr = gl.num_warps()
    HALF: gl.constexpr = s_ring.shape[0] // 2
    to: gl.constexpr = along(at, 1, 2, 3)
    own: gl.constexpr = _scales_layout(TILES, WARPS, GATED)
    if GATED:
        scale = gl.join(
            s_ring.slice(first, TILES, 0).load(own), s_ring.slice(HALF + first, TILES, 0).load(own)
        )
        zero = gl.join(
            _nibbles(z_ring.slice(first, TILES, 0), own),
            _nibbles(z_ring.slice(HALF + first, TILES, 0), own),
        )
    else:
        scale = s_ring.slice(2 * first, 2 * TILES, 0).load(own).reshape([TILES, 8, 2])
        zero = _nibbles(z_ring.slice(2 * first, 2 * TILES, 0), own).reshape([TILES, 8, 2])
    zero = gl.convert_layout(zero, to, assert_trivial=True)
    scale = gl.convert_layout(scale, to, assert_trivial=True)
    zero = gl.expand_dims(gl.expand_dims(gl.expand_dims(zero + zero_bias, 0), 4), 5)
    scale = gl.expand_dims(gl.expand_dims(gl.expand_dims(scale, 0), 4), 5)
    high = gl.arange(0, 2, along(at, 5))[None, None, None, None, None, :]
    if scale.dtype == gl.float16:
        zero = gl.where(high == 0, 0xE400 + zero, 0xD400 + zero * 16)  # -1024 - zero, -64 - zero
    else:
        zero = 0xC300 + zero + high * 0  # -128 - zero
    return zero.to(gl.int16).to(scale.dtype, bitcast=True), scale


@gluon.jit
def _weights_of(words, zero, scale, at: gl.constexpr, operand: gl.constexpr):
    """words [EIGHTS, TILES, 8, 2] -> [16 * TILES, 8 * EIGHTS] for wgmma."""
    EIGHTS: gl.constexpr = words.shape[0]
    TILES: gl.constexpr = words.shape[1]
    words = gl.expand_dims(gl.expand_dims(words, 4), 5)
    byte = gl.arange(0, 4, along(at, 4))[None, None, None, None, :, None]
    words, byte = gl.broadcast(words, byte)
    words, zero = gl.broadcast(words, zero)
    byte, zero = gl.broadcast(byte, zero)
    words, scale = gl.broadcast(words, scale)
    weights = _dequantise(words, byte, zero, scale)
    weights = weights.permute([1, 3, 2, 0, 4, 5]).reshape([16 * TILES, 8 * EIGHTS])
    return gl.convert_layout(weights, operand, assert_trivial=True)


@gluon.jit
def _pointer(table, place: gl.constexpr, dtype: gl.constexpr):
    """An address of the table as a pointer."""
    return gl.load(table + place).to(gl.pointer_type(dtype))


@gluon.jit
def _copy_weights(
    table, PART: gl.constexpr, q_ring, s_ring, z_ring, stage, step, first_column, group, row,
    N, K, group_size, q_step, s_step, z_step,
    WIDTH: gl.constexpr, BLOCK_K: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """One step's words, scales and zeros of one tensor into its part of a stage.

    WIDTH: eights of columns.  group, row: the group of the step's first k, and that k's place in
    it.
    """
    WARPS: gl.constexpr = gl.num_warps()
    ROWS: gl.constexpr = BLOCK_K // 8  # of words, in a step
    # Eight lanes copy 128 bytes of a row: anything narrower costs cp.async more cycles.
    q_at: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 16, 2], [WARPS, 1, 1], [2, 1, 0])
    s_at: gl.constexpr = gl.BlockedLayout([1, 8], [32, 1], [WARPS, 1], [1, 0])
    z_at: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    qweight, scales, qzeros = table
    q_row = gl.arange(0, ROWS, along(q_at, 0))[:, None, None]
    q_column = gl.arange(0, WIDTH, along(q_at, 1))[None, :, None]
    q_offset = gl.multiple_of(q_row * q_step.to(gl.int32), [1, 1, 4]) + q_column * 8
    q_offset += gl.arange(0, 8, along(q_at, 2))[None, None, :]
    s_column = gl.arange(0, WIDTH, along(s_at, 0))[:, None]
    s_offset = s_column * 8 + gl.arange(0, 8, along(s_at, 1))[None, :]
    z_offset = gl.arange(0, WIDTH, z_at)
    width = (N - first_column) // 8  # eights of columns
    q = gl.multiple_of(qweight + ((step * ROWS).to(gl.int64) * q_step + first_column), 16)
    inside = (q_row < K // 8 - step * ROWS) & (q_column < width)
    to = q_ring.index(stage).slice(PART * WIDTH, WIDTH, 1)
    async_copy.async_copy_global_to_shared(to, q + q_offset, inside)
    for span in gl.static_range(SPANS):
        s = gl.multiple_of(scales + (group.to(gl.int64) * s_step + first_column), 16)
        z = qzeros + (group.to(gl.int64) * z_step + first_column // 8)
        to = s_ring.index(stage * SPANS + span).slice(PART * WIDTH, WIDTH, 0)
        async_copy.async_copy_global_to_shared(to, s + s_offset, s_column < width)
        to = z_ring.index(stage * SPANS + span).slice(PART * WIDTH, WIDTH, 0)
        async_copy.async_copy_global_to_shared(to, z + z_offset, z_offset < width)
        group, row = _next(group, row, K, group_size, BLOCK_K // SPANS)


@gluon.jit
def _next(group, row, K, group_size, rows: gl.constexpr):
    """The group `rows` k's further on, the last one at the most, and the place in it."""
    row += rows
    over = (row >= group_size) & ((group + 1) * group_size < K)
    return group + over.to(gl.int32), gl.where(over, 0, row)


@gluon.jit
def _place(
    tile, tiles, num_tokens_post_padded, N,
    UNIT: gl.constexpr, COLUMNS: gl.constexpr, BAND: gl.constexpr,
):  # fmt: skip
    """A tile's first block, its blocks and its first column; no blocks where there is no such."""
    high = gl.load(num_tokens_post_padded) // UNIT
    if tiles.to(gl.int64) != 0:
        high = gl.load(tiles)
    line, column = place_of(tile, high, N, 1, COLUMNS, BAND)
    first = line
    count = 1
    if tile >= high * gl.cdiv(N, COLUMNS):
        count = 0
    elif tiles.to(gl.int64) != 0:
        packed = gl.load(tiles + 1 + line)
        first = packed // 16
        count = packed % 16
    return first, count, column


@gluon.jit
def _power(count):
    """The next power of two of up to 8 blocks."""
    return gl.where(count > 4, 8, gl.where(count > 2, 4, count))


@gluon.jit
def _here(x):
    """x, in a way that what depends on it is not computed ahead of loops and kept in registers."""
    return gl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [x], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _copy(
    sources, sizes,
    BLOCK_M: gl.constexpr, TILE_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    SPANS: gl.constexpr, BAND: gl.constexpr, GATED: gl.constexpr, UNIT: gl.constexpr,
):  # fmt: skip
    """The copying warps: all steps of all of the program's tiles, one after the other."""
    a, experts, sorted_token_ids, expert_ids, num_tokens_post_padded, tiles = sources[:6]
    a_ring, q_ring, s_ring, z_ring, full, empty = sources[6:]
    T, N, K, group_size, top_k, a_step, q_step, s_step, z_step = sizes
    dtype: gl.constexpr = a.dtype.element_ty
    WARPS: gl.constexpr = gl.num_warps()
    PARTS: gl.constexpr = 2 if GATED else 1
    COLUMNS: gl.constexpr = TILE_N // PARTS
    a_at: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    gdc_wait()
    n = T * 0  # stages so far
    tile = gl.program_id(0)
    first, count, column = _place(tile, tiles, num_tokens_post_padded, N, UNIT, COLUMNS, BAND)
    k = gl.arange(0, BLOCK_K, along(a_at, 1))
    row = gl.arange(0, UNIT, along(a_at, 0))
    while count > 0:
        expert = gl.load(expert_ids + first)
        there = gl.where(expert < 0, 0, K)  # nothing of an expert that is not here
        table = experts + gl.maximum(expert, 0).to(gl.int64) * (3 * PARTS)
        gate = (
            _pointer(table, 0, gl.int32),
            _pointer(table, 1, dtype),
            _pointer(table, 2, gl.int32),
        )
        own = sorted_token_ids + first * UNIT
        filling = gl.minimum(gl.load(own), T - 1)
        rows = ()
        high = _power(count)
        for i in gl.static_range(BLOCK_M // UNIT):
            ids = gl.load(own + i * UNIT + row, mask=row * 0 + i < count, other=T)
            rows = rows + (gl.where(ids < T, ids, filling) // top_k,)
        group = gl.program_id(0) * 0
        place = group
        for step in range(gl.cdiv(K, BLOCK_K)):
            stage = n % STAGES
            mbarrier.wait(empty.index(stage), (n // STAGES & 1) ^ 1)
            inside = (k // 8 < there // 8 - step * (BLOCK_K // 8))[None, :]
            for i in gl.static_range(BLOCK_M // UNIT):
                if i < high:
                    start = a + (_here(rows[i]).to(gl.int64) * a_step)
                    from_ = gl.multiple_of(start, 16)[:, None] + (step * BLOCK_K + k)[None, :]
                    from_ = gl.multiple_of(from_, [1, 8])
                    to = a_ring.index(stage).slice(i * UNIT, UNIT, 0)
                    async_copy.async_copy_global_to_shared(to, from_, inside & (i < count))
            _copy_weights(
                gate, 0, q_ring, s_ring, z_ring, stage, step, column, group, place, N, there,
                group_size, q_step, s_step, z_step, COLUMNS // 8, BLOCK_K, SPANS,
            )  # fmt: skip
            if GATED:
                up = (
                    _pointer(table, 3, gl.int32), _pointer(table, 4, dtype),
                    _pointer(table, 5, gl.int32),
                )  # fmt: skip
                _copy_weights(
                    up, 1, q_ring, s_ring, z_ring, stage, step, column, group, place, N, there,
                    group_size, q_step, s_step, z_step, COLUMNS // 8, BLOCK_K, SPANS,
                )  # fmt: skip
            for _ in gl.static_range(SPANS):
                group, place = _next(group, place, K, group_size, BLOCK_K // SPANS)
            async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            n += 1
        tile += gl.num_programs(0)
        first, count, column = _place(tile, tiles, num_tokens_post_padded, N, UNIT, COLUMNS, BAND)


@gluon.jit
def _tile(
    results, rings, n, first_row, rows_there, column, zero_bias, T, N, K,
    ROWS: gl.constexpr, PARTITION: gl.constexpr, PARTITIONS: gl.constexpr, TILE_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, SPANS: gl.constexpr, CHUNK: gl.constexpr,
    GATED: gl.constexpr,
):  # fmt: skip
    """ROWS rows of one partition's columns of a tile, to the stored result."""
    sorted_token_ids, weights, c, wide = results
    a_ring, q_ring, s_ring, z_ring, full, empty = rings
    WARPS: gl.constexpr = gl.num_warps()
    BLOCK_N: gl.constexpr = TILE_N // PARTITIONS
    TILES: gl.constexpr = BLOCK_N // 16
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK  # even: weights take turns in the registers
    EIGHTS: gl.constexpr = CHUNK // 8
    at: gl.constexpr = _weights_layout(EIGHTS, TILES, WARPS)
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, ROWS, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    total = gl.zeros([BLOCK_N, ROWS], gl.float32, mma)
    before = gl.zeros([BLOCK_N, CHUNK], s_ring.dtype, operand)
    for step in range(gl.cdiv(K, BLOCK_K)):
        stage = n % STAGES
        mbarrier.wait(full.index(stage), n // STAGES & 1)
        fence_async_shared()  # cp.async wrote what wgmma reads
        for i in gl.static_range(CHUNKS):
            if i * SPANS % CHUNKS < SPANS:
                span = stage * SPANS + i * SPANS // CHUNKS
                zero, scale = _affine_of(
                    s_ring.index(span), z_ring.index(span), zero_bias, PARTITION * TILES, TILES,
                    GATED, at,
                )  # fmt: skip
            words = q_ring.index(stage).slice(EIGHTS * i, EIGHTS, 0)
            words = _words_of(words, PARTITION * TILES, TILES, GATED, at)
            weights_ = _weights_of(words, zero, scale, at, operand)
            rows = a_ring.index(stage).slice(0, ROWS, 0).slice(CHUNK * i, CHUNK, 1)
            total = warpgroup_mma(weights_, rows.permute([1, 0]), total, is_async=True)
            # The registers of the weights before these are free again.
            total, before = warpgroup_mma_wait(1, deps=[total, before])
            before = weights_
            if i == 0:
                last_stage = (n + STAGES - 1) % STAGES
                mbarrier.arrive(empty.index(last_stage), count=1, pred=step > 0)
        n += 1
    total, before = warpgroup_mma_wait(0, deps=[total, before])
    mbarrier.arrive(empty.index((n + STAGES - 1) % STAGES), count=1)

    to: gl.constexpr = _outputs_layout(ROWS, TILES, WARPS)
    total = total.reshape([TILES, 2, 8, ROWS]).permute([3, 0, 2, 1])
    total = gl.convert_layout(total, to, assert_trivial=True)
    own = sorted_token_ids + first_row
    if GATED:
        low, high = gl.split(total)
        at_: gl.constexpr = low.type.layout
        values = low / (1 + gl.exp(-low)) * high
        line: gl.constexpr = gl.SliceLayout(0, at_)
        columns = gl.arange(0, TILES, along(line, 0))[:, None] * 8
        columns += column + PARTITION * (BLOCK_N // 2) + gl.arange(0, 8, along(line, 1))[None, :]
        m = gl.arange(0, ROWS, along(at_, 0))
        ids = gl.load(own + m, mask=m < rows_there, other=T)
        mask = (ids < T)[:, None, None] & (columns < N)[None, :, :]
        there = (ids.to(gl.int64) * N)[:, None, None] + columns[None, :, :]
    else:
        values = total
        line: gl.constexpr = gl.SliceLayout(0, to)
        columns = gl.arange(0, TILES, along(line, 0))[:, None, None] * 16
        columns += column + PARTITION * BLOCK_N
        columns = columns + gl.arange(0, 8, along(line, 1))[None, :, None] * 2
        columns = columns + gl.arange(0, 2, along(line, 2))[None, None, :]
        m = gl.arange(0, ROWS, along(to, 0))
        ids = gl.load(own + m, mask=m < rows_there, other=T)
        mask = (ids < T)[:, None, None, None] & (columns // 8 < N // 8)[None, :, :, :]
        row = gl.multiple_of(ids.to(gl.int64) * (N // 8 * 8), 8)
        there = row[:, None, None, None] + columns[None, :, :, :]
    if weights.to(gl.int64) != 0:
        factor = gl.load(weights + ids, mask=ids < T, other=0)
        if GATED:
            values *= factor[:, None, None]
        else:
            values *= factor[:, None, None, None]
    store_outputs(values, c, there, wide, there, 0, mask, s_ring.dtype)
    return n


@gluon.jit
def _multiply(
    results, rings, routing, sizes,
    PARTITION: gl.constexpr, PARTITIONS: gl.constexpr, CHUNK: gl.constexpr,
    BLOCK_M: gl.constexpr, TILE_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    SPANS: gl.constexpr, BAND: gl.constexpr, GATED: gl.constexpr, UNIT: gl.constexpr,
):  # fmt: skip
    """One partition of the multiplying warps, tile by tile."""
    num_tokens_post_padded, tiles = routing
    zero_bias, T, N, K = sizes
    COLUMNS: gl.constexpr = TILE_N // 2 if GATED else TILE_N
    gdc_wait()
    n = T * 0
    tile = gl.program_id(0)
    first, count, column = _place(tile, tiles, num_tokens_post_padded, N, UNIT, COLUMNS, BAND)
    while count > 0:
        for i in gl.static_range(log2(BLOCK_M // UNIT) + 1):
            if (count > 2**i // 2) & (count <= 2**i):
                n = _tile(
                    results, rings, n, first * UNIT, count * UNIT, column, zero_bias, T, N, K,
                    2**i * UNIT, PARTITION, PARTITIONS, TILE_N, BLOCK_K, STAGES, SPANS, CHUNK,
                    GATED,
                )  # fmt: skip
        tile += gl.num_programs(0)
        first, count, column = _place(tile, tiles, num_tokens_post_padded, N, UNIT, COLUMNS, BAND)


@gluon.jit
def moe_w4a16_gptq_wgmma(
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
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    UNIT: gl.constexpr,
    GROUP: gl.constexpr,
    GATED: gl.constexpr,
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    COPY_REGISTERS: gl.constexpr,
    CHUNK: gl.constexpr,
    PARTITIONS: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    COPY_WARPS: gl.constexpr = 4
    SPANS: gl.constexpr = max(1, BLOCK_K // GROUP)  # of a step, each in one group
    dtype: gl.constexpr = a.dtype.element_ty
    a_at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    a_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_M, BLOCK_K], a_at)
    q_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N // 8, 8], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N // 8, 8], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=COPY_WARPS * 32)
        mbarrier.init(empty.index(i), count=PARTITIONS)

    # `// 8 * 8` tells the compiler what the sidecar's constraints promise: copies are aligned.
    a_step = (stride_am // 8).to(gl.int64) * 8
    sizes = (
        T, N, K, group_size, top_k, a_step, stride_qwk.to(gl.int64), stride_sk.to(gl.int64),
        stride_qzk.to(gl.int64),
    )  # fmt: skip
    rings = (a_ring, q_ring, s_ring, z_ring, full, empty)
    sources = (
        a, experts, sorted_token_ids, expert_ids, num_tokens_post_padded, tiles,
        a_ring, q_ring, s_ring, z_ring, full, empty,
    )  # fmt: skip
    results = (sorted_token_ids, weights, c, wide)
    routing = (num_tokens_post_padded, tiles)
    few = (zero_bias, T, N, K)
    if PARTITIONS == 1:
        gl.warp_specialize(
            [
                (_multiply, (
                    results, rings, routing, few, 0, 1, CHUNK,
                    BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT,
                )),
                (_copy, (
                    sources, sizes, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT,
                )),
            ],
            [COPY_WARPS],
            [COPY_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_multiply, (
                    results, rings, routing, few, 0, 2, CHUNK,
                    BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT,
                )),
                (_multiply, (
                    results, rings, routing, few, 1, 2, CHUNK,
                    BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT,
                )),
                (_copy, (
                    sources, sizes, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT,
                )),
            ],
            [4, COPY_WARPS],
            [COPY_REGISTERS, COPY_REGISTERS],
        )  # fmt: skip
