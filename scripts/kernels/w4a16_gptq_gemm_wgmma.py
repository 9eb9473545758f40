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
    tiles ... parts   the work shared out to programs, as tile_schedule.py says; `left` to `saved`
              are what the launcher goes by, and not read here
    a_map     of a, in boxes of BOX rows and 64 k's; BOX is a power of two, and divides BLOCK_M
    words_map of qweight, in boxes of a step's rows and 32 columns
    workspace float32 [2 * programs, BLOCK_M * BLOCK_N]   partial tiles
    counters  int32 [2 * programs]                        zero before and after

Warps are specialised.  One of them copies: a step's activations, words, scales and zeros (BLOCK_K
k's) go into one stage of a ring in shared memory, and arrive at the stage's barrier.  The others
multiply, BLOCK_N columns of weights as the left operand of wgmma, in registers, and BLOCK_M rows of
activations as the right one, in shared memory in the 128-byte swizzle.  While wgmma works on CHUNK
k's they dequantise the next ones (wgmma_operands.py), whose words and scales they load even before
that.  With ALONG = 2 two partitions of Gluon's have every second step each, so that tiles of 64
columns keep eight warps busy.  Such partitions have to make do with the registers that a thread has
at launch: where setmaxnreg gives them more, ptxas makes wgmma wait for each product (its remark
C7512).

Stages change hands by mbarriers alone (`own_order` in scripts/ptx_builds/build.py).  Each copying
thread waits for `empty` itself, and arrives at `full` itself, when its copies are there; the one
that asks for the boxes arrives once more, with their bytes.  Each multiplying thread waits for
`full` itself, and each warp arrives at `empty` on its own: a barrier there would keep warpgroups in
step, all at the tensor cores or all dequantising at a time.  A phase of `full` ends only when all
copying threads have arrived, and one of `empty` only when all that read the stage have passed its
`full`: none of them can miss a phase, or take it for the next but one.

The programs, as many as CTAs, are persistent.  Parts of tiles go to the workspace, and are summed,
always in the same order, by one of the programs that have them or by all of these
(wgmma_results.py).

GROUP divides BLOCK_K, and group_size is a multiple of it, or one group is all of K.  Columns beyond
N and k's beyond K are zero; what comes of those columns, or of rows beyond M, is not stored.
Strides are in elements; those of rows keep 16-byte copies aligned, the others are 1, or any for
rows of qzeros; BLOCK_M rows of c are less than 2^31 elements.  zero_bias is 1 for GPTQ v1 (the file
stores zero - 1) and 0 for GPTQ v2.

The launch may be programmatic: it starts while launches ahead of it still run, copies its first
weights, scales and zeros, and waits for those launches before it touches anything else.  What that
asks of the weights' last writer is told in w4a16_gptq_gemm_decode.py.
"""

from tile_parts import allocate_part, share_part, shared_part
from tile_schedule import item_at, place_of, work_of
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from wgmma_operands import affine, load_words, no_words, weights_layout, weights_of
from wgmma_products import height, operand_layout, pieces_of, product, wait, zeros
from wgmma_results import finish
from wgmma_rings import (
    COPY_WARPS,
    allocate_barriers,
    allocate_rings,
    constants_of,
    copy_steps,
    release,
    rows_of,
)


@gluon.jit
def _load(
    rings, stage, i: gl.constexpr, words, zero, scale, zero_bias, at: gl.constexpr,
    CONSTANTS: gl.constexpr,
):  # fmt: skip
    """The i-th chunk of a stage: words, summands and factors.

    words, zero, scale: those of the chunk before.  Words come for as many chunks as the swizzle
    has rows for, zeros and scales are the same within a span.
    """
    CHUNKS: gl.constexpr = CONSTANTS[2] // CONSTANTS[6]
    SPANS: gl.constexpr = CONSTANTS[4]
    EIGHTS: gl.constexpr = CONSTANTS[6] // 8
    if i % len(words) == 0:
        words = load_words(rings[1].index(stage).slice(EIGHTS * i, EIGHTS * len(words), 0), at)
    if i * SPANS % CHUNKS < SPANS:
        span = stage * SPANS + i * SPANS // CHUNKS
        zero, scale = affine(rings[2].index(span), rings[3].index(span), zero_bias, at)
    return words, zero, scale


@gluon.jit
def _multiply(
    rings, exchange, results, zero_bias, plan, PARTITION: gl.constexpr, CONSTANTS: gl.constexpr
):  # fmt: skip
    """One partition of the multiplying warps, tile by tile, to the stored result."""
    BLOCK_M: gl.constexpr = CONSTANTS[0]
    BLOCK_N: gl.constexpr = CONSTANTS[1]
    BLOCK_K: gl.constexpr = CONSTANTS[2]
    STAGES: gl.constexpr = CONSTANTS[3]
    BAND: gl.constexpr = CONSTANTS[5]
    CHUNK: gl.constexpr = CONSTANTS[6]
    ALONG: gl.constexpr = CONSTANTS[7]
    BOX: gl.constexpr = CONSTANTS[8]
    HEIGHT: gl.constexpr = height(BLOCK_M)
    a_ring, _, s_ring, _, full, empty = rings
    if ALONG == 2:
        rooms, ready, taken = exchange
    M = results[7]
    N = results[8]
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
    operand: gl.constexpr = operand_layout(HEIGHT, gl.num_warps())

    gdc_wait()
    work = work_of(plan, gl.program_id(0))
    count, start, stop = work
    steps = plan[1]
    x = start
    n = x * 0  # stages of the items so far
    items = x * 0
    while (items < count) | (x < stop):
        tile, first, end, x = item_at(items, x, plan, work)
        total = zeros(BLOCK_N, BLOCK_M)
        before = gl.zeros([BLOCK_N, CHUNK], s_ring.dtype, operand)
        own = n + ((PARTITION - n) & (ALONG - 1))  # the next of this partition's stages
        own_first = first + own - n
        stage = own % STAGES
        turn = own // STAGES & 1  # parity of the ring's rounds
        words = no_words(BLOCK_N, at)
        zero = gl.zeros([1, WIDTH, 8, 1, 2], s_ring.dtype, at)
        scale = gl.zeros([1, WIDTH, 8, 1, 1], s_ring.dtype, at)
        if own_first < end:
            mbarrier.wait(full.index(stage), turn)
            words, zero, scale = _load(
                rings, stage, 0, words, zero, scale, zero_bias, at, CONSTANTS
            )
        for step in range(own_first, end, ALONG):
            around = (stage >= STAGES - ALONG).to(gl.int32)
            next_stage = stage + ALONG - around * STAGES
            next_turn = turn ^ around
            for i in gl.static_range(CHUNKS):
                weights = weights_of(words[i % len(words)], zero, scale, at, operand)
                rows = rows_of(a_ring, stage, i, HEIGHT, CONSTANTS)
                under_way = product(weights, rows, total, BLOCK_M, stage)
                # What the next weights are made of is under way while wgmma works.
                if i + 1 < CHUNKS:
                    words, zero, scale = _load(
                        rings, stage, i + 1, words, zero, scale, zero_bias, at, CONSTANTS
                    )
                elif step + ALONG < end:
                    mbarrier.wait(full.index(next_stage), next_turn)
                    words, zero, scale = _load(
                        rings, next_stage, 0, words, zero, scale, zero_bias, at, CONSTANTS
                    )
                # The registers of the weights before these are free again.
                total, before = wait(1, under_way, before)
                before = weights
                if i == 0:
                    last_stage = stage - ALONG + (stage < ALONG).to(gl.int32) * STAGES
                    release(empty, last_stage, step > own_first)
            stage = next_stage
            turn = next_turn
        total, before = wait(0, total, before)
        last_stage = stage - ALONG + (stage < ALONG).to(gl.int32) * STAGES
        release(empty, last_stage, own_first < end)
        n += end - first
        totals = pieces_of(total, BLOCK_M, BOX)

        if PARTITION > 0:
            mbarrier.wait(taken.index(0), items & 1 ^ 1)
            for j in gl.static_range(len(totals)):
                share_part(rooms[j], totals[j])
            mbarrier.arrive(ready.index(0), count=1)
        else:
            if ALONG == 2:
                mbarrier.wait(ready.index(0), items & 1)
                sums = ()
                for j in gl.static_range(len(totals)):
                    sums += (totals[j] + shared_part(rooms[j], totals[j]),)
                totals = sums
                mbarrier.arrive(taken.index(0), count=1)
            first_row, first_column = place_of(tile, M, N, BLOCK_M, BLOCK_N, BAND)
            finish(
                totals, results, tile, end - first == steps, (plan, start), first_row, first_column
            )
        items += 1


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
    tiles,
    steps,
    left,
    split,
    spans,
    saved,
    sharers,
    whole,
    programs,
    parts,
    a_map,
    words_map,
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
    ALONG: gl.constexpr,
    BOX: gl.constexpr,
):
    gdc_launch_dependents()  # at once: the next launch waits for the end of this one itself
    SPANS: gl.constexpr = BLOCK_K // GROUP  # of a step, each in one group
    CONSTANTS: gl.constexpr = constants_of(
        BLOCK_M, BLOCK_N, BLOCK_K, STAGES, SPANS, BAND, CHUNK, ALONG, BOX
    )
    rings = allocate_rings(a.dtype.element_ty, CONSTANTS)
    exchange = ()
    if ALONG == 2:  # sums of the partition with every second step go to the other
        rooms = ()
        for _ in gl.static_range(BLOCK_M // BOX):
            rooms += (allocate_part(BOX, BLOCK_N),)
        exchange = (rooms, allocate_barriers(1, 1), allocate_barriers(1, 1))
    plan = (tiles, steps, whole, programs, sharers, parts)
    sizes = (M, N, K, group_size)
    # Offsets are 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    sources = (
        a_map, words_map, scales, qzeros, stride_sk.to(gl.int64), stride_qzk.to(gl.int64)
    )  # fmt: skip
    results = (c, stride_cm.to(gl.int64), bias, wide, adds, workspace, counters, M, N)
    if ALONG == 1:
        gl.warp_specialize(
            [
                (_multiply, (rings, exchange, results, zero_bias, plan, 0, CONSTANTS)),
                (copy_steps, (rings, sources, sizes, plan, CONSTANTS)),
            ],
            [COPY_WARPS],
            [COPY_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (_multiply, (rings, exchange, results, zero_bias, plan, 0, CONSTANTS)),
                (_multiply, (rings, exchange, results, zero_bias, plan, 1, CONSTANTS)),
                (copy_steps, (rings, sources, sizes, plan, CONSTANTS)),
            ],
            [4, COPY_WARPS],
            [COPY_REGISTERS, COPY_REGISTERS],
        )
