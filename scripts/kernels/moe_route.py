"""The experts that each token goes to, and how much each of them counts.

    logits   float32 [M, E]       of the router
    bias     float32 [E]          added to the scores for the choice alone; or NULL
    weights  float32 [M, top_k]   the chosen experts' scores, the best first
    ids      int32   [M, top_k]   which experts they are
    sigmoid                       1: a score is sigmoid(logit); 0: softmax(logits) over all experts
    renormalise                   1: the weights of a token are divided by their sum
    scale                         multiplies them at the end

All in float32.  The lowest expert wins a tie; a NaN is never chosen before a number.  One warp
takes one token.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def moe_route(
    logits, bias, weights, ids, M, E, top_k, sigmoid, renormalise, scale,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    there = e < E
    own = tl.load(bias + e, mask=there & (bias.to(tl.int64) != 0), other=0.0)
    if DEPENDENT:
        gdc_wait()
    values = tl.load(logits + row * E + e, mask=there, other=_LOWEST)
    values = tl.where(values == values, values, _LOWEST)
    if sigmoid != 0:
        scores = 1 / (1 + tl.exp(-values))
        rank = scores + own
    else:
        parts = tl.where(there, tl.exp(values - tl.max(values)), 0.0)
        scores = parts / tl.sum(parts)
        rank = values + own
    rank = tl.where(there, rank, float("-inf"))
    slot = tl.arange(0, BLOCK_K)
    chosen = tl.zeros([BLOCK_K], tl.int32)
    found = tl.zeros([BLOCK_K], tl.float32)
    for k in range(top_k):
        best = tl.min(tl.where(rank == tl.max(rank), e, BLOCK_E))
        score = tl.sum(tl.where(e == best, scores, 0.0))
        chosen = tl.where(slot == k, best, chosen)
        found = tl.where(slot == k, score, found)
        rank = tl.where(e == best, float("-inf"), rank)
    if renormalise != 0:
        found = found / tl.sum(found)
    at = row * top_k + slot
    tl.store(weights + at, found * scale, mask=slot < top_k)
    tl.store(ids + at, chosen, mask=slot < top_k)
