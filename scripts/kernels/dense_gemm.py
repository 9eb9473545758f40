"""c[M, N] = a[M, K] @ weight[N, K]ᵀ + bias[N]: a layer that is not quantised.

    a       T       [M, K]
    weight  T       [N, K]     as the checkpoint has it
    bias    T       [N], or NULL
    c       T       [M, N]     summed in float32, rounded once; float32 where WIDE is 1
    adds            1: added to what c holds

T is float16 or bfloat16.  K is a multiple of 8.  One CTA takes a tile of c; tiles
of the same columns follow each other, so that the weights are read once.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def dense_gemm(
    a, weight, bias, c, M, N, K, adds,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    SWAP: tl.constexpr, WIDE: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    K = K // 8 * 8
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    rows = tl.minimum(m, M - 1).to(tl.int64)
    columns = tl.minimum(n, N - 1).to(tl.int64)
    left = a + rows[:, None] * K + k[None, :]
    right = weight + columns[:, None] * K + k[None, :]
    if SWAP:  # the tensor cores want at least 16 rows on their left
        total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        there = (k < K - first)[None, :]
        rest = tl.load(left + first, mask=there, other=0.0)
        weights = tl.load(right + first, mask=there, other=0.0, eviction_policy="evict_first")
        total = tl.dot(weights, rest.T, total) if SWAP else tl.dot(rest, weights.T, total)
    if SWAP:
        total = total.T
    own = tl.load(bias + n, mask=(n < N) & (bias.to(tl.int64) != 0), other=0.0)
    total += own.to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    inside = (m < M)[:, None] & (n < N)[None, :]
    if adds != 0:
        total += tl.load(c + at, mask=inside, other=0.0).to(tl.float32)
    if not WIDE:
        total = total.to(a.dtype.element_ty)
    tl.store(c + at, total, mask=inside)
