"""The W4A16 GEMM of many experts for many rows each, on Hopper, on their tensors as they lie.

Parameters and routing are those of moe_w4a16_gptq.py, blocks being of UNIT rows, but

    a        T [blocks * UNIT, K32]       activations as moe_gather puts them there: rows in the
                                          order of sorted_token_ids, K32 = cdiv(K, 32) * 32 columns;
                                          only the launcher reads the address, and stride_am, for
                                          the maps
    c, wide  [blocks * UNIT, N32], GATED  in that order, too; else [T, N], in the order of choices

    tiles    int32 [1 + blocks]   how many tiles there are, and of each its first block and how many
                                  blocks of one expert it has, up to BLOCK_M / UNIT, as
                                  16 * first + count; or NULL: each block is a tile
    few_map, more_map             maps of a, in boxes of BOX and of MORE rows and 64 k's

A tile's blocks are multiplied together, as the next number of blocks that SIZES has (bit i: i), the
weights dequantised once.

Columns of activations lie as mma_operands.py has k's: k = [p, h, e, t0, t1], low bits first, of
each 32 at [e, t0, t1, h, p]: a lane of wgmma's left operand then takes the words of its own k's as
they lie in the file, and a register has nibbles i and i + 4.  Columns beyond K are zero.

Warps are specialised, as in w4a16_gptq_gemm_wgmma.py, and what is told there of stages and their
mbarriers holds here.  The eight warps that multiply are one partition, of more registers than a
thread has at launch, and a chunk's words are loaded while products of the one before are under way.
Activations are copied in boxes of BOX rows and 64 k's, or of MORE rows where a tile has so many:
each of the copying warps takes its part in all that any of them does.

Tiles are not all multiples of a box, and maps know nothing of num_tokens_post_padded.  So rows that
follow a tile's own are read, too, even those behind the last block, but no result depends on them:
behind the last block there may be anything, NaN as well.

GATED: rows g and g + 8 of each sixteen that wgmma computes are a column of gate and the same one of
up, so that one thread has both.  Where it has two columns, they are neighbours in c, and of eight
lanes all columns of 32 bytes of c are.
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
from wgmma_products import height, operand_layout, product, wait, zeros
from wgmma_results import here
from wgmma_rings import allocate_barriers, constants_of, next_span, release

COPY_WARPS = gl.constexpr(4)
CHUNK = gl.constexpr(32)  # k's that are dequantised at once: those of a word's nibbles, four times


@gluon.constexpr_function
def _paired(COLUMNS, WARPS, GATED):
    """True if a thread has two columns of gate that are neighbours where activations are sorted."""
    return bool(GATED) and COLUMNS >= 16 * WARPS


@gluon.constexpr_function
def _words_layout(COLUMNS, WARPS, GATED):
    """[4 (t), COLUMNS]: a lane's words of 32 k's; GATED: of gate, or of up."""
    n = log2(WARPS)
    if _paired(COLUMNS, WARPS, GATED):
        return linear_layout(
            [4, COLUMNS],
            [(1, 2, 3), (1, 4 + n, log2(COLUMNS))],
            [(0, 0, 2), (1, 3, 5), (1, 1, 2)],
            [(1, 0, 1), (1, 5, 4 + n)],
        )
    r = 0 if GATED else 1
    return linear_layout(
        [4, COLUMNS],
        [(1, 0, r), (1, 3 + r + n, log2(COLUMNS))],
        [(0, 0, 2), (1, r, 3 + r)],
        [(1, 3 + r, 3 + r + n)],
    )


@gluon.constexpr_function
def _zeros_layout(COLUMNS, WARPS, GATED):
    """[COLUMNS / 8, 8]: the words of zeros of a lane's columns, and which of the eight they are."""
    n = log2(WARPS)
    if _paired(COLUMNS, WARPS, GATED):
        return linear_layout(
            [COLUMNS // 8, 8],
            [(1, 2, 3), (0, 1 + n, log2(COLUMNS // 8))],
            [(None, 0, 2), (0, 0, 2), (1, 1, 2)],
            [(1, 0, 1), (0, 2, 1 + n)],
        )
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


@gluon.jit
def _gates(x):
    """Columns [..., COLUMNS] of gate or up as [..., COLUMNS / 8, 8 (g)]: those of a g are a lane's.

    Bits of a paired column c, low to high: g is [c3, c4, c1], and what leads to it [c0, c5, ...,
    c2].
    """
    COLUMNS: gl.constexpr = x.shape[len(x.shape) - 1]
    ROWS: gl.constexpr = x.numel // COLUMNS
    if _paired(COLUMNS, gl.num_warps(), True):
        x = x.reshape([ROWS, COLUMNS // 32, 2, 2, 2, 2, 2]).permute([0, 4, 1, 6, 5, 2, 3])
    x = x.reshape([ROWS, COLUMNS // 8, 8])
    if ROWS == 1:
        x = x.reshape([COLUMNS // 8, 8])
    return x


@gluon.constexpr_function
def _outputs_layout(ROWS, TILES, WARPS):
    """[ROWS, TILES, 8 (g), 2 (r)]: wgmma's result."""
    return linear_layout(
        [ROWS, TILES, 8, 2],
        [(3, 0, 1), (0, 0, 1), (0, 3, log2(ROWS)), (1, log2(WARPS), log2(TILES))],
        [(0, 1, 3), (2, 0, 3)],
        [(1, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _gated_layout(ROWS, EIGHTS, PAIR, WARPS):
    """[ROWS, EIGHTS, 8 (g), PAIR]: a thread's neighbours, which it stores together, come first."""
    return linear_layout(
        [ROWS, EIGHTS, 8, PAIR],
        [
            (3, 0, log2(PAIR)), (0, 0, 1), (0, 3, log2(ROWS)),
            (1, log2(WARPS), log2(EIGHTS)),
        ],
        [(0, 1, 3), (2, 0, 3)],
        [(1, 0, log2(WARPS))],
    )  # fmt: skip


@gluon.jit
def _words_of(ring, TILES: gl.constexpr, GATED: gl.constexpr):
    """The words of 32 k's, of [4 (t), columns] in shared memory: [4, TILES, 8, 2]."""
    WIDTH: gl.constexpr = (8 if GATED else 16) * TILES
    at: gl.constexpr = _words_layout(WIDTH, gl.num_warps(), GATED)
    words = ring.slice(0, WIDTH, 1).load(at)
    if GATED:
        words = gl.join(_gates(words), _gates(ring.slice(WIDTH, WIDTH, 1).load(at)))
    else:
        words = words.reshape([4, TILES, 8, 2])
    return words


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
def _affine_of(s_ring, z_ring, zero_bias, TILES: gl.constexpr, GATED: gl.constexpr):
    """Scale, and minus the zero and its offset for even and for odd nibbles, of each column of
    a span [TILES, 8 (g), 2 (r)]: twice each, as two 16-bit numbers."""
    WIDTH: gl.constexpr = (8 if GATED else 16) * TILES
    at: gl.constexpr = gl.SliceLayout(0, _words_layout(WIDTH, gl.num_warps(), GATED))
    scale = s_ring.slice(0, WIDTH, 0).load(at).to(gl.int16, bitcast=True)
    zero = _nibbles(z_ring, 0, WIDTH, GATED)
    if GATED:
        up = s_ring.slice(WIDTH, WIDTH, 0).load(at).to(gl.int16, bitcast=True)
        scale = gl.join(_gates(scale), _gates(up))
        zero = gl.join(_gates(zero), _gates(_nibbles(z_ring, WIDTH, WIDTH, GATED)))
    scale = (scale.to(gl.int32) & 0xFFFF) * 0x10001
    even, odd = offsets_of(zero, zero_bias, s_ring.dtype)
    return scale.reshape([TILES, 8, 2]), even.reshape([TILES, 8, 2]), odd.reshape([TILES, 8, 2])


@gluon.jit
def _weights_of(words, affine, dtype: gl.constexpr, operand: gl.constexpr):
    """The weights [16 * TILES, 32] of words [4 (t), TILES, 8 (g), 2 (r)], for wgmma."""
    scale, even, odd = affine
    line: gl.constexpr = gl.SliceLayout(0, words.type.layout)
    scale = gl.expand_dims(gl.convert_layout(scale, line, assert_trivial=True), 0)
    even = gl.expand_dims(gl.convert_layout(even, line, assert_trivial=True), 0)
    odd = gl.expand_dims(gl.convert_layout(odd, line, assert_trivial=True), 0)
    # [4 (t), TILES, 8 (g), 2 (r), 2 (e), 2 (h), 2 (p)]
    weights = gl.join(
        pairs(words, even, scale, False, dtype), pairs(words, odd, scale, True, dtype)
    )
    weights = weights.permute([1, 3, 2, 6, 5, 0, 4]).reshape([16 * words.shape[1], 32])
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
def _lines_of(tiles, num_tokens_post_padded, UNIT: gl.constexpr):
    """Count the tiles of the same columns."""
    lines = gl.load(num_tokens_post_padded) // UNIT
    if tiles.to(gl.int64) != 0:
        lines = gl.load(tiles)
    return lines


@gluon.jit
def _place(tile, tiles, high, N, COLUMNS: gl.constexpr, BAND: gl.constexpr):
    """A tile's first block, its blocks and its first column; no blocks where there is no such.

    high: what _lines_of says.
    """
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


@gluon.constexpr_function
def _boxes(ROWS, BOX, MORE):
    """First row and rows of the boxes in which ROWS rows are copied: of MORE rows, if those are no
    more than there are left, or else of BOX."""
    found, first = [], 0
    while first < ROWS:
        found.append((first, MORE if first + MORE <= ROWS else BOX))
        first += found[-1][1]
    return tuple(found)


@gluon.constexpr_function
def _rows_in(BOXES):
    return sum(rows for _, rows in BOXES)


@gluon.jit
def _copy_rows(
    maps, a_ring, barrier, stage, first_row, rows_there, step, LEAST: gl.constexpr,
    ROWS: gl.constexpr, CONSTANTS: gl.constexpr,
):  # fmt: skip
    """One step's activations into a stage, box by box.  LEAST: of rows_there, which are stored."""
    PARTS: gl.constexpr = CONSTANTS[1] // 64
    HIGH: gl.constexpr = a_ring.shape[0] // (CONSTANTS[2] * PARTS)  # boxes of 64 k's
    BOX: gl.constexpr = CONSTANTS[7]
    BOXES: gl.constexpr = _boxes(ROWS, BOX, CONSTANTS[8])
    mbarrier.expect(barrier, _rows_in(BOXES) * (PARTS * 128))
    for part in gl.static_range(PARTS):
        for j in gl.static_range(len(BOXES)):
            to = a_ring.index((stage * PARTS + part) * HIGH + BOXES[j][0] // BOX)
            row = first_row + BOXES[j][0]
            if BOXES[j][0] >= LEAST:
                # No row of the box may be the tile's, and all may be outside of the array, where
                # they take longer than others: the tile's first rows stand in.
                row = gl.where(BOXES[j][0] < rows_there, row, first_row)
            tma.async_copy_global_to_shared(
                maps[BOXES[j][1] > BOX], [row, (step * PARTS + part) * 64], barrier,
                to._reinterpret(a_ring.dtype, [BOXES[j][1], 64], a_ring.layout),
            )  # fmt: skip


@gluon.jit
def _copy(sources, sizes, CONSTANTS: gl.constexpr):
    """The copying warps: all steps of all of the program's tiles, one after the other."""
    maps, experts, expert_ids, num_tokens_post_padded, tiles = sources[:5]
    a_ring, q_ring, s_ring, z_ring, full, empty = sources[5:]
    N, K, group_size, q_step, s_step, z_step = sizes
    TILE_N: gl.constexpr = CONSTANTS[0]
    BLOCK_K: gl.constexpr = CONSTANTS[1]
    STAGES: gl.constexpr = CONSTANTS[2]
    SPANS: gl.constexpr = CONSTANTS[3]
    BAND: gl.constexpr = CONSTANTS[4]
    UNIT: gl.constexpr = CONSTANTS[5]
    SIZES: gl.constexpr = CONSTANTS[6]
    GATED: gl.constexpr = CONSTANTS[9]
    dtype: gl.constexpr = a_ring.dtype
    PARTS: gl.constexpr = 2 if GATED else 1
    COLUMNS: gl.constexpr = TILE_N // PARTS
    gdc_wait()
    stage = N * 0
    turn = stage + 1  # parity of the ring's rounds
    tile = gl.program_id(0)
    high = _lines_of(tiles, num_tokens_post_padded, UNIT)
    first, count, column = _place(tile, tiles, high, N, COLUMNS, BAND)
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
        # Where the next tile lies is worked out while the table's addresses are on their way.
        tile += gl.num_programs(0)
        following = _place(tile, tiles, high, N, COLUMNS, BAND)
        group = tile * 0
        place = group
        for step in range(gl.cdiv(K, BLOCK_K)):
            mbarrier.wait(empty.index(stage), turn)
            for i in gl.static_range(variants(SIZES)):
                if (count > size_of(i, SIZES)) & (count <= size_of(i + 1, SIZES)):
                    _copy_rows(
                        maps, a_ring, full.index(stage), stage, first * UNIT, count * UNIT, step,
                        (size_of(i, SIZES) + 1) * UNIT, size_of(i + 1, SIZES) * UNIT, CONSTANTS,
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
            stage, turn = _next(stage, turn, STAGES)
        first, count, column = following


@gluon.jit
def _next(stage, turn, STAGES: gl.constexpr):
    """The next stage, and the parity of its round."""
    around = (stage == STAGES - 1).to(gl.int32)
    return stage + 1 - around * STAGES, turn ^ around


@gluon.jit
def _load(rings, stage, i: gl.constexpr, affine, zero_bias, CONSTANTS: gl.constexpr):
    """The words of a stage's i-th chunk, and what _affine_of has of it.

    affine: that of the chunk before, which is the same within a span.
    """
    _, q_ring, s_ring, z_ring, _, _ = rings
    TILES: gl.constexpr = CONSTANTS[0] // 16
    CHUNKS: gl.constexpr = CONSTANTS[1] // CHUNK
    SPANS: gl.constexpr = CONSTANTS[3]
    GATED: gl.constexpr = CONSTANTS[9]
    words = _words_of(q_ring.index(stage).slice(CHUNK // 8 * i, CHUNK // 8, 0), TILES, GATED)
    if i * SPANS % CHUNKS < SPANS:
        span = stage * SPANS + i * SPANS // CHUNKS
        affine = _affine_of(s_ring.index(span), z_ring.index(span), zero_bias, TILES, GATED)
    return words, affine


@gluon.jit
def _tile(
    results, rings, stage, turn, first_row, rows_there, column, zero_bias, T, N, K,
    ROWS: gl.constexpr, CONSTANTS: gl.constexpr,
):  # fmt: skip
    """ROWS rows of a tile, to the stored result.  -> the next tile's first stage, and its turn."""
    a_ring, _, s_ring, _, full, empty = rings
    BLOCK_N: gl.constexpr = CONSTANTS[0]
    BLOCK_K: gl.constexpr = CONSTANTS[1]
    STAGES: gl.constexpr = CONSTANTS[2]
    GATED: gl.constexpr = CONSTANTS[9]
    TILES: gl.constexpr = BLOCK_N // 16
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK
    gl.static_assert(CHUNKS % 2 == 0)  # chunks of weights take turns in the registers
    HIGH: gl.constexpr = a_ring.shape[0] // (STAGES * (BLOCK_K // 64))  # boxes of 64 k's
    HEIGHT: gl.constexpr = height(ROWS)
    operand: gl.constexpr = operand_layout(HEIGHT, gl.num_warps())
    dtype: gl.constexpr = s_ring.dtype
    total = zeros(BLOCK_N, HEIGHT)
    before = gl.zeros([BLOCK_N, CHUNK], dtype, operand)
    mbarrier.wait(full.index(stage), turn)
    words, affine = _load(rings, stage, 0, (), zero_bias, CONSTANTS)
    steps = gl.cdiv(K, BLOCK_K)
    for step in range(steps):
        next_stage, next_turn = _next(stage, turn, STAGES)
        for i in gl.static_range(CHUNKS):
            fresh = _weights_of(words, affine, dtype, operand)
            rows = a_ring.index((stage * (BLOCK_K // 64) + CHUNK * i // 64) * HIGH)
            # As many as a product's block has, though more than the ring has of a stage.
            rows = rows._reinterpret(dtype, [HEIGHT, 64], a_ring.layout)
            rows = rows.slice(CHUNK * i % 64, CHUNK, 1)
            under_way = product(fresh, rows, total, ROWS, stage)
            # What the next weights are made of is under way while wgmma works.
            if i + 1 < CHUNKS:
                words, affine = _load(rings, stage, i + 1, affine, zero_bias, CONSTANTS)
            elif step + 1 < steps:
                mbarrier.wait(full.index(next_stage), next_turn)
                words, affine = _load(rings, next_stage, 0, affine, zero_bias, CONSTANTS)
            # The registers of the weights before these are free again.
            total, before = wait(1, under_way, before)
            before = fresh
            if i == 0:
                last_stage = stage - 1 + (stage == 0).to(gl.int32) * STAGES
                release(empty, last_stage, step > 0)
        stage = next_stage
        turn = next_turn
    total, before = wait(0, total, before)
    last_stage = stage - 1 + (stage == 0).to(gl.int32) * STAGES
    release(empty, last_stage, True)

    where = (first_row, rows_there, column, T, N)
    total = total.reshape([TILES, 2, 8, HEIGHT]).permute([3, 0, 2, 1])
    _store(total, ROWS, where, results, dtype, GATED)
    return stage, turn


@gluon.jit
def _halves(x):
    """The first half of the rows of [ROWS, TILES, 8, 2], and the second one."""
    both = x.reshape([2, x.shape[0] // 2, x.shape[1], 8, 2]).permute([1, 2, 3, 4, 0])
    return gl.split(both)


@gluon.jit
def _pieces(x, COUNT: gl.constexpr):
    """x cut along its rows into so many pieces."""
    pieces = (x,)
    for i in gl.static_range(log2(COUNT)):
        halves = ()
        for j in gl.static_range(2**i):
            halves = halves + _halves(pieces[j])
        pieces = halves
    return pieces


@gluon.constexpr_function
def _at_once(COUNT, ROWS, TILES):
    """A part of COUNT pieces of ROWS rows, whose ids and factors fit beside all sums."""
    room = 160 - COUNT * ROWS * TILES // 2  # registers
    return max(
        n for n in range(1, COUNT + 1) if COUNT % n == 0 and (n == 1 or n * ROWS // 2 <= room)
    )


@gluon.jit
def _store(total, ROWS: gl.constexpr, where, results, dtype: gl.constexpr, GATED: gl.constexpr):
    """A tile's sums [rows, TILES, 8 (g), 2 (r)], ROWS rows of them, to where they belong.

    Rows go in pieces of few registers.
    """
    first_row, rows_there, column, T, N = where
    sorted_token_ids, weights, c, wide = results
    WARPS: gl.constexpr = gl.num_warps()
    TILES: gl.constexpr = total.shape[1]
    PIECE: gl.constexpr = min(ROWS & -ROWS, WARPS * (64 if GATED else 32) // TILES)
    at: gl.constexpr = _outputs_layout(PIECE, TILES, WARPS)
    parts = _pieces(total, total.shape[0] // PIECE)
    own = sorted_token_ids + first_row
    if GATED:
        for i in gl.static_range(ROWS // PIECE):
            part = gl.convert_layout(parts[i], at, assert_trivial=True)
            m = here(gl.arange(0, PIECE, along(at, 0))) + PIECE * i
            m = gl.where(m < rows_there, m, -1)
            _store_gated(part, m, first_row, own, weights, column, T, N, c, wide, dtype)
    else:
        # What all of many pieces need is loaded at once: each load takes as long as a step.
        PIECES: gl.constexpr = _at_once(ROWS // PIECE, PIECE, TILES // WARPS)
        for first in gl.static_range(0, ROWS // PIECE, PIECES):
            ids = ()
            for i in gl.static_range(PIECES):
                m = here(gl.arange(0, PIECE, along(at, 0))) + PIECE * (first + i)
                m = gl.load(own + m, mask=m < rows_there, other=T)
                ids += (gl.where(m < T, m, -1),)
            factors = ()
            for i in gl.static_range(PIECES):
                there = (ids[i] >= 0) & (weights.to(gl.int64) != 0)
                factors += (gl.load(weights + ids[i], mask=there, other=1.0),)
            for i in gl.static_range(PIECES):
                part = gl.convert_layout(parts[first + i], at, assert_trivial=True)
                _store_down(part, ids[i], factors[i], column, N, c, wide, dtype)


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
    values = _silu_times(low, high)
    ROWS: gl.constexpr = values.shape[0]
    EIGHTS: gl.constexpr = values.shape[1]
    PAIR: gl.constexpr = 2 if _paired(8 * EIGHTS, gl.num_warps(), True) else 1
    values = values.reshape([ROWS, PAIR, EIGHTS // PAIR, 8]).permute([0, 2, 3, 1])
    to: gl.constexpr = _gated_layout(ROWS, EIGHTS // PAIR, PAIR, gl.num_warps())
    values = gl.convert_layout(values, to, assert_trivial=True)
    eight = gl.arange(0, EIGHTS // PAIR, along(to, 1))[None, :, None, None]
    g = gl.arange(0, 8, along(to, 2))[None, None, :, None]
    if PAIR == 2:  # as _gates has them
        eight = eight // 2 * 32 + eight % 2
        g = g % 2 * 8 + g // 2 % 2 * 16 + g // 4 * 2
    else:
        eight *= 8
    columns = eight + g + column
    # The neighbour's place is the next one; `//` and `*` tell the compiler that they are aligned.
    places = permuted(columns) // PAIR * PAIR
    places = places + gl.arange(0, PAIR, along(to, 3))[None, None, None, :]
    m = here(gl.convert_layout(m, along(to, 0), assert_trivial=True))
    if weights.to(gl.int64) != 0:
        ids = gl.load(sorted_token_ids + m, mask=m >= 0, other=T)
        factor = gl.load(weights + ids, mask=ids < T, other=0)
        values *= factor[:, None, None, None]
    padded = (N + 31) // 32 * 32  # columns beyond N are zero
    corner = first_row.to(gl.int64) * padded
    there = gl.multiple_of(m * padded, 32)[:, None, None, None] + places
    mask = (m >= 0)[:, None, None, None] & (columns < padded)
    if wide.to(gl.int64) != 0:
        gl.store(gl.multiple_of(wide + corner, 4) + there, values, mask=mask)
    else:
        gl.store(gl.multiple_of(c + corner, 8) + there, values.to(dtype), mask=mask)


@gluon.jit
def _store_down(total, ids, factor, column, N, c, wide, dtype: gl.constexpr):
    """Sums, times a row's factor, to the rows of c that are its choices' ids, below 0 none."""
    at: gl.constexpr = total.type.layout
    line: gl.constexpr = gl.SliceLayout(0, at)
    columns = gl.arange(0, total.shape[1], along(line, 0))[:, None, None] * 16 + column
    columns = columns + gl.arange(0, 8, along(line, 1))[None, :, None] * 2
    columns = columns + gl.arange(0, 2, along(line, 2))[None, None, :]
    ids = here(ids)
    total *= factor[:, None, None, None]
    row = gl.multiple_of(ids.to(gl.int64) * (N // 8 * 8), 8)
    there = row[:, None, None, None] + columns[None, :, :, :]
    mask = (ids >= 0)[:, None, None, None] & (columns // 8 < N // 8)[None, :, :, :]
    store_outputs(total, c, there, wide, there, 0, mask, dtype)


@gluon.jit
def _multiply(results, rings, routing, sizes, CONSTANTS: gl.constexpr):
    """The multiplying warps, tile by tile."""
    num_tokens_post_padded, tiles = routing
    zero_bias, T, N, K = sizes
    BAND: gl.constexpr = CONSTANTS[4]
    UNIT: gl.constexpr = CONSTANTS[5]
    SIZES: gl.constexpr = CONSTANTS[6]
    COLUMNS: gl.constexpr = CONSTANTS[0] // 2 if CONSTANTS[9] else CONSTANTS[0]
    gdc_wait()
    stage = T * 0
    turn = T * 0
    tile = gl.program_id(0)
    high = _lines_of(tiles, num_tokens_post_padded, UNIT)
    first, count, column = _place(tile, tiles, high, N, COLUMNS, BAND)
    while count > 0:
        tile += gl.num_programs(0)
        following = _place(tile, tiles, high, N, COLUMNS, BAND)
        for i in gl.static_range(variants(SIZES)):
            if (count > size_of(i, SIZES)) & (count <= size_of(i + 1, SIZES)):
                stage, turn = _tile(
                    results, rings, stage, turn, first * UNIT, count * UNIT, column, zero_bias,
                    T, N, K, size_of(i + 1, SIZES) * UNIT, CONSTANTS,
                )  # fmt: skip
        first, count, column = following


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
    few_map,
    more_map,
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
    SIZES: gl.constexpr,
    BOX: gl.constexpr,
    MORE: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    SPANS: gl.constexpr = max(1, BLOCK_K // GROUP)  # of a step, each in one group
    dtype: gl.constexpr = a.dtype.element_ty
    a_at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    BOXES: gl.constexpr = STAGES * (BLOCK_K // 64) * -(-BLOCK_M // BOX)
    a_ring = gl.allocate_shared_memory(dtype, [BOXES, BOX, 64], a_at)
    # Row t of four: its pieces of 32 bytes c at c ^ t, so that lanes read different banks; or of
    # 16, where two lanes at the most read one bank.
    PAIRED: gl.constexpr = _paired(BLOCK_N // 2, gl.num_warps(), GATED)
    q_at: gl.constexpr = gl.SwizzledSharedLayout(4 if PAIRED else 8, 1, 4, [1, 0])
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    full = allocate_barriers(STAGES, COPY_WARPS * 32 + 1)  # and one that expects bytes
    empty = allocate_barriers(STAGES, gl.num_warps())
    CONSTANTS: gl.constexpr = constants_of(
        BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, UNIT, SIZES, BOX, MORE, GATED
    )

    sizes = (
        N, K, group_size, stride_qwk.to(gl.int64), stride_sk.to(gl.int64), stride_qzk.to(gl.int64),
    )  # fmt: skip
    rings = (a_ring, q_ring, s_ring, z_ring, full, empty)
    sources = (
        (few_map, more_map), experts, expert_ids, num_tokens_post_padded, tiles,
        a_ring, q_ring, s_ring, z_ring, full, empty,
    )  # fmt: skip
    results = (sorted_token_ids, weights, c, wide)
    routing = (num_tokens_post_padded, tiles)
    few = (zero_bias, T, N, K)
    gl.warp_specialize(
        [
            (_multiply, (results, rings, routing, few, CONSTANTS)),
            (_copy, (sources, sizes, CONSTANTS)),
        ],
        [COPY_WARPS],
        [COPY_REGISTERS],
    )
