"""The lowest logit of each sequence that its next token may have, by top-k and top-p.

    logits       float32 [B, V]
    temperatures float32 [B]    0: only the highest logit counts, nothing is looked for
    top_ks       int32   [B]    0: all tokens
    top_ps       float32 [B]    1: all tokens
    positions    int32   [B]    a negative one: no sequence
    thresholds   int32   [B]    as integers in the order of the logits, see `ordered`

Kept are the top_k highest logits, and of these the fewest highest whose probabilities reach top_p;
equal logits stay or go together.  A threshold is found by its bits, four at a time: 15 candidates
are weighed in one pass over the logits.  One CTA takes one sequence.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def ordered(logits):
    """int32 in the order of the floats."""
    bits = logits.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _weighed(row, V, candidates, temperature, highest, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """How many logits are at or above each of 16 candidates, or what they weigh, float32 [16]."""
    found = tl.zeros([BLOCK, 16], tl.float32)
    for first in range(0, V, BLOCK):
        n = first + tl.arange(0, BLOCK)
        logits = tl.load(row + n, mask=n < V, other=float("-inf"))
        weight = tl.full([BLOCK], 1.0, tl.float32)
        if not COUNT:
            weight = tl.exp((logits - highest) / temperature)
        weight = tl.where(n < V, weight, 0.0)
        kept = ordered(logits).to(tl.int64)[:, None] >= candidates[None, :]
        found += tl.where(kept, weight[:, None], 0.0)
    return tl.sum(found, 0)


@triton.jit
def _highest_with(
    row, V, floor, enough, temperature, highest, COUNT: tl.constexpr, BLOCK: tl.constexpr
):
    """The highest threshold from `floor` on that leaves at least `enough`."""
    threshold = tl.full([], -(2**31), tl.int64)
    for step in tl.static_range(8):
        candidates = threshold + (tl.arange(0, 16).to(tl.int64) << (28 - 4 * step))
        weights = _weighed(
            row, V, tl.maximum(candidates, floor), temperature, highest, COUNT, BLOCK
        )
        threshold = tl.max(
            tl.where((weights >= enough) | (candidates <= floor), candidates, -(2**31))
        )
    return tl.maximum(threshold, floor)


@triton.jit
def token_threshold(
    logits, temperatures, top_ks, top_ps, positions, thresholds, B, V,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    b = tl.program_id(0)
    row = logits + b.to(tl.int64) * V
    temperature = tl.load(temperatures + b)
    top_k = tl.load(top_ks + b)
    top_p = tl.load(top_ps + b)
    threshold = tl.full([], -(2**31), tl.int64)
    if (tl.load(positions + b) >= 0) & (temperature > 0):
        if (top_k > 0) & (top_k < V):
            threshold = _highest_with(
                row, V, threshold, top_k.to(tl.float32), 1.0, 0.0, True, BLOCK
            )
        if top_p < 1:
            best = tl.full([BLOCK], float("-inf"), tl.float32)
            for first in range(0, V, BLOCK):
                n = first + tl.arange(0, BLOCK)
                best = tl.maximum(best, tl.load(row + n, mask=n < V, other=float("-inf")))
            highest = tl.max(best)
            kept = _weighed(
                row, V, threshold + tl.zeros([16], tl.int64), temperature, highest, False, BLOCK
            )
            threshold = _highest_with(
                row, V, threshold, tl.max(kept) * top_p, temperature, highest, False, BLOCK
            )
    tl.store(thresholds + b, threshold.to(tl.int32))
