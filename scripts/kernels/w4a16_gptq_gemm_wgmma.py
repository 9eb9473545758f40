"""The W4A16 GEMM for many rows, on Hopper: c[M, N] = a[M, K] @ dequantise(...)[K, N] + bias.

It computes straight on the tensors of a GPTQ checkpoint; nothing is repacked.

    a         float16 or bfloat16 [M, K]     activations
    qweight   int32 [K/8, N]                 eight 4-bit weights a word, low nibble first along K
    scales    as a [ceil(K/G), N]
    qzeros    int32 [ceil(K/G), N/8]         eight 4-bit zeros a word, low nibble first along N
    c         as a [M, N]                    fp32 accumulation
    bias      as a [N], or NULL
    wide      float32 [M, N], C order        takes the result in place of c; or NULL
    adds                                     1: the result is added to what `wide` holds
    workspace float32 [2 * programs, BLOCK_M * BLOCK_N]   partial tiles
    counters  int32 [2 * programs * PARTITIONS]           zero before and after

Warps are specialised.  Four of them copy: a step's activations, words, scales and zeros (BLOCK_K
k's) go into one stage of a ring in shared memory, and arrive at the stage's barrier.  Activations
come by a tensor map, which swizzles them, since cp.async takes its share of the shared memory's
bandwidth from wgmma; all else comes by cp.async.  The other warps multiply, BLOCK_N columns of
weights as the left operand of wgmma, in registers, and BLOCK_M rows of activations as the right
one, in shared memory in the 128-byte swizzle.  They dequantise (wgmma_operands.py) the next CHUNK
k's while wgmma works on the last ones.  With PARTITIONS = 2 they are two partitions of Gluon's,
each with half of the columns, so that neither waits for the other to dequantise.  Such partitions
have to make do with the registers that a thread has at launch: where setmaxnreg gives them more,
ptxas makes wgmma wait for each product (its remark C7512).

The programs, as many as CTAs, are persistent, and share out the tiles as tile_schedule.py says.
Parts of tiles go to the workspace, and the last program to arrive at a tile sums its parts, always
in the same order.

GROUP is 64 or 32, and group_size a multiple of it, or one group is all of K.  Rows beyond M,
columns beyond N and k's beyond K are zero, and none of them is stored.  Strides are in elements;
those of rows keep 16-byte copies aligned, the others are 1, or any for rows of qzeros; BLOCK_M rows
of c are less than 2^31 elements.  zero_bias is 1 for GPTQ v1 (the file stores zero - 1) and 0 for
GPTQ v2.

The launch may be programmatic: it starts while launches ahead of it still run, copies its first
weights, scales and zeros, and waits for those launches before it touches anything else, be it only
the memory of its tensor maps.  What that asks of the weights' last writer is told in
w4a16_gptq_gemm_decode.py.
"""

from linear_layouts import along, linear_layout, log2
from tile_parts import share_part, shared_part, store_part, sum_parts
from tile_schedule import item_at, place_of, schedule
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from wgmma_operands import affine, weights_layout, weights_of


@gluon.constexpr_function
def _outputs_layout(BLOCK_M, BLOCK_N, WARPS):
    """[BLOCK_M, BLOCK_N]: wgmma's result, two columns of c together."""
    columns = 4 + log2(WARPS)
    return linear_layout(
        [BLOCK_M, BLOCK_N],
        [(1, 0, 1), (0, 0, 1), (0, 3, log2(BLOCK_M)), (1, columns, log2(BLOCK_N))],
        [(0, 1, 3), (1, 1, 4)],
        [(1, 4, columns)],
    )


@gluon.jit
def _copy_weights(
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
    q_at: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 16, 2], [WARPS, 1, 1], [2, 1, 0])
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
        row += BLOCK_K // SPANS
        over = (row >= group_size) & ((group + 1) * group_size < K)
        group += over.to(gl.int32)
        row = gl.where(over, 0, row)
    return group, row


@gluon.constexpr_function
def _shape(*constants):
    """All constants of a build, in one."""
    return constants


@gluon.jit
def _copy(operands, SHAPE: gl.constexpr):
    """The copying warps: all steps of all of the program's tiles, one after the other."""
    BLOCK_M: gl.constexpr = SHAPE[0]
    BLOCK_N: gl.constexpr = SHAPE[1]
    BLOCK_K: gl.constexpr = SHAPE[2]
    STAGES: gl.constexpr = SHAPE[3]
    SPANS: gl.constexpr = SHAPE[4]
    BAND: gl.constexpr = SHAPE[5]
    a, qweight, scales, qzeros, a_ring, q_ring, s_ring, z_ring, full, empty = operands[:10]
    M, N, K, group_size, a_step, q_step, s_step, z_step = operands[10:]
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
        group, row = _copy_weights(
            qweight, scales, qzeros, q_ring, s_ring, z_ring, i, first + i, first_column, group, row,
            N, K, group_size, q_step, s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
        )  # fmt: skip
    gdc_wait()
    rows = tma.make_tensor_descriptor(a, [M, K], [a_step, 1], [BLOCK_M, BLOCK_K], a_ring.layout)
    n = x * 0  # stages so far
    while x < stop:
        for step in range(first, end):
            stage = n % STAGES
            mbarrier.wait(empty.index(stage), (n // STAGES & 1) ^ 1)
            mbarrier.expect(full.index(stage), STEP_BYTES)
            tma.async_copy_global_to_shared(
                rows, [first_row, step * BLOCK_K], full.index(stage), a_ring.index(stage)
            )
            if n >= ahead:
                group, row = _copy_weights(
                    qweight, scales, qzeros, q_ring, s_ring, z_ring, stage, step, first_column,
                    group, row, N, K, group_size, q_step, s_step, z_step, BLOCK_N, BLOCK_K, SPANS,
                )  # fmt: skip
            async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
            n += 1
        x += end - first
        if x < stop:
            tile, first, end = item_at(x, programs, steps, whole * programs, start, stop)
            first_row, first_column = place_of(tile, M, N, BLOCK_M, BLOCK_N, BAND)
            group = first * BLOCK_K // group_size
            row = first * BLOCK_K - group * group_size


@gluon.jit
def _here(x):
    """x, in a way that what depends on it is not computed ahead of loops and kept in registers."""
    return gl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [x], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _store(total, c, bias, wide, adds, M, N, first_row, first_column, c_step):
    """total [BLOCK_N in wgmma's order, BLOCK_M] + bias -> c, or `wide`."""
    BLOCK_N: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[1]
    at: gl.constexpr = _outputs_layout(BLOCK_M, BLOCK_N, gl.num_warps())
    total = total.reshape([BLOCK_N // 16, 2, 8, BLOCK_M]).permute([3, 0, 2, 1])
    total = gl.convert_layout(total.reshape([BLOCK_M, BLOCK_N]), at, assert_trivial=True)
    row = gl.arange(0, BLOCK_M, along(at, 0))
    column = gl.arange(0, BLOCK_N, along(at, 1))
    inside = (first_column + column) // 8 < N // 8
    if bias.to(gl.int64) != 0:
        total += gl.load(bias + first_column + column, inside, 0).to(gl.float32)[None, :]
    mask = (row < M - first_row)[:, None] & inside[None, :]
    if wide.to(gl.int64) != 0:
        there = gl.multiple_of(wide + (first_row.to(gl.int64) * N + first_column), 8)
        there += gl.multiple_of(row * _here(N), 2)[:, None] + column[None, :]
        if adds != 0:
            total += gl.load(there, mask, 0)
        gl.store(there, total, mask)
    else:
        corner = gl.multiple_of(c + (first_row.to(gl.int64) * c_step + first_column), 16)
        offset = gl.multiple_of(row * _here(c_step.to(gl.int32)), 2)[:, None] + column[None, :]
        gl.store(corner + offset, total.to(c.dtype.element_ty), mask)


@gluon.jit
def _multiply(operands, PARTITION: gl.constexpr, SHAPE: gl.constexpr):
    """One partition of the multiplying warps, tile by tile, to the stored result."""
    BLOCK_M: gl.constexpr = SHAPE[0]
    TILE_N: gl.constexpr = SHAPE[1]
    BLOCK_K: gl.constexpr = SHAPE[2]
    STAGES: gl.constexpr = SHAPE[3]
    SPANS: gl.constexpr = SHAPE[4]
    BAND: gl.constexpr = SHAPE[5]
    PARTITIONS: gl.constexpr = SHAPE[6]
    PARTITIONS_K: gl.constexpr = SHAPE[7]
    CHUNK: gl.constexpr = SHAPE[8]
    FLIGHT: gl.constexpr = SHAPE[9]
    TOGETHER: gl.constexpr = SHAPE[10]
    ORDERED: gl.constexpr = SHAPE[11]
    c, bias, zero_bias, wide, adds, workspace, counters = operands[:7]
    a_ring, q_ring, s_ring, z_ring, full, empty, parts, ready, taken, turns = operands[7:17]
    M, N, K, c_step = operands[17:]
    WARPS: gl.constexpr = gl.num_warps()
    ALL: gl.constexpr = PARTITIONS * PARTITIONS_K
    ACROSS: gl.constexpr = PARTITION % PARTITIONS  # which columns
    ALONG: gl.constexpr = PARTITION // PARTITIONS  # which steps
    BLOCK_N: gl.constexpr = TILE_N // PARTITIONS
    WIDTH: gl.constexpr = BLOCK_N // 8  # eights of columns
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK  # even: weights take turns in the registers
    EIGHTS: gl.constexpr = CHUNK // 8
    at: gl.constexpr = weights_layout(EIGHTS, BLOCK_N, WARPS)
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_M, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, mma, 2)

    gdc_wait()
    programs, sharers, steps, whole, shared, start, stop = schedule(
        M, N, K, BLOCK_M, TILE_N, BLOCK_K
    )
    x = start - whole * steps
    n = x * 0
    items = x * 0
    turn = x * 0
    while x < stop:
        tile, first, end = item_at(x, programs, steps, whole * programs, start, stop)
        total = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, mma)
        flying = ()
        for i in gl.static_range(FLIGHT):
            flying = flying + (gl.zeros([BLOCK_N, CHUNK], s_ring.dtype, operand),)
        own = n + ALONG  # stages, counted as they are copied
        for step in range(first + ALONG, end, PARTITIONS_K):
            stage = own % STAGES
            mbarrier.wait(full.index(stage), own // STAGES & 1)
            for i in gl.static_range(CHUNKS):
                if i * SPANS % CHUNKS < SPANS:
                    span = stage * SPANS + i * SPANS // CHUNKS
                    zero, scale = affine(
                        s_ring.index(span).slice(ACROSS * WIDTH, WIDTH, 0),
                        z_ring.index(span).slice(ACROSS * WIDTH, WIDTH, 0), zero_bias, at,
                    )  # fmt: skip
                words = q_ring.index(stage).slice(EIGHTS * i, EIGHTS, 0)
                words = words.slice(ACROSS * WIDTH, WIDTH, 1)
                weights = weights_of(words, zero, scale, at, operand)
                rows = a_ring.index(stage).slice(CHUNK * i, CHUNK, 1).permute([1, 0])
                if ORDERED:
                    mbarrier.wait(turns.index(PARTITION), (turn & 1) ^ (PARTITION == 0))
                    turn += 1
                total = warpgroup_mma(weights, rows, total, is_async=True)
                if ORDERED:
                    mbarrier.arrive(turns.index((PARTITION + 1) % ALL), count=1)
                # The registers of the oldest weights under way are free again.
                total, oldest = warpgroup_mma_wait(FLIGHT, deps=[total, flying[0]])
                flying = flying[1:] + (weights,)
                if i == FLIGHT - 1:
                    last_stage = (own + (STAGES - PARTITIONS_K)) % STAGES
                    mbarrier.arrive(empty.index(last_stage), count=1, pred=step > first + ALONG)
            own += PARTITIONS_K
        for i in gl.static_range(FLIGHT):
            total, oldest = warpgroup_mma_wait(0, deps=[total, flying[i]])
        last_stage = (own + (STAGES - PARTITIONS_K)) % STAGES
        mbarrier.arrive(empty.index(last_stage), count=1, pred=end - first > ALONG)
        n += end - first

        if ALONG > 0:
            mine: gl.constexpr = PARTITION - PARTITIONS
            mbarrier.wait(taken.index(mine), items & 1 ^ 1)
            share_part(parts.index(mine), total)
            mbarrier.arrive(ready.index(mine), count=1)
        else:
            for other in gl.static_range(PARTITIONS_K - 1):
                its = other * PARTITIONS + ACROSS
                mbarrier.wait(ready.index(its), items & 1)
                total += shared_part(parts.index(its), BLOCK_N, BLOCK_M, mma)
                mbarrier.arrive(taken.index(its), count=1)
            first_row, first_column = place_of(tile, M, N, BLOCK_M, TILE_N, BAND)
            first_column += ACROSS * BLOCK_N
            if end - first == steps:
                _store(total, c, bias, wide, adds, M, N, first_row, first_column, c_step)
            else:
                shared_tile = tile - whole * programs
                tile_start = shared_tile * steps
                lowest = ((tile_start + 1) * sharers - 1) // shared
                highest = ((tile_start + steps) * sharers - 1) // shared
                # A program's first part and its last one; it has no more.
                slot = 2 * gl.program_id(0) + (start < tile_start).to(gl.int32)
                mine = workspace + ACROSS * (BLOCK_M * BLOCK_N)
                store_part(mine + slot.to(gl.int64) * (BLOCK_M * TILE_N), total)
                gl.thread_barrier()
                counter = counters + shared_tile * PARTITIONS + ACROSS
                arrived = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
                if arrived == highest - lowest:
                    gl.thread_barrier()
                    # Only the lowest program can have begun with another tile.
                    begun = (lowest * shared // sharers < tile_start).to(gl.int32)
                    ROWS: gl.constexpr = min(BLOCK_M, 512 * WARPS // BLOCK_N)  # 16 a thread
                    for row in range(0, BLOCK_M, ROWS):
                        rows = sum_parts(
                            mine + row * BLOCK_N, BLOCK_M * TILE_N, lowest, highest, begun,
                            ROWS, BLOCK_N, TOGETHER,
                        )  # fmt: skip
                        _store(
                            rows, c, bias, wide, adds, M, N, first_row + row, first_column, c_step
                        )
                    gl.store(counter, 0)
        items += 1
        x += end - first


@gluon.jit
def w4a16_gptq_gemm_wgmma(
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
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    COPY_REGISTERS: gl.constexpr,
    CHUNK: gl.constexpr,
    GROUP: gl.constexpr,
    PARTITIONS: gl.constexpr,
    PARTITIONS_K: gl.constexpr,
    FLIGHT: gl.constexpr,
    TOGETHER: gl.constexpr,
    ORDERED: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    COPY_WARPS: gl.constexpr = 4
    SPANS: gl.constexpr = BLOCK_K // GROUP  # of a step, each in one group
    ALL: gl.constexpr = PARTITIONS * PARTITIONS_K
    OTHERS: gl.constexpr = max(1, ALL - PARTITIONS)
    dtype: gl.constexpr = a.dtype.element_ty
    a_at: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    a_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_M, BLOCK_K], a_at)
    q_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    q_ring = gl.allocate_shared_memory(gl.int32, [STAGES, BLOCK_K // 8, BLOCK_N // 8, 8], q_at)
    s_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    s_ring = gl.allocate_shared_memory(dtype, [STAGES * SPANS, BLOCK_N // 8, 8], s_at)
    z_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    z_ring = gl.allocate_shared_memory(gl.int32, [STAGES * SPANS, BLOCK_N // 8], z_at)
    PART_N: gl.constexpr = BLOCK_N // PARTITIONS if PARTITIONS_K > 1 else 1
    parts_at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    parts = gl.allocate_shared_memory(gl.float32, [OTHERS, BLOCK_M // 8, PART_N * 2, 4], parts_at)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [OTHERS, 1], mbarrier.MBarrierLayout())
    taken = gl.allocate_shared_memory(gl.int64, [OTHERS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=COPY_WARPS * 32 + 1)  # and one that expects bytes
        mbarrier.init(empty.index(i), count=PARTITIONS)
    turns = gl.allocate_shared_memory(gl.int64, [ALL, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(ALL):
        mbarrier.init(turns.index(i), count=1)
    for i in gl.static_range(OTHERS):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(taken.index(i), count=1)

    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_step = stride_am.to(gl.int64)
    q_step = stride_qwk.to(gl.int64)
    s_step = stride_sk.to(gl.int64)
    z_step = stride_qzk.to(gl.int64)
    c_step = stride_cm.to(gl.int64)
    sources = (
        a, qweight, scales, qzeros, a_ring, q_ring, s_ring, z_ring, full, empty,
        M, N, K, group_size, a_step, q_step, s_step, z_step,
    )  # fmt: skip
    results = (
        c, bias, zero_bias, wide, adds, workspace, counters, a_ring, q_ring, s_ring, z_ring, full,
        empty, parts, ready, taken, turns, M, N, K, c_step,
    )  # fmt: skip
    SHAPE: gl.constexpr = _shape(
        BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, PARTITIONS, PARTITIONS_K, CHUNK, FLIGHT,
        TOGETHER, ORDERED,
    )  # fmt: skip
    if ALL == 1:
        gl.warp_specialize(
            [(_multiply, (results, 0, SHAPE)), (_copy, (sources, SHAPE))],
            [COPY_WARPS],
            [COPY_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (_multiply, (results, 0, SHAPE)),
                (_multiply, (results, 1, SHAPE)),
                (_copy, (sources, SHAPE)),
            ],
            [4, COPY_WARPS],
            [COPY_REGISTERS, COPY_REGISTERS],
        )
