"""The experts that each token goes to, and how much each of them counts.

    logits   float32 [M, E]       of the router
    bias     float32 [E]          added to the scores for the choice alone; or NULL
    weights  float32 [M, top_k]   the chosen experts' scores, the best first
    ids      int32   [M, top_k]   which experts they are
    sigmoid                       1: a score is sigmoid(logit); 0: softmax(logits) over all experts
    groups                        equal parts of the experts, one after the other
    top_groups                    a token goes to experts of so many of them alone: those whose best
                                  experts have the highest scores, bias included
    group_best                    how many experts of a group those are: with 2 their scores' sum
    renormalise                   1: the weights of a token are divided by their sum
    scale                         multiplies them at the end

All in float32.  The lowest expert or group wins a tie; a NaN is never chosen before a number.  One
warp takes one token.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _of_top_groups(
    rank, size, groups, top_groups, group_best, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr
):
    """rank [BLOCK_E], minus infinity for experts of groups that are not among the best."""
    group = tl.arange(0, BLOCK_E) // size
    slot = tl.arange(0, BLOCK_K)
    totals = tl.full([BLOCK_K], float("-inf"), tl.float32)
    for i in range(groups):
        own = tl.where(group == i, rank, float("-inf"))
        total = 0.0
        for _ in range(group_best):
            best, at = tl.max(own, 0, return_indices=True)
            total += best
            own = tl.where(tl.arange(0, BLOCK_E) == at, float("-inf"), own)
        totals = tl.where(slot == i, total, totals)
    taken = group < 0
    for _ in range(top_groups):
        _, at = tl.max(totals, 0, return_indices=True)
        taken |= group == at
        totals = tl.where(slot == at, float("-inf"), totals)
    return tl.where(taken, rank, float("-inf"))


@triton.jit
def moe_route(
    logits, bias, weights, ids, M, E, top_k, sigmoid, renormalise, groups, top_groups, group_best,
    scale,
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
        rank = values  # in the order of scores, but without ties where those round alike
        if (bias.to(tl.int64) != 0) | (group_best > 1):
            rank = scores + own
    rank = tl.where(there, rank, float("-inf"))
    if top_groups < groups:
        rank = _of_top_groups(rank, E // groups, groups, top_groups, group_best, BLOCK_E, BLOCK_K)
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
