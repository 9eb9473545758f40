"""Attention of one new token a sequence over its paged cache, the context shared out over CTAs.

The new token's q and k are normed and turned here, and its k and v appended to the cache, as
rotary_append does it for many tokens.

    qkv      float32 [B, (HEADS + 2 * KV) * D]   columns of q's heads, then k's, then v's
    q_norm   float32 [D], or NULL       RMS norm over each head of q
    k_norm   float32 [D], or NULL
    cosines  float32 [P, R / 2]         of position * frequency, one row a position
    sines    float32 [P, R / 2]
    keys     T     [C, KV, PAGE, D]     the cache
    values   T     [C, KV, PAGE, D]
    pages    int32 [B, S]               the cache's page of each PAGE positions
    positions int32 [B]                 of the new token; a negative one: the row is left as it is
    out      T     [B, HEADS * D]
    workspace float32 [B * KV * SPLITS, BLOCK_G * (D + 2)]   each split's sums, maximum, weights
    counters int32 [B * KV]             zero before and after

T is float16 or bfloat16.  Query head h reads the key and value head h // (HEADS / KV).  A token
sees itself and the `window` - 1 tokens before it; all before it where window is 0.  softmax in
float32, with the scores times `scale`.  A CTA takes the query heads of one key head and one of
SPLITS shares of the context, BLOCK_N positions at a time; the last CTA of a head to arrive sums the
splits in their order, so results repeat bit by bit.

A programmatic launch reads all but qkv, the first block of keys and values too, while the launches
ahead of it still run: none of them may write those.
"""

import triton
import triton.language as tl
from rotary import load_heads, rotated, rotation
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def sum_splits(
    cell, out, first, group, splits, D,
    BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, SUM_G: tl.constexpr,
):  # fmt: skip
    """SUM_G query heads of one key head, from `first` on: all their splits at once."""
    s = tl.arange(0, BLOCK_S)[:, None]
    g = (first + tl.arange(0, SUM_G))[None, :]
    d = tl.arange(0, BLOCK_D)
    theirs = cell + s * (BLOCK_G * (BLOCK_D + 2))
    there = (s < splits) & (g < group)
    most = tl.load(theirs + BLOCK_G * BLOCK_D + g, there, float("-inf"), cache_modifier=".cg")
    weights = tl.load(theirs + BLOCK_G * (BLOCK_D + 1) + g, there, 0.0, cache_modifier=".cg")
    at = theirs[:, :, None] + (g * BLOCK_D)[:, :, None] + d[None, None, :]
    real = there[:, :, None] & (d < D)[None, None, :]
    parts = tl.load(at, real, 0.0, cache_modifier=".cg")
    highest = tl.max(most, 0)
    grown = tl.where(there, tl.exp2(most - highest[None, :]), 0.0)
    total = tl.sum(parts * grown[:, :, None], 0) / tl.sum(weights * grown, 0)[:, None]
    g = first + tl.arange(0, SUM_G)
    own = (g < group)[:, None] & (d < D)[None, :]
    tl.store(out + (g * D)[:, None] + d[None, :], total.to(out.dtype.element_ty), mask=own)


@triton.jit
def _add_block(
    key, value, k, query, position, begin, scale, most, weights, total,
):  # fmt: skip
    """The maxima, weights and sums with one more block of keys and values [BLOCK_N, BLOCK_D]."""
    scores = tl.dot(query, key.T) * scale
    scores = tl.where(((k <= position) & (k >= begin))[None, :], scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 1))
    shrunk = tl.exp2(most - higher)
    parts = tl.exp2(scores - higher[:, None])
    weights = weights * shrunk + tl.sum(parts, 1)
    total = tl.dot(parts.to(value.dtype), value, total * shrunk[:, None])
    return higher, weights, total


@triton.jit
def attention_decode(
    qkv, q_norm, k_norm, cosines, sines, keys, values, pages, positions, out,
    B, HEADS, KV, D, R, P, C, S, window, SPLITS, eps, scale, workspace, counters,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr, SUM_G: tl.constexpr, STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    position = tl.load(positions + row)
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    D = D // 8 * 8
    begin = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)
    newest = position // BLOCK_N
    first = begin // BLOCK_N
    count = newest + 1 - first
    share = tl.cdiv(count, SPLITS)
    low = first + split * share
    if (position >= 0) & (low <= newest):
        last = tl.minimum(low + share - 1, newest)
        group = HEADS // KV
        g = tl.arange(0, BLOCK_G)
        d = tl.arange(0, BLOCK_D)
        n = tl.arange(0, BLOCK_N)
        real = (d < D)[None, :]
        there = (g < group)[:, None] & real
        own = row * (HEADS * D) + ((head * group + g) * D)[:, None] + d[None, :]
        dtype: tl.constexpr = keys.dtype.element_ty
        scale *= 1.4426950408889634

        # The last block goes first, since the new token is in it, if in any.
        own_pages = pages + row * S
        per_page: tl.constexpr = PAGE // BLOCK_N
        page = tl.load(own_pages + last // per_page).to(tl.int64)
        line = (page * KV + head) * PAGE + last % per_page * BLOCK_N
        at = (line + n)[:, None] * D + d[None, :]
        k = last * BLOCK_N + n
        old = (k < position)[:, None] & real
        key = tl.load(keys + at, mask=old, other=0.0)
        value = tl.load(values + at, mask=old, other=0.0)
        partner, q_own, q_theirs = rotation(q_norm, cosines, sines, position, d, D, R, True)
        _, k_own, k_theirs = rotation(k_norm, cosines, sines, position, d, D, R, True)
        page = tl.load(own_pages + low // per_page, mask=low < last, other=0).to(tl.int64)
        if DEPENDENT:
            gdc_wait()
        fresh = qkv + row * ((HEADS + 2 * KV) * D)
        q_heads = fresh + ((head * group + g) * D)[:, None]
        its = real & (last == newest)
        k_head = fresh + ((HEADS + head + tl.arange(0, 1)) * D)[:, None]
        # All loads go ahead of the branches of the norms, behind which each would wait by itself.
        query, q_others = load_heads(q_heads, there, d, partner)
        new_key, k_others = load_heads(k_head, its, d, partner)
        new_value = tl.load(k_head + KV * D + d[None, :], mask=its, other=0.0).to(dtype)
        query = rotated(query, q_others, q_own, q_theirs, q_norm, D, eps).to(dtype)
        new_key = rotated(new_key, k_others, k_own, k_theirs, k_norm, D, eps).to(dtype)
        new = (line + position % BLOCK_N) * D + d[None, :]
        tl.store(keys + new, new_key, mask=its)
        tl.store(values + new, new_value, mask=its)
        key = tl.where((k == position)[:, None], new_key, key)
        value = tl.where((k == position)[:, None], new_value, value)
        most = tl.full([BLOCK_G], float("-inf"), tl.float32)
        weights = tl.zeros([BLOCK_G], tl.float32)
        total = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
        most, weights, total = _add_block(
            key, value, k, query, position, begin, scale, most, weights, total
        )
        for index in tl.range(low, last, num_stages=STAGES):
            line = (page * KV + head) * PAGE + index % per_page * BLOCK_N
            at = (line + n)[:, None] * D + d[None, :]
            key = tl.load(keys + at, mask=real, other=0.0)
            value = tl.load(values + at, mask=real, other=0.0)
            most, weights, total = _add_block(
                key, value, index * BLOCK_N + n, query, position, begin, scale,
                most, weights, total,
            )  # fmt: skip
            after = index + 1
            page = tl.load(own_pages + after // per_page, mask=after < last, other=0).to(tl.int64)

        if share >= count:
            result = (total / weights[:, None]).to(out.dtype.element_ty)
            tl.store(out + own, result, mask=there)
        else:
            size: tl.constexpr = BLOCK_G * (BLOCK_D + 2)
            cell = workspace + (row * KV + head) * SPLITS * size
            part = cell + split * size
            tl.store(part + g[:, None] * BLOCK_D + d[None, :], total, mask=there)
            tl.store(part + BLOCK_G * BLOCK_D + g, most)
            tl.store(part + BLOCK_G * (BLOCK_D + 1) + g, weights)
            tl.debug_barrier()  # all of this CTA's stores come before its arrival
            arrived = tl.atomic_add(counters + row * KV + head, 1, sem="acq_rel", scope="gpu")
            used = tl.cdiv(count, share)
            if arrived == used - 1:
                tl.store(counters + row * KV + head, 0)
                for first_g in range(0, group, SUM_G):
                    sum_splits(
                        cell, out + row * (HEADS * D) + head * group * D, first_g, group,
                        used, D, BLOCK_G, BLOCK_D, BLOCK_S, SUM_G,
                    )  # fmt: skip
