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
    counters  int32 [2 * programs * ACROSS]               zero before and after

Warps are specialised.  Four of them copy: a step's activations, words, scales and zeros (BLOCK_K
k's) go into one stage of a ring in shared memory, and arrive at the stage's barrier.  Activations
come by a tensor map, which swizzles them, since cp.async takes its share of the shared memory's
bandwidth from wgmma; all else comes by cp.async.  The other warps multiply, BLOCK_N columns of
weights as the left operand of wgmma, in registers, and BLOCK_M rows of activations as the right
one, in shared memory in the 128-byte swizzle.  While wgmma works on CHUNK k's they dequantise the
next ones (wgmma_operands.py), whose words and scales they load, with AHEAD, even before that.  With
ACROSS = 2 two partitions of Gluon's have half of the columns each, and with ALONG = 2 every second
step, so that neither waits for the other to dequantise.  Such partitions have to make do with the
registers that a thread has at launch: where setmaxnreg gives them more, ptxas makes wgmma wait for
each product (its remark C7512).

Stages change hands by mbarriers alone (`own_order` in scripts/ptx_builds/build.py).  Each copying
thread waits for `empty` itself, and arrives at `full` itself, when its copies are there; the one
that asks for the activations arrives once more, with their bytes.  Each multiplying thread waits
for `full` itself; at `empty` one arrives for its partition, after a barrier, so that all of its
warps are done with the stage.  A phase of `full` ends only when all copying threads have arrived,
and one of `empty` only when all that read the stage have passed its `full`: none of them can miss
a phase, or take it for the next but one.

The programs, as many as CTAs, are persistent, and share out the tiles as tile_schedule.py says.
Parts of tiles go to the workspace, and are summed, always in the same order, by one of the programs
that have them or by all of these (wgmma_results.py).

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

from linear_layouts import along
from tile_parts import allocate_parts, share_part, shared_part
from tile_schedule import item_at, place_of, schedule
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from wgmma_blocks import heights, operand_layout, product, wait, zeros
from wgmma_operands import affine, load_words, weights_layout, weights_of
from wgmma_results import finish
from wgmma_rings import COPY_WARPS, allocate_barriers, allocate_rings, constants_of, copy_steps


@gluon.jit
def _load(
    rings, stage, i: gl.constexpr, zero, scale, zero_bias, COLUMN: gl.constexpr, at: gl.constexpr,
    CONSTANTS: gl.constexpr,
):  # fmt: skip
    """The i-th chunk of a stage for the columns of a partition: words, summands and factors.

    zero, scale: those of the chunk before, which are the same within a span.
    """
    CHUNKS: gl.constexpr = CONSTANTS[2] // CONSTANTS[6]
    SPANS: gl.constexpr = CONSTANTS[4]
    WIDTH: gl.constexpr = CONSTANTS[1] // CONSTANTS[7] // 8  # eights of columns
    EIGHTS: gl.constexpr = CONSTANTS[6] // 8
    words = rings[1].index(stage).slice(EIGHTS * i, EIGHTS, 0)
    words = load_words(words.slice(COLUMN * WIDTH, WIDTH, 1), at)
    if i * SPANS % CHUNKS < SPANS:
        span = stage * SPANS + i * SPANS // CHUNKS
        scales = rings[2].index(span).slice(COLUMN * WIDTH, WIDTH, 0)
        stored = rings[3].index(span).slice(COLUMN * WIDTH, WIDTH, 0)
        zero, scale = affine(scales, stored, zero_bias, at)
    return words, zero, scale


@gluon.jit
def _multiply(
    rings, exchange, results, zero_bias, K, PARTITION: gl.constexpr, CONSTANTS: gl.constexpr
):  # fmt: skip
    """One partition of the multiplying warps, tile by tile, to the stored result."""
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    TILE_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    BAND: gl.constexpr = CONSTANTS[5]
    CHUNK: gl.constexpr = CONSTANTS[6]
    ACROSS: gl.constexpr = CONSTANTS[7]
    ALONG: gl.constexpr = CONSTANTS[8]
    AHEAD: gl.constexpr = CONSTANTS[9]
    HEIGHTS: gl.constexpr = heights(BLOCK_M)
    BLOCKS: gl.constexpr = len(HEIGHTS)
    a_rings, _, s_ring, _, full, empty = rings
    parts, ready, taken = exchange
    M = results[7]
    N = results[8]
    COLUMN: gl.constexpr = PARTITION % ACROSS  # of the partitions that share out columns
    STEP: gl.constexpr = PARTITION // ACROSS  # of those that share out steps
    BLOCK_N: gl.constexpr = TILE_N // ACROSS
    WIDTH: gl.constexpr = BLOCK_N // 8  # eights of columns
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK
    # Weights take turns in two sets of registers.  With an odd number, those of a step's last chunk
    # would be written anew, for the next step's first one, while wgmma still reads them.
    gl.static_assert(CHUNKS % 2 == 0)
    # A stage belongs to one of the partitions that share out steps, for good.  One that came back
    # to it after a round of the other's could take that round's phase of `full` for its own, where
    # the activations of that round were late.
    gl.static_assert(STAGES % ALONG == 0)
    EIGHTS: gl.constexpr = CHUNK // 8
    at: gl.constexpr = weights_layout(EIGHTS, BLOCK_N, gl.num_warps())
    operand: gl.constexpr = operand_layout(HEIGHTS[0], gl.num_warps())

    gdc_wait()
    programs, sharers, steps, whole, shared, start, stop = schedule(
        M, N, K, BLOCK_M, TILE_N, BLOCK_K
    )
    sharing = (whole * programs, steps, sharers, shared, start)
    x = start - whole * steps
    n = x * 0  # stages of the items so far
    items = x * 0
    while x < stop:
        tile, first, end = item_at(x, programs, steps, whole * programs, start, stop)
        totals = zeros(BLOCK_N, BLOCK_M)
        before = gl.zeros([BLOCK_N, CHUNK], s_ring.dtype, operand)
        own = n + ((n + STEP) & (ALONG - 1))  # the next of this partition's stages
        own_first = first + own - n
        stage = own % STAGES
        turn = own // STAGES & 1  # parity of the ring's rounds
        words = gl.zeros([EIGHTS, WIDTH, 8], gl.int32, along(at, 0, 1, 2))
        zero = gl.zeros([1, WIDTH, 8, 1, 2], s_ring.dtype, at)
        scale = gl.zeros([1, WIDTH, 8, 1, 1], s_ring.dtype, at)
        if AHEAD:  # noqa: SIM102
            if own_first < end:
                mbarrier.wait(full.index(stage), turn)
                words, zero, scale = _load(
                    rings, stage, 0, zero, scale, zero_bias, COLUMN, at, CONSTANTS
                )
        for step in range(own_first, end, ALONG):
            around = (stage >= STAGES - ALONG).to(gl.int32)
            next_stage = stage + ALONG - around * STAGES
            next_turn = turn ^ around
            for i in gl.static_range(CHUNKS):
                if not AHEAD:
                    if i == 0:
                        mbarrier.wait(full.index(stage), turn)
                    words, zero, scale = _load(
                        rings, stage, i, zero, scale, zero_bias, COLUMN, at, CONSTANTS
                    )
                weights = weights_of(words, zero, scale, at, operand)
                products = ()
                for j in gl.static_range(BLOCKS):
                    rows = a_rings[j].index(stage).slice(CHUNK * i, CHUNK, 1)
                    products += (product(weights, rows, totals[j]),)
                # What the next weights are made of is under way while wgmma works.
                if AHEAD:
                    if i + 1 < CHUNKS:
                        words, zero, scale = _load(
                            rings, stage, i + 1, zero, scale, zero_bias, COLUMN, at, CONSTANTS
                        )
                    elif step + ALONG < end:
                        mbarrier.wait(full.index(next_stage), next_turn)
                        words, zero, scale = _load(
                            rings, next_stage, 0, zero, scale, zero_bias, COLUMN, at, CONSTANTS
                        )
                # The registers of the weights before these are free again.
                totals, before = wait(BLOCKS, products, before)
                before = weights
                if i == 0:
                    last_stage = stage - ALONG + (stage < ALONG).to(gl.int32) * STAGES
                    mbarrier.arrive(empty.index(last_stage), count=1, pred=step > own_first)
            stage = next_stage
            turn = next_turn
        totals, before = wait(0, totals, before)
        last_stage = stage - ALONG + (stage < ALONG).to(gl.int32) * STAGES
        mbarrier.arrive(empty.index(last_stage), count=1, pred=own_first < end)
        n += end - first

        if STEP > 0:
            mbarrier.wait(taken.index(COLUMN), items & 1 ^ 1)
            for j in gl.static_range(BLOCKS):
                share_part(parts[j].index(COLUMN), totals[j])
            mbarrier.arrive(ready.index(COLUMN), count=1)
        else:
            if ALONG == 2:
                mbarrier.wait(ready.index(COLUMN), items & 1)
                sums = ()
                for j in gl.static_range(BLOCKS):
                    sums += (totals[j] + shared_part(parts[j].index(COLUMN), totals[j]),)
                totals = sums
                mbarrier.arrive(taken.index(COLUMN), count=1)
            first_row, first_column = place_of(tile, M, N, BLOCK_M, TILE_N, BAND)
            finish(
                totals, results, tile, end - first == steps, sharing, first_row,
                first_column + COLUMN * BLOCK_N, COLUMN, ACROSS,
            )  # fmt: skip
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
    ACROSS: gl.constexpr,
    ALONG: gl.constexpr,
    AHEAD: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    SPANS: gl.constexpr = BLOCK_K // GROUP  # of a step, each in one group
    CONSTANTS: gl.constexpr = constants_of(
        BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, CHUNK, ACROSS, ALONG, AHEAD
    )
    # All copying threads, and the one that expects the bytes of the activations, fill a stage.
    rings = allocate_rings(a.dtype.element_ty, CONSTANTS, COPY_WARPS * 32 + 1, ACROSS)
    # Sums of the partitions with every second step, on their way to those with the others.
    COLUMNS: gl.constexpr = BLOCK_N // ACROSS if ALONG == 2 else 1
    HEIGHTS: gl.constexpr = heights(BLOCK_M)
    parts = ()
    for j in gl.static_range(len(HEIGHTS)):
        parts += (allocate_parts(ACROSS, HEIGHTS[j], COLUMNS),)
    exchange = (parts, allocate_barriers(ACROSS, 1), allocate_barriers(ACROSS, 1))

    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    sources = (
        a, qweight, scales, qzeros, M, N, K, group_size, stride_am.to(gl.int64),
        stride_qwk.to(gl.int64), stride_sk.to(gl.int64), stride_qzk.to(gl.int64),
    )  # fmt: skip
    results = (c, stride_cm.to(gl.int64), bias, wide, adds, workspace, counters, M, N)
    if ACROSS * ALONG == 1:
        gl.warp_specialize(
            [
                (_multiply, (rings, exchange, results, zero_bias, K, 0, CONSTANTS)),
                (copy_steps, (rings, sources, CONSTANTS)),
            ],
            [COPY_WARPS],
            [COPY_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (_multiply, (rings, exchange, results, zero_bias, K, 0, CONSTANTS)),
                (_multiply, (rings, exchange, results, zero_bias, K, 1, CONSTANTS)),
                (copy_steps, (rings, sources, CONSTANTS)),
            ],
            [4, COPY_WARPS],
            [COPY_REGISTERS, COPY_REGISTERS],
        )
