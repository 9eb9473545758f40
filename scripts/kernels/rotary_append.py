"""Rotary embedding of q and k, norms of both before it, and k and v appended to a paged cache.

    qkv          float32 [T, (HEADS + 2 * KV) * D]   columns of q's heads, then k's, then v's
    q_norm       float32 [D], or NULL                RMS norm over each head of q
    k_norm       float32 [D], or NULL
    cosines      float32 [P, R / 2]                  of position * frequency, one row a position
    sines        float32 [P, R / 2]
    sequences    int32   [T]                         the sequence of each row
    positions    int32   [T]                         its position there; a negative one: no row
    pages        int32   [B, S]                      the cache's page of each PAGE positions
    q            T       [T, HEADS * D]              rotated
    keys, values T       [C, KV, PAGE, D]            the cache

T is float16 or bfloat16; all is computed in float32, as rotary.py says, and rounded once.  One CTA
takes BLOCK_H heads of one row.  A programmatic launch reads all but qkv before the launches ahead
of it are done.
"""

import triton
import triton.language as tl
from rotary import load_heads, rotated, rotation
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def rotary_append(
    qkv, q_norm, k_norm, cosines, sines, sequences, positions, pages, q, keys, values,
    T, HEADS, KV, D, R, P, B, S, C, eps,
    PAGE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
    DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    position = tl.load(positions + row)
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    D = D // 8 * 8
    if position >= 0:
        q_tiles = tl.cdiv(HEADS, BLOCK_H)
        kv_tiles = tl.cdiv(KV, BLOCK_H)
        is_q = tile < q_tiles
        is_v = tile >= q_tiles + kv_tiles
        first = tl.where(is_q, tile, tl.where(is_v, tile - kv_tiles, tile) - q_tiles) * BLOCK_H
        count = tl.where(is_q, HEADS, KV)
        before = tl.where(is_q, 0, tl.where(is_v, HEADS + KV, HEADS))

        heads = first + tl.arange(0, BLOCK_H)
        columns = tl.arange(0, BLOCK_D)
        there = (heads < count)[:, None] & (columns < D)[None, :]
        norm = tl.where(is_q, q_norm.to(tl.int64), tl.where(is_v, 0, k_norm.to(tl.int64)))
        norm = norm.to(q_norm.dtype)
        partner, own, theirs = rotation(norm, cosines, sines, position, columns, D, R, ~is_v)
        sequence = tl.load(sequences + row).to(tl.int64)
        page = tl.load(pages + sequence * S + position // PAGE).to(tl.int64)
        if DEPENDENT:
            gdc_wait()
        source = qkv + row * ((HEADS + 2 * KV) * D) + ((before + heads) * D)[:, None]
        plain, others = load_heads(source, there, columns, partner)
        turned = rotated(plain, others, own, theirs, norm, D, eps)
        turned = turned.to(q.dtype.element_ty)
        if is_q:
            there_q = q + row * (HEADS * D) + (heads * D)[:, None] + columns[None, :]
            tl.store(there_q, turned, mask=there)
        else:
            slot = ((page * KV + heads) * PAGE + position % PAGE) * D
            if is_v:
                tl.store(values + slot[:, None] + columns[None, :], turned, mask=there)
            else:
                tl.store(keys + slot[:, None] + columns[None, :], turned, mask=there)
