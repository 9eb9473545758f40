"""The W4A16 GEMM of many experts for many rows each, on Hopper, on their tensors as they lie.

Parameters and routing are those of moe_w4a16_gptq.py, blocks being of UNIT rows, but

    a        T [blocks * UNIT, K32]       activations as moe_gather puts them there: rows in the
                                          order of sorted_token_ids, K32 = cdiv(K, 32) * 32 columns
    c, wide  [blocks * UNIT, N32], GATED  in that order, too; else [T, N], in the order of choices

    tiles    int32 [1 + blocks]   how many tiles there are, and of each its first block and how many
                                  blocks of one expert it has, up to BLOCK_M / UNIT, as
                                  16 * first + count; or NULL: each block is a tile

A tile's blocks are multiplied together, as the next number of blocks that SIZES has (bit i: i), the
weights dequantised once.  Where that is no power of two, it is two products on the same weights.

Columns of activations lie as mma_operands.py has k's: k = [p, h, e, t0, t1], low bits first, of
each 32 at [e, t0, t1, h, p]: a lane of wgmma's left operand then takes the words of its own k's as
they lie in the file, and a register has nibbles i and i + 4.  Columns beyond K are zero.

Warps are specialised, as in w4a16_gptq_gemm_wgmma.py, and what is told there of stages, chunks and
registers holds here.

GATED: rows g and g + 8 of each sixteen that wgmma computes are a column of gate and the same one of
up, so that one thread has both.
"""

from expert_tiles import permuted, size_of, variants
from linear_layouts import along, linear_layout, log2
from mma_outputs import store_outputs
from tile_schedule import place_of
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from weight_pairs import offsets_of, pairs
from wgmma_blocks import heights, operand_layout, product, wait, zeros
from wgmma_results import here
from wgmma_rings import COPY_WARPS, next_span


@gluon.constexpr_function
def _words_layout(COLUMNS, WARPS, GATED):
    """[4 (t), COLUMNS]: a lane's words of 32 k's; GATED: of gate, or of up."""
    r = 0 if GATED else 1
    return linear_layout(
        [4, COLUMNS],
        [(1, 0, r), (1, 3 + r + log2(WARPS), log2(COLUMNS))],
        [(0, 0, 2), (1, r, 3 + r)],
        [(1, 3 + r, 3 + r + log2(WARPS))],
    )


@gluon.constexpr_function
def _zeros_layout(COLUMNS, WARPS, GATED):
    """[COLUMNS / 8, 8]: the words of zeros of a lane's columns, and which of the eight they are."""
    n = log2(WARPS)
    if GATED:
        return linear_layout(
            [COLUMNS // 8, 8],
            [(0, n, log2(COLUMNS // 8))],
            [(None, 0, 2), (1, 0, 3)],
            [(0, 0, n)],
        )
    return linear_layout(
        [COLUMNS // 8, 8],
        [(1, 0, 1), (0, 1 + n, log2(COLUMNS // 8))],
        [(None, 0, 2), (1, 1, 3), (0, 0, 1)],
        [(0, 1, 1 + n)],
    )


@gluon.constexpr_function
def _outputs_layout(ROWS, TILES, WARPS):
    """[ROWS, TILES, 8 (g), 2 (r)]: wgmma's result."""
    return linear_layout(
        [ROWS, TILES, 8, 2],
        [(3, 0, 1), (0, 0, 1), (0, 3, log2(ROWS)), (1, log2(WARPS), log2(TILES))],
        [(0, 1, 3), (2, 0, 3)],
        [(1, 0, log2(WARPS))],
    )


@gluon.jit
def _words_of(ring, PARTITION: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr):
    """A partition's words of 32 k's, of [4 (t), columns] in shared memory: [4, TILES, 8, 2]."""
    WIDTH: gl.constexpr = (8 if GATED else 16) * TILES
    at: gl.constexpr = _words_layout(WIDTH, gl.num_warps(), GATED)
    words = ring.slice(PARTITION * WIDTH, WIDTH, 1).load(at)
    if GATED:
        HALF: gl.constexpr = ring.shape[1] // 2
        words = gl.join(words, ring.slice(HALF + PARTITION * WIDTH, WIDTH, 1).load(at))
    return words.reshape([4, TILES, 8, 2])


@gluon.jit
def _nibbles(ring, first: gl.constexpr, WIDTH: gl.constexpr, GATED: gl.constexpr):
    """Zeros, as the file has them, of WIDTH columns of [columns / 8] words."""
    at: gl.constexpr = _zeros_layout(WIDTH, gl.num_warps(), GATED)
    words = ring.slice(first // 8, WIDTH // 8, 0).load(gl.SliceLayout(1, at))
    shift = gl.arange(0, 8, gl.SliceLayout(0, at)) * 4
    zeros = ((words[:, None] >> shift[None, :]) & 15).reshape([WIDTH])
    to: gl.constexpr = gl.SliceLayout(0, _words_layout(WIDTH, gl.num_warps(), GATED))
    return gl.convert_layout(zeros, to, assert_trivial=True)


@gluon.jit
def _affine_of(
    s_ring, z_ring, zero_bias, PARTITION: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """Of each column of a span [TILES, 8 (g), 2 (r)], twice each as two 16-bit numbers: the
    scale, and minus the zero and its offset for even and for odd nibbles."""
    WIDTH: gl.constexpr = (8 if GATED else 16) * TILES
    HALF: gl.constexpr = s_ring.shape[0] // 2
    at: gl.constexpr = gl.SliceLayout(0, _words_layout(WIDTH, gl.num_warps(), GATED))
    scale = s_ring.slice(PARTITION * WIDTH, WIDTH, 0).load(at).to(gl.int16, bitcast=True)
    zero = _nibbles(z_ring, PARTITION * WIDTH, WIDTH, GATED)
    if GATED:
        up = s_ring.slice(HALF + PARTITION * WIDTH, WIDTH, 0).load(at).to(gl.int16, bitcast=True)
        scale = gl.join(scale, up)
        zero = gl.join(zero, _nibbles(z_ring, HALF + PARTITION * WIDTH, WIDTH, GATED))
    scale = (scale.to(gl.int32) & 0xFFFF) * 0x10001
    even, odd = offsets_of(zero, zero_bias, s_ring.dtype)
    return scale.reshape([TILES, 8, 2]), even.reshape([TILES, 8, 2]), odd.reshape([TILES, 8, 2])


@gluon.jit
def _weights_of(
    ring, affine, PARTITION: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr,
    dtype: gl.constexpr, operand: gl.constexpr,
):  # fmt: skip
    """A partition's words of 32 or 64 k's, of [4 (t) or 8, columns], for wgmma."""
    low = _dequantise(ring.slice(0, 4, 0), affine, PARTITION, TILES, GATED, dtype)
    if ring.shape[0] == 4:
        weights = low.permute([1, 3, 2, 6, 5, 0, 4]).reshape([16 * TILES, 32])
    else:
        high = _dequantise(ring.slice(4, 4, 0), affine, PARTITION, TILES, GATED, dtype)
        weights = gl.join(low, high).permute([1, 3, 2, 7, 6, 5, 0, 4]).reshape([16 * TILES, 64])
    return gl.convert_layout(weights, operand, assert_trivial=True)


@gluon.jit
def _dequantise(
    ring, affine, PARTITION: gl.constexpr, TILES: gl.constexpr, GATED: gl.constexpr,
    dtype: gl.constexpr,
):  # fmt: skip
    """The weights [4 (t), TILES, 8 (g), 2 (r), 2 (e), 2 (h), 2 (p)] of 32 k's."""
    words = _words_of(ring, PARTITION, TILES, GATED)
    scale, even, odd = affine
    line: gl.constexpr = gl.SliceLayout(0, words.type.layout)
    scale = gl.expand_dims(gl.convert_layout(scale, line, assert_trivial=True), 0)
    even = gl.expand_dims(gl.convert_layout(even, line, assert_trivial=True), 0)
    odd = gl.expand_dims(gl.convert_layout(odd, line, assert_trivial=True), 0)
    return gl.join(pairs(words, even, scale, False, dtype), pairs(words, odd, scale, True, dtype))


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

    WIDTH: columns.  group, row: the group of the step's first k, and that k's place in it.
    """
    WARPS: gl.constexpr = gl.num_warps()
    ROWS: gl.constexpr = BLOCK_K // 8  # of words, in a step
    LANES: gl.constexpr = min(WIDTH // 4, 32)  # that copy a row
    q_at: gl.constexpr = gl.BlockedLayout([1, 4], [32 // LANES, LANES], [WARPS, 1], [1, 0])
    s_at: gl.constexpr = gl.BlockedLayout([8], [32], [WARPS], [0])
    z_at: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    qweight, scales, qzeros = table
    q_row = gl.arange(0, ROWS, along(q_at, 0))[:, None]
    q_column = gl.arange(0, WIDTH, along(q_at, 1))[None, :]
    q_offset = gl.multiple_of(q_row * q_step.to(gl.int32), [1, 4]) + q_column
    s_column = gl.arange(0, WIDTH, s_at)
    z_column = gl.arange(0, WIDTH // 8, z_at)
    width = (N - first_column) // 8  # eights of columns
    q = gl.multiple_of(qweight + ((step * ROWS).to(gl.int64) * q_step + first_column), 16)
    inside = (q_row < K // 8 - step * ROWS) & (q_column // 8 < width)
    to = q_ring.index(stage).slice(PART * WIDTH, WIDTH, 1)
    async_copy.async_copy_global_to_shared(to, q + q_offset, inside)
    for span in gl.static_range(SPANS):
        s = gl.multiple_of(scales + (group.to(gl.int64) * s_step + first_column), 16)
        z = qzeros + (group.to(gl.int64) * z_step + first_column // 8)
        to = s_ring.index(stage * SPANS + span).slice(PART * WIDTH, WIDTH, 0)
        async_copy.async_copy_global_to_shared(to, s + s_column, s_column // 8 < width)
        to = z_ring.index(stage * SPANS + span).slice(PART * (WIDTH // 8), WIDTH // 8, 0)
        async_copy.async_copy_global_to_shared(to, z + z_column, z_column < width)
        group, row = next_span(group, row, K, group_size, BLOCK_K // SPANS)


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
def _copy(
    sources, sizes,
    TILE_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, SPANS: gl.constexpr,
    BAND: gl.constexpr, GATED: gl.constexpr, UNIT: gl.constexpr, SIZES: gl.constexpr,
):  # fmt: skip
    """The copying warps: all steps of all of the program's tiles, one after the other."""
    a, experts, expert_ids, num_tokens_post_padded, tiles = sources[:5]
    a_ring, q_ring, s_ring, z_ring, full, empty = sources[5:]
    blocks, N, K, group_size, a_step, q_step, s_step, z_step = sizes
    dtype: gl.constexpr = a.dtype.element_ty
    PARTS: gl.constexpr = 2 if GATED else 1
    COLUMNS: gl.constexpr = TILE_N // PARTS
    gdc_wait()
    # What is copied beyond the last block, since SIZES has no such number, is zero.
    high = gl.maximum(gl.load(num_tokens_post_padded), 1)
    rows = tma.make_tensor_descriptor(
        a, [high, (K + 31) // 32 * 32], [a_step, 1], [UNIT, 64], a_ring.layout
    )
    n = blocks * 0  # stages so far
    tile = gl.program_id(0)
    first, count, column = _place(tile, tiles, num_tokens_post_padded, N, UNIT, COLUMNS, BAND)
    while count > 0:
        expert = gl.load(expert_ids + first)
        there = gl.where(expert < 0, 0, K)  # nothing of an expert that is not here
        table = experts + gl.maximum(expert, 0).to(gl.int64) * (3 * PARTS)
        gate = (
            _pointer(table, 0, gl.int32), _pointer(table, 1, dtype), _pointer(table, 2, gl.int32),
        )  # fmt: skip
        up = gate
        if GATED:
            up = (
                _pointer(table, 3, gl.int32), _pointer(table, 4, dtype),
                _pointer(table, 5, gl.int32),
            )  # fmt: skip
        group = tile * 0
        place = group
        for step in range(gl.cdiv(K, BLOCK_K)):
            stage = n % STAGES
            mbarrier.wait(empty.index(stage), (n // STAGES & 1) ^ 1)
            for i in gl.static_range(variants(SIZES)):
                if (count > size_of(i, SIZES)) & (count <= size_of(i + 1, SIZES)):
                    mbarrier.expect(full.index(stage), size_of(i + 1, SIZES) * (UNIT * BLOCK_K * 2))
                    for j in gl.static_range(size_of(i + 1, SIZES)):
                        for part in gl.static_range(BLOCK_K // 64):
                            to = a_ring.index(stage * (BLOCK_K // 64) + part)
                            tma.async_copy_global_to_shared(
                                rows, [(first + j) * UNIT, step * BLOCK_K + part * 64],
                                full.index(stage), to.slice(j * UNIT, UNIT, 0),
                            )  # fmt: skip
            _copy_weights(
                gate, 0, q_ring, s_ring, z_ring, stage, step, column, group, place, N, there,
                group_size, q_step, s_step, z_step, COLUMNS, BLOCK_K, SPANS,
            )  # fmt: skip
            if GATED:
                _copy_weights(
                    up, 1, q_ring, s_ring, z_ring, stage, step, column, group, place, N, there,
                    group_size, q_step, s_step, z_step, COLUMNS, BLOCK_K, SPANS,
                )  # fmt: skip
            for _ in gl.static_range(SPANS):
                group, place = next_span(group, place, K, group_size, BLOCK_K // SPANS)
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
    a_ring, q_ring, s_ring, z_ring, full, empty = rings
    WARPS: gl.constexpr = gl.num_warps()
    BLOCK_N: gl.constexpr = TILE_N // PARTITIONS
    TILES: gl.constexpr = BLOCK_N // 16
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK
    gl.static_assert(CHUNKS % 2 == 0)  # chunks of weights take turns in the registers
    HEIGHTS: gl.constexpr = heights(ROWS)
    BLOCKS: gl.constexpr = len(HEIGHTS)
    operand: gl.constexpr = operand_layout(HEIGHTS[0], WARPS)
    totals = zeros(BLOCK_N, ROWS)
    before = gl.zeros([BLOCK_N, CHUNK], s_ring.dtype, operand)
    for step in range(gl.cdiv(K, BLOCK_K)):
        stage = n % STAGES
        mbarrier.wait(full.index(stage), n // STAGES & 1)
        for i in gl.static_range(CHUNKS):
            if i * SPANS % CHUNKS < SPANS:
                span = stage * SPANS + i * SPANS // CHUNKS
                affine = _affine_of(
                    s_ring.index(span), z_ring.index(span), zero_bias, PARTITION, TILES, GATED
                )
            words = q_ring.index(stage).slice(CHUNK // 8 * i, CHUNK // 8, 0)
            fresh = _weights_of(words, affine, PARTITION, TILES, GATED, s_ring.dtype, operand)
            rows = a_ring.index(stage * (BLOCK_K // 64) + CHUNK * i // 64)
            rows = rows.slice(CHUNK * i % 64, CHUNK, 1)
            products = ()
            for j in gl.static_range(BLOCKS):
                own = rows.slice(j * HEIGHTS[0], HEIGHTS[j], 0)
                products += (product(fresh, own, totals[j]),)
            # The registers of the weights before these are free again.
            totals, before = wait(BLOCKS, products, before)
            before = fresh
            if i == 0:
                last_stage = (n + STAGES - 1) % STAGES
                mbarrier.arrive(empty.index(last_stage), count=1, pred=step > 0)
        n += 1
    totals, before = wait(0, totals, before)
    mbarrier.arrive(empty.index((n + STAGES - 1) % STAGES), count=1)

    column += PARTITION * (BLOCK_N // 2 if GATED else BLOCK_N)
    where = (first_row, rows_there, column, T, N)
    for j in gl.static_range(BLOCKS):
        total = totals[j].reshape([TILES, 2, 8, HEIGHTS[j]]).permute([3, 0, 2, 1])
        _store(total, j * HEIGHTS[0], where, results, s_ring.dtype, GATED)
    return n


@gluon.jit
def _halves(x, RANK: gl.constexpr):
    """The first half of the rows of [ROWS] or [ROWS, TILES, 8, 2], and the second one."""
    HALF: gl.constexpr = x.shape[0] // 2
    if RANK == 1:
        both = x.reshape([2, HALF]).permute([1, 0])
    else:
        both = x.reshape([2, HALF, x.shape[1], 8, 2]).permute([1, 2, 3, 4, 0])
    return gl.split(both)


@gluon.jit
def _pieces(x, COUNT: gl.constexpr, RANK: gl.constexpr):
    """x cut along its rows into so many pieces."""
    pieces = (x,)
    for i in gl.static_range(log2(COUNT)):
        halves = ()
        for j in gl.static_range(2**i):
            halves = halves + _halves(pieces[j], RANK)
        pieces = halves
    return pieces


@gluon.jit
def _store(total, first: gl.constexpr, where, results, dtype: gl.constexpr, GATED: gl.constexpr):
    """A tile's sums [ROWS, TILES, 8 (g), 2 (r)], to where they belong, 64 rows after 64."""
    PIECES: gl.constexpr = max(1, total.shape[0] // 64)
    parts = _pieces(total, PIECES, 4)
    for i in gl.static_range(PIECES):
        _store_rows(parts[i], first + 64 * i, where, results, dtype, GATED)


@gluon.jit
def _store_rows(
    total, first: gl.constexpr, where, results, dtype: gl.constexpr, GATED: gl.constexpr
):  # fmt: skip
    """Rows of a tile from `first` on, in pieces of few registers."""
    first_row, rows_there, column, T, N = where
    sorted_token_ids, weights, c, wide = results
    WARPS: gl.constexpr = gl.num_warps()
    ROWS: gl.constexpr = total.shape[0]
    TILES: gl.constexpr = total.shape[1]
    PIECES: gl.constexpr = max(1, ROWS * TILES // (WARPS * (64 if GATED else 32)))
    at: gl.constexpr = _outputs_layout(ROWS, TILES, WARPS)
    m = here(gl.arange(0, ROWS, along(at, 0))) + first
    inside = m < rows_there
    own = sorted_token_ids + first_row
    ids = gl.where(inside, m, -1)
    if not GATED:
        ids = gl.load(own + m, mask=inside, other=T)
        ids = gl.where(ids < T, ids, -1)
    parts = _pieces(gl.convert_layout(total, at, assert_trivial=True), PIECES, 4)
    rows = _pieces(ids, PIECES, 1)
    for i in gl.static_range(PIECES):
        part = gl.convert_layout(
            parts[i], _outputs_layout(ROWS // PIECES, TILES, WARPS), assert_trivial=True
        )
        if GATED:
            _store_gated(part, rows[i], first_row, own, weights, column, T, N, c, wide, dtype)
        else:
            _store_down(part, rows[i], weights, column, N, c, wide, dtype)


@gluon.jit
def _silu_times(x, y):
    """silu(x) * y, within two units of float32's last place."""
    return gl.inline_asm_elementwise(
        "{ .reg .f32 e;"
        "mul.f32 e, $1, 0fBFB8AA3B;"  # -log2(e)
        "ex2.approx.ftz.f32 e, e;"
        "add.f32 e, e, 0f3F800000;"
        "rcp.approx.ftz.f32 e, e;"
        "mul.f32 e, e, $1;"
        "mul.f32 $0, e, $2; }",
        "=f,f,f", [x, y], gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _store_gated(
    total, m, first_row, sorted_token_ids, weights, column, T, N, c, wide, dtype: gl.constexpr
):  # fmt: skip
    """silu(gate) * up of the tile's rows m [ROWS], below 0 none, to the rows of c."""
    low, high = gl.split(total)
    to: gl.constexpr = low.type.layout
    line: gl.constexpr = gl.SliceLayout(0, to)
    columns = gl.arange(0, total.shape[1], along(line, 0))[:, None] * 8
    columns += column + gl.arange(0, 8, along(line, 1))[None, :]
    m = here(gl.convert_layout(m, along(to, 0), assert_trivial=True))
    values = _silu_times(low, high)
    if weights.to(gl.int64) != 0:
        ids = gl.load(sorted_token_ids + m, mask=m >= 0, other=T)
        values *= gl.load(weights + ids, mask=ids < T, other=0)[:, None, None]
    padded = (N + 31) // 32 * 32  # columns beyond N are zero
    corner = first_row.to(gl.int64) * padded
    there = (m * padded)[:, None, None] + permuted(columns)[None, :, :]
    mask = (m >= 0)[:, None, None] & (columns < padded)[None, :, :]
    if wide.to(gl.int64) != 0:
        gl.store(wide + corner + there, values, mask=mask)
    else:
        gl.store(c + corner + there, values.to(dtype), mask=mask)


@gluon.jit
def _store_down(total, ids, weights, column, N, c, wide, dtype: gl.constexpr):
    """A tile's sums to the rows of c that are its choices' ids [ROWS], below 0 none."""
    at: gl.constexpr = total.type.layout
    line: gl.constexpr = gl.SliceLayout(0, at)
    columns = gl.arange(0, total.shape[1], along(line, 0))[:, None, None] * 16 + column
    columns = columns + gl.arange(0, 8, along(line, 1))[None, :, None] * 2
    columns = columns + gl.arange(0, 2, along(line, 2))[None, None, :]
    ids = here(gl.convert_layout(ids, along(at, 0), assert_trivial=True))
    if weights.to(gl.int64) != 0:
        total *= gl.load(weights + ids, mask=ids >= 0, other=0)[:, None, None, None]
    row = gl.multiple_of(ids.to(gl.int64) * (N // 8 * 8), 8)
    there = row[:, None, None, None] + columns[None, :, :, :]
    mask = (ids >= 0)[:, None, None, None] & (columns // 8 < N // 8)[None, :, :, :]
    store_outputs(total, c, there, wide, there, 0, mask, dtype)


@gluon.jit
def _multiply(
    results, rings, routing, sizes,
    PARTITION: gl.constexpr, PARTITIONS: gl.constexpr, CHUNK: gl.constexpr,
    TILE_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, SPANS: gl.constexpr,
    BAND: gl.constexpr, GATED: gl.constexpr, UNIT: gl.constexpr, SIZES: gl.constexpr,
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
        for i in gl.static_range(variants(SIZES)):
            if (count > size_of(i, SIZES)) & (count <= size_of(i + 1, SIZES)):
                n = _tile(
                    results, rings, n, first * UNIT, count * UNIT, column, zero_bias, T, N, K,
                    size_of(i + 1, SIZES) * UNIT, PARTITION, PARTITIONS, TILE_N, BLOCK_K, STAGES,
                    SPANS, CHUNK, GATED,
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
    CTAS: gl.constexpr,
    GROUP: gl.constexpr,
    GATED: gl.constexpr,
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    COPY_REGISTERS: gl.constexpr,
    CHUNK: gl.constexpr,
    PARTITIONS: gl.constexpr,
    SIZES: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    SPANS: gl.constexpr = max(1, BLOCK_K // GROUP)  # of a step, each in one group
    dtype: gl.constexpr = a.dtype.element_ty
    a_at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    a_ring = gl.allocate_shared_memory(dtype, [STAGES * (BLOCK_K // 64), BLOCK_M, 64], a_at)
    # Row t of four: its pieces of 32 bytes c at c ^ t, so that lanes read different banks.
    q_at: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 4, [1, 0])
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=COPY_WARPS * 32 + 1)  # and one that expects bytes
        mbarrier.init(empty.index(i), count=PARTITIONS)

    # `// 8 * 8` tells the compiler what the sidecar's constraints promise: copies are aligned.
    a_step = (stride_am // 8).to(gl.int64) * 8
    sizes = (
        blocks, N, K, group_size, a_step, stride_qwk.to(gl.int64), stride_sk.to(gl.int64),
        stride_qzk.to(gl.int64),
    )  # fmt: skip
    rings = (a_ring, q_ring, s_ring, z_ring, full, empty)
    sources = (
        a, experts, expert_ids, num_tokens_post_padded, tiles,
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
                    BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT, SIZES,
                )),
                (_copy, (
                    sources, sizes, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT, SIZES,
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
                    BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT, SIZES,
                )),
                (_multiply, (
                    results, rings, routing, few, 1, 2, CHUNK,
                    BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT, SIZES,
                )),
                (_copy, (
                    sources, sizes, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, GATED, UNIT, SIZES,
                )),
            ],
            [4, COPY_WARPS],
            [COPY_REGISTERS, COPY_REGISTERS],
        )  # fmt: skip
