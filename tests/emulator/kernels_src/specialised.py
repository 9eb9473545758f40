"""A product whose warps have different parts: some copy and convert, the others multiply."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)


@gluon.jit
def produce(
    a,
    b,
    tiles_a,
    tiles_b,
    full,
    empty,
    M,
    N,
    K,
    BM: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    STAGES: gl.constexpr,
):
    """A comes as it is, by copies for which the mbarrier waits; B as bytes that become halves."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    rows_a = gl.program_id(0) * BM + gl.arange(0, BM, gl.SliceLayout(1, layout))
    rows_b = gl.program_id(1) * BN + gl.arange(0, BN, gl.SliceLayout(1, layout))
    columns = gl.arange(0, BK, gl.SliceLayout(0, layout))
    for k in range(0, K, BK):
        i = k // BK
        slot = i % STAGES
        mbarrier.wait(empty.index(slot), (i // STAGES & 1) ^ 1)
        inside = (k + columns < K)[None, :]
        from_a = a + rows_a[:, None] * K + (k + columns)[None, :]
        async_copy.async_copy_global_to_shared(
            tiles_a.index(slot), from_a, mask=(rows_a < M)[:, None] & inside
        )
        async_copy.mbarrier_arrive(full.index(slot), increment_count=False)
        from_b = b + rows_b[:, None] * K + (k + columns)[None, :]
        values = gl.load(from_b, mask=(rows_b < N)[:, None] & inside, other=0)
        tiles_b.index(slot).store(values.to(gl.float16))
        mbarrier.arrive(full.index(slot), count=1)


@gluon.jit
def consume(
    c,
    tiles_a,
    tiles_b,
    full,
    empty,
    M,
    N,
    K,
    BM: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    STAGES: gl.constexpr,
):
    """A slot is given free when the product after the one that read it has begun."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BN, 16])
    sums = gl.zeros((BM, BN), gl.float32, layout)
    for i in range(gl.cdiv(K, BK)):
        slot = i % STAGES
        mbarrier.wait(full.index(slot), i // STAGES & 1)
        # Copies and ordinary stores alike: what they wrote is now seen by products.
        fence_async_shared()
        turned = tiles_b.index(slot).permute((1, 0))
        sums = warpgroup_mma(tiles_a.index(slot), turned, sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=[sums])
        mbarrier.arrive(empty.index((i + STAGES - 1) % STAGES), count=1, pred=i > 0)
    sums = warpgroup_mma_wait(0, deps=[sums])
    rows = gl.program_id(0) * BM + gl.arange(0, BM, gl.SliceLayout(1, layout))
    columns = gl.program_id(1) * BN + gl.arange(0, BN, gl.SliceLayout(0, layout))
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    gl.store(c + rows[:, None] * N + columns[None, :], sums, mask=inside)


@gluon.jit
def multiply(
    a,
    b,
    c,
    M,
    N,
    K,
    BM: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    STAGES: gl.constexpr,
):
    """c (M, N) float32 = a (M, K) float16 times the transpose of b (N, K) int8."""
    layout: gl.constexpr = gl.NVMMASharedLayout(2 * BK, 16, 2)
    tiles_a = gl.allocate_shared_memory(gl.float16, [STAGES, BM, BK], layout)
    tiles_b = gl.allocate_shared_memory(gl.float16, [STAGES, BN, BK], layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=128 + 1)
        mbarrier.init(empty.index(s), count=1)
    gl.warp_specialize(
        [
            (consume, (c, tiles_a, tiles_b, full, empty, M, N, K, BM, BN, BK, STAGES)),
            (produce, (a, b, tiles_a, tiles_b, full, empty, M, N, K, BM, BN, BK, STAGES)),
        ],
        [4],
        [64],
    )
