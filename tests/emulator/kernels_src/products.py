"""Kernels around tl.dot: GEMM of all element types, split-K, flash attention."""

import triton
import triton.language as tl


@triton.jit
def gemm(
    a, b, c, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    ACC: tl.constexpr, TRANS_B: tl.constexpr, SPLIT: tl.constexpr, SCALE_A: tl.constexpr,
):  # fmt: skip
    """C (M, N) = A (M, K) B (K, N), rows contiguous; TRANS_B: B lies as (N, K).

    SPLIT > 1: program axis 2 takes every SPLIT-th block of K, sums are added atomically.
    SCALE_A: A passes through registers before it is multiplied.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.program_id(2) * BK + tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, K, BK * SPLIT):
        inside = ks + k < K
        x = tl.load(
            a + rows[:, None] * K + (ks + k)[None, :],
            (rows < M)[:, None] & inside[None, :],
            other=0.0,
        )
        if SCALE_A:
            x = (x * 2.0).to(x.dtype)
        if TRANS_B:
            place = columns[None, :] * K + (ks + k)[:, None]
        else:
            place = (ks + k)[:, None] * N + columns[None, :]
        y = tl.load(b + place, inside[:, None] & (columns < N)[None, :], other=0.0)
        total = tl.dot(x, y, total, out_dtype=ACC)
    place = c + rows[:, None] * N + columns[None, :]
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    if SPLIT > 1:
        tl.atomic_add(place, total.to(c.dtype.element_ty), mask)
    else:
        tl.store(place, total.to(c.dtype.element_ty), mask)


@triton.jit
def attention(
    q, k, v, out, scale, n,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Flash attention, forward: q, k, v, out (heads, n, D), one program per (block of q, head)."""
    first = tl.program_id(0) * BM
    head = tl.program_id(1) * n * D
    rows = first + tl.arange(0, BM)
    columns = tl.arange(0, BN)
    d = tl.arange(0, D)
    x = tl.load(q + head + rows[:, None] * D + d[None, :], (rows < n)[:, None], other=0.0)
    top = tl.full((BM,), float("-inf"), tl.float32)
    weight = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, D), tl.float32)
    last = first + BM if CAUSAL else n
    for start in range(0, last, BN):
        at = start + columns
        keys = tl.load(k + head + at[None, :] * D + d[:, None], (at < n)[None, :], other=0.0)
        scores = tl.dot(x, keys) * (scale * 1.44269504)
        allowed = (at < n)[None, :]
        if CAUSAL:
            allowed = allowed & (rows[:, None] >= at[None, :])
        scores = tl.where(allowed, scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - new[:, None])
        factor = tl.exp2(top - new)
        weight = weight * factor + tl.sum(p, 1)
        values = tl.load(v + head + at[:, None] * D + d[None, :], (at < n)[:, None], other=0.0)
        total = tl.dot(p.to(values.dtype), values, total * factor[:, None])
        top = new
    total = total / weight[:, None]
    tl.store(
        out + head + rows[:, None] * D + d[None, :],
        total.to(out.dtype.element_ty),
        (rows < n)[:, None],
    )
