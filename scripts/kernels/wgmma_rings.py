"""Rings in shared memory for the GEMMs by wgmma, and the warps that copy into them.

A stage has a step's activations [BLOCK_M, BLOCK_K] in the 128-byte swizzle, in one block of rows
or two (wgmma_blocks.py), its words [BLOCK_K / 8, BLOCK_N / 8, 8], and scales [BLOCK_N / 8, 8] and
zeros [BLOCK_N / 8] for each of its SPANS spans of k's that share a group.  Activations come by a
tensor map, which swizzles them, since cp.async takes its share of the shared memory's bandwidth
from wgmma; all else comes by cp.async.
"""

from linear_layouts import along
from tile_schedule import item_at, place_of, schedule
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_wait
from wgmma_blocks import heights

COPY_WARPS = gl.constexpr(4)


@gluon.constexpr_function
def constants_of(*constants):
    """All constants of a build, which partitions take as one: tile, stages, spans, then its own."""
    return constants


@gluon.jit
def allocate_rings(
    dtype: gl.constexpr, CONSTANTS: gl.constexpr, FILLING: gl.constexpr, EMPTYING: gl.constexpr
):
    """Blocks of activations, words, scales, zeros, and the barriers of full and of empty stages.

    FILLING, EMPTYING: arrivals that make a stage full, and empty.
    """
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    BLOCK_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    SPANS: gl.constexpr = CONSTANTS[4]
    HEIGHTS: gl.constexpr = heights(BLOCK_M)
    a_rings = ()
    for i in gl.static_range(len(HEIGHTS)):
        a_rings += (_allocate_rows(dtype, STAGES, HEIGHTS[i], BLOCK_K),)
    q_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N // 8, 8], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N // 8, 8], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    full = allocate_barriers(STAGES, FILLING)
    empty = allocate_barriers(STAGES, EMPTYING)
    return a_rings, q_ring, s_ring, z_ring, full, empty


@gluon.jit
def _allocate_rows(
    dtype: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, BLOCK_K: gl.constexpr
):
    at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    return gl.allocate_shared_memory(dtype, [STAGES, ROWS, BLOCK_K], at)


@gluon.jit
def allocate_barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Allocate `COUNT` barriers, each for `ARRIVALS` arrivals."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def copy_weights(
    qweight, scales, qzeros, q_ring, s_ring, z_ring, stage, step, first_column, group, row,
    N, K, group_size, q_step, s_step, z_step,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """One step's words, scales and zeros into a stage of the ring.

    group, row: the group of the step's first k, and that k's place in it.  -> the next step's.
    """
    WARPS: gl.constexpr = gl.num_warps()
    ROWS: gl.constexpr = BLOCK_K // 8  # of words, in a step
    # Eight lanes copy 128 bytes of a row: anything narrower costs cp.async more cycles.
    WIDE: gl.constexpr = min(BLOCK_N // 8, 16)
    q_at: gl.constexpr = gl.BlockedLayout(
        [1, 1, 4], [16 // WIDE, WIDE, 2], [WARPS, 1, 1], [2, 1, 0]
    )
    s_at: gl.constexpr = gl.BlockedLayout([1, 8], [32, 1], [WARPS, 1], [1, 0])
    z_at: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    q_row = gl.arange(0, ROWS, along(q_at, 0))[:, None, None]
    q_column = gl.arange(0, BLOCK_N // 8, along(q_at, 1))[None, :, None]
    q_offset = gl.multiple_of(q_row * q_step.to(gl.int32), [1, 1, 4]) + q_column * 8
    q_offset += gl.arange(0, 8, along(q_at, 2))[None, None, :]
    s_column = gl.arange(0, BLOCK_N // 8, along(s_at, 0))[:, None]
    s_offset = s_column * 8 + gl.arange(0, 8, along(s_at, 1))[None, :]
    z_offset = gl.arange(0, BLOCK_N // 8, z_at)
    width = (N - first_column) // 8  # eights of columns
    q = gl.multiple_of(qweight + ((step * ROWS).to(gl.int64) * q_step + first_column), 16)
    inside = (q_row < K // 8 - step * ROWS) & (q_column < width)
    async_copy.async_copy_global_to_shared(q_ring.index(stage), q + q_offset, inside)
    for span in gl.static_range(SPANS):
        s = gl.multiple_of(scales + (group.to(gl.int64) * s_step + first_column), 16)
        z = qzeros + (group.to(gl.int64) * z_step + first_column // 8)
        async_copy.async_copy_global_to_shared(
            s_ring.index(stage * SPANS + span), s + s_offset, s_column < width
        )
        async_copy.async_copy_global_to_shared(
            z_ring.index(stage * SPANS + span), z + z_offset, z_offset < width
        )
        group, row = next_span(group, row, K, group_size, BLOCK_K // SPANS)
    return group, row


@gluon.jit
def next_span(group, row, K, group_size, rows: gl.constexpr):
    """The group `rows` k's further on, the last one at the most, and the place in it."""
    row += rows
    over = (row >= group_size) & ((group + 1) * group_size < K)
    return group + over.to(gl.int32), gl.where(over, 0, row)


@gluon.jit
def _rows_of(a, M, K, a_step, ring):
    """A map of a [M, K] in boxes of a stage of the ring."""
    BOX: gl.constexpr = [ring.shape[1], ring.shape[2]]
    return tma.make_tensor_descriptor(a, [M, K], [a_step, 1], BOX, ring.layout)


@gluon.jit
def copy_steps(rings, sources, CONSTANTS: gl.constexpr):
    """The copying warps: all steps of all of the program's tiles, one after the other."""
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    BLOCK_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    SPANS: gl.constexpr = CONSTANTS[4]
    BAND: gl.constexpr = CONSTANTS[5]
    HEIGHTS: gl.constexpr = heights(BLOCK_M)
    BOX: gl.constexpr = HEIGHTS[len(HEIGHTS) - 1]  # rows of a copy: both blocks have one map
    a_rings, q_ring, s_ring, z_ring, full, empty = rings
    a, qweight, scales, qzeros, M, N, K, group_size, a_step, q_step, s_step, z_step = sources
    STEP_BYTES: gl.constexpr = BLOCK_M * BLOCK_K * 2  # of activations
    programs, _, steps, whole, _, start, stop = schedule(M, N, K, BLOCK_M, BLOCK_N, BLOCK_K)
    x = start - whole * steps
    tile, first, end = item_at(x, programs, steps, whole * programs, start, stop)
    first_row, first_column = place_of(tile, M, N, BLOCK_M, BLOCK_N, BAND)
    group = first * BLOCK_K // group_size
    row = first * BLOCK_K - group * group_size
    # Stages whose weights are copied before the launches ahead are done: few, since a program that
    # comes late would only be held up by more.
    ahead = gl.minimum(2, end - first)
    for i in range(ahead):
        group, row = copy_weights(
            qweight, scales, qzeros, q_ring, s_ring, z_ring, i, first + i, first_column, group, row,
            N, K, group_size, q_step, s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
        )  # fmt: skip
    gdc_wait()
    rows = _rows_of(a, M, K, a_step, a_rings[len(HEIGHTS) - 1])
    n = x * 0  # stages so far
    stage = x * 0
    turn = stage + 1  # parity of the ring's rounds
    while x < stop:
        for step in range(first, end):
            mbarrier.wait(empty.index(stage), turn)
            mbarrier.expect(full.index(stage), STEP_BYTES)
            for j in gl.static_range(BLOCK_M // BOX):
                tma.async_copy_global_to_shared(
                    rows, [first_row + j * BOX, step * BLOCK_K], full.index(stage),
                    a_rings[j * BOX // HEIGHTS[0]].index(stage).slice(j * BOX % HEIGHTS[0], BOX, 0),
                )  # fmt: skip
            if n >= ahead:
                group, row = copy_weights(
                    qweight, scales, qzeros, q_ring, s_ring, z_ring, stage, step, first_column,
                    group, row, N, K, group_size, q_step, s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
                )  # fmt: skip
            async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            n += 1
            around = (stage == STAGES - 1).to(gl.int32)
            stage += 1 - around * STAGES
            turn ^= around
        x += end - first
        if x < stop:
            tile, first, end = item_at(x, programs, steps, whole * programs, start, stop)
            first_row, first_column = place_of(tile, M, N, BLOCK_M, BLOCK_N, BAND)
            group = first * BLOCK_K // group_size
            row = first * BLOCK_K - group * group_size
