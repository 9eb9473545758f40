"""Rings in shared memory for the GEMM by wgmma, and the warp that copies into them.

A stage has a step's activations, in boxes of 64 k's and BOX rows, its words [BLOCK_K / 8, BLOCK_N],
both in the 128-byte swizzle, and scales [BLOCK_N / 8, 8] and zeros [BLOCK_N / 8] for each of its
SPANS spans of k's that share a group.  Activations and words come by tensor maps, which the
launcher makes: a box is one instruction, where words by cp.async kept four warps busy and tiles of
many rows took 5 to 7 % longer.  All else comes by cp.async.
"""

from linear_layouts import along
from tile_schedule import divide, item_at, place_of, work_of
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_wait

COPY_WARPS = gl.constexpr(1)


@gluon.constexpr_function
def constants_of(*constants):
    """All constants of a build, which partitions take as one: tile, stages, spans, then its own."""
    return constants


@gluon.jit
def rows_of(a_ring, stage, i: gl.constexpr, HEIGHT: gl.constexpr, CONSTANTS: gl.constexpr):
    """HEIGHT rows of a stage's i-th chunk of k's: as many as a product's block has, which may be
    more than the stage has."""
    PARTS: gl.constexpr = CONSTANTS[2] // 64
    CHUNK: gl.constexpr = CONSTANTS[6]
    HIGH: gl.constexpr = CONSTANTS[0] // a_ring.shape[1]  # boxes of 64 k's
    rows = a_ring.index((stage * PARTS + CHUNK * i // 64) * HIGH)
    rows = rows._reinterpret(a_ring.dtype, [HEIGHT, 64], a_ring.layout)
    return rows.slice(CHUNK * i % 64, CHUNK, 1)


@gluon.jit
def allocate_rings(dtype: gl.constexpr, CONSTANTS: gl.constexpr):
    """Activations, words, scales, zeros, and the barriers of full and of empty stages."""
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    BLOCK_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    SPANS: gl.constexpr = CONSTANTS[4]
    BOX: gl.constexpr = CONSTANTS[8]
    BOXES: gl.constexpr = STAGES * (BLOCK_K // 64) * (BLOCK_M // BOX)
    a_at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    a_ring = gl.allocate_shared_memory(dtype, [BOXES, BOX, 64], a_at)
    q_at: gl.constexpr = gl.NVMMASharedLayout(128, 32, 2)
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N // 8, 8], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    # All copying threads, and the one that expects the bytes of the maps' boxes, fill a stage.
    full = allocate_barriers(STAGES, COPY_WARPS * 32 + 1)
    empty = allocate_barriers(STAGES, gl.num_warps())  # of the partition that reads a stage
    return a_ring, q_ring, s_ring, z_ring, full, empty


@gluon.jit
def allocate_barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Allocate `COUNT` barriers, each for `ARRIVALS` arrivals."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def release(empty, stage, given):
    """Each warp that has read a stage gives it back to the copying ones, where `given` is true."""
    gl.inline_asm_elementwise(
        "mov.b32 $0, $1; // the next arrival: by warps", "=r,r", [stage], gl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip
    mbarrier.arrive(empty.index(stage), count=1, pred=given)


@gluon.jit
def _copy_weights(
    words, scales, qzeros, rings, stage, step, first_column, group, row, sizes, s_step, z_step,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, SPANS: gl.constexpr,
):  # fmt: skip
    """One step's words, scales and zeros into a stage of the ring; what takes longest goes first.

    group, row: the group of the step's first k, and that k's place in it.  -> the next step's.
    """
    WARPS: gl.constexpr = gl.num_warps()
    _, q_ring, s_ring, z_ring, full, _ = rings
    _, N, K, group_size = sizes
    s_at: gl.constexpr = gl.BlockedLayout([1, 8], [32, 1], [WARPS, 1], [1, 0])
    z_at: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    s_column = gl.arange(0, BLOCK_N // 8, along(s_at, 0))[:, None]
    s_offset = s_column * 8 + gl.arange(0, 8, along(s_at, 1))[None, :]
    z_offset = gl.arange(0, BLOCK_N // 8, z_at)
    width = (N - first_column) // 8  # eights of columns
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
    tma.async_copy_global_to_shared(
        words, [step * (BLOCK_K // 8), first_column], full.index(stage), q_ring.index(stage)
    )
    return group, row


@gluon.jit
def next_span(group, row, K, group_size, rows: gl.constexpr):
    """The group `rows` k's further on, the last one at the most, and the place in it."""
    row += rows
    over = (row >= group_size) & ((group + 1) * group_size < K)
    return group + over.to(gl.int32), gl.where(over, 0, row)


@gluon.jit
def _group_of(step, group_size, BLOCK_K: gl.constexpr):
    """The group of a step's first k, and that k's place in it."""
    row = step * BLOCK_K
    group = step * 0
    if step > 0:
        group = divide(row, group_size)
        row -= group * group_size
    return group, row


@gluon.jit
def copy_steps(rings, sources, sizes, plan, CONSTANTS: gl.constexpr):
    """The copying warp: all steps of all of the program's tiles, one after the other."""
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    BLOCK_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    SPANS: gl.constexpr = CONSTANTS[4]
    BAND: gl.constexpr = CONSTANTS[5]
    PARTS: gl.constexpr = BLOCK_K // 64
    BOX: gl.constexpr = CONSTANTS[8]
    HIGH: gl.constexpr = BLOCK_M // BOX
    STEP_BYTES: gl.constexpr = BLOCK_M * BLOCK_K * 2 + BLOCK_K * BLOCK_N // 2
    a_ring, _, _, _, full, empty = rings
    rows, words, scales, qzeros, s_step, z_step = sources
    M, N, _, group_size = sizes
    work = work_of(plan, gl.program_id(0))
    count, x, stop = work
    i = x * 0  # items so far
    n = x * 0  # stages so far
    stage = x * 0
    turn = stage + 1  # parity of the ring's rounds
    ahead = stage
    while (i < count) | (x < stop):
        tile, first, end, x = item_at(i, x, plan, work)
        first_row, first_column = place_of(tile, M, N, BLOCK_M, BLOCK_N, BAND)
        group, row = _group_of(first, group_size, BLOCK_K)
        if i == 0:
            # Stages whose weights are copied before the launches ahead are done: few, since a
            # program that comes late would only be held up by more.
            ahead = gl.minimum(2, end - first)
            for j in range(ahead):
                mbarrier.expect(full.index(j), STEP_BYTES)
                group, row = _copy_weights(
                    words, scales, qzeros, rings, j, first + j, first_column, group, row, sizes,
                    s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
                )  # fmt: skip
            gdc_wait()
        for step in range(first, end):
            mbarrier.wait(empty.index(stage), turn)
            if n >= ahead:
                mbarrier.expect(full.index(stage), STEP_BYTES)
                group, row = _copy_weights(
                    words, scales, qzeros, rings, stage, step, first_column, group, row, sizes,
                    s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
                )  # fmt: skip
            for j in gl.static_range(PARTS * HIGH):
                # Rows outside of an array take longer than others: where a whole box is, the
                # tile's first rows stand in.  What becomes of these is not stored.
                box_row = first_row + j % HIGH * BOX
                box_row = gl.where(box_row < M, box_row, first_row)
                tma.async_copy_global_to_shared(
                    rows, [box_row, (step * PARTS + j // HIGH) * 64], full.index(stage),
                    a_ring.index(stage * (PARTS * HIGH) + j),
                )  # fmt: skip
            async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            n += 1
            around = (stage == STAGES - 1).to(gl.int32)
            stage += 1 - around * STAGES
            turn ^= around
        i += 1
