"""Causal attention of new tokens of one sequence over its paged cache.

    q        T     [M, HEADS * D]       rotated; row m is at position start + m
    keys     T     [C, KV, PAGE, D]     the cache, the new tokens' keys and values included
    values   T     [C, KV, PAGE, D]
    pages    int32 [S]                  the cache's page of each PAGE positions
    out      T     [M, HEADS * D]

T is float16 or bfloat16.  Query head h reads the key and value head h // (HEADS / KV).  A token
sees itself and the `window` - 1 tokens before it; all before it where window is 0.  softmax in
float32, with the scores times `scale`.  A CTA takes BLOCK_M rows of one query head, BLOCK_N
positions at a time; the blocks of rows that see most come first.  Where TENSOR_MAPS is 1, keys and
values come by the tensor copy engine of Hopper.
"""

import triton
import triton.language as tl


@triton.jit
def _blocks(
    query, keys, values, pages, total, most, weights, low, high, rows, newest, head, KV, D, window,
    scale, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
    TENSOR_MAPS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The sums, maxima and weights after the blocks of positions low to high - 1."""
    per_page: tl.constexpr = PAGE // BLOCK_N
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    page = tl.load(pages + low // per_page, mask=low < high, other=0)
    for index in tl.range(low, high, num_stages=STAGES):
        line = (page * KV + head) * PAGE + index % per_page * BLOCK_N
        k = index * BLOCK_N + n
        # What lies behind the newest token may be anything, and 0 * NaN is NaN.
        if TENSOR_MAPS:
            key = keys.load([line, 0])
            value = values.load([line, 0])
            if MASKED:
                value = tl.where((k <= newest)[:, None], value, 0.0)
        else:
            at = line.to(tl.int64) * D + (n[:, None] * D + d[None, :])
            real = (d < D)[None, :]
            key = tl.load(keys + at, mask=real, other=0.0)
            if MASKED:
                real = real & (k <= newest)[:, None]
            value = tl.load(values + at, mask=real, other=0.0)
        scores = tl.dot(query, key.T)
        if MASKED:
            seen = k[None, :] <= rows[:, None]
            seen &= (window <= 0) | (k[None, :] > rows[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1) * scale)
        base = higher
        if MASKED:  # a row may have seen nothing yet
            base = tl.where(higher == float("-inf"), 0.0, higher)
        parts = tl.exp2(scores * scale - base[:, None])
        shrunk = tl.exp2(most - base)
        weights = weights * shrunk + tl.sum(parts, 1)
        total = tl.dot(parts.to(value.dtype), value, total * shrunk[:, None])
        most = higher
        page = tl.load(pages + (index + 1) // per_page, mask=index + 1 < high, other=0)
    return total, most, weights


@triton.jit
def attention_prefill(
    q, keys, values, pages, out, M, HEADS, KV, D, C, S, start, window, scale,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr, TENSOR_MAPS: tl.constexpr,
):  # fmt: skip
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    D = D // 8 * 8
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    query_head = tl.program_id(0)
    head = query_head // (HEADS // KV)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    there = (m < M)[:, None] & (d < D)[None, :]
    own = m.to(tl.int64)[:, None] * (HEADS * D) + (query_head * D + d)[None, :]
    query = tl.load(q + own, mask=there, other=0.0)
    rows = start + tl.minimum(m, M - 1)
    scale *= 1.4426950408889634

    if TENSOR_MAPS:
        keys = tl.make_tensor_descriptor(keys, [C * KV * PAGE, D], [D, 1], [BLOCK_N, BLOCK_D])
        values = tl.make_tensor_descriptor(values, [C * KV * PAGE, D], [D, 1], [BLOCK_N, BLOCK_D])
    lowest = start + block * BLOCK_M
    highest = start + tl.minimum(block * BLOCK_M + BLOCK_M, M) - 1
    begin = 0
    whole = (lowest + 1) // BLOCK_N  # the first block that some row does not see whole
    if window > 0:
        begin = tl.maximum(lowest + 1 - window, 0) // BLOCK_N
        whole = begin
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weights = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total, most, weights = _blocks(
        query, keys, values, pages, total, most, weights, begin, whole, rows, highest, head, KV, D,
        window, scale, PAGE, BLOCK_N, BLOCK_D, STAGES, TENSOR_MAPS, False,
    )  # fmt: skip
    total, most, weights = _blocks(
        query, keys, values, pages, total, most, weights, whole, highest // BLOCK_N + 1, rows,
        highest, head, KV, D, window, scale, PAGE, BLOCK_N, BLOCK_D, STAGES, TENSOR_MAPS, True,
    )  # fmt: skip
    result = total / weights[:, None]
    tl.store(out + own, result.to(out.dtype.element_ty), mask=there)
