"""One step of the search for the lowest logit that each sequence's next token may have.

    logits       float32 [B, V]
    temperatures float32 [B]    0: nothing is looked for
    top_ks       int32   [B]    0: all tokens
    top_ps       float32 [B]    1: all tokens
    positions    int32   [B]    a negative one: no sequence
    thresholds   int32   [B]    as integers in the order of the logits, see `ordered`
    floors       int32   [B]    the thresholds that top-k left
    highest      float32 [B]    the highest logits
    masses       float32 [B]    sums of exp((logit - highest) / temperature) from the floors on
    workspace    float32 [B * PARTS * 16]    what each part found
    counters     int32   [B]    zero before and after

Kept are the top_k highest logits, and of these the fewest highest whose probabilities reach top_p;
equal logits stay or go together.  A search takes 17 launches: one of kind 0, which finds the
highest logits; eight of kind 1, steps 0 to 7, for top-k; eight of kind 2 for top-p.  Each step
settles four bits of a threshold: 16 candidates are weighed in one pass.  PARTS CTAs share a
sequence's tokens; the last one to arrive decides.
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
def token_threshold(
    logits, temperatures, top_ks, top_ps, positions, thresholds, floors, highest, masses,
    B, V, kind, step, workspace, counters,
    PARTS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    b = tl.program_id(0)
    part = tl.program_id(1)
    LOWEST: tl.constexpr = -(2**31)
    temperature = tl.load(temperatures + b)
    top_k = tl.load(top_ks + b)
    top_p = tl.load(top_ps + b)
    drawn = (tl.load(positions + b) >= 0) & (temperature > 0)
    by_count = drawn & (kind == 1) & (top_k > 0) & (top_k < V)
    by_mass = drawn & (kind == 2) & (top_p < 1)
    if (kind == 0) & (part == 0):
        tl.store(thresholds + b, LOWEST)
        tl.store(floors + b, LOWEST)
    if by_count | by_mass | (drawn & (kind == 0)):
        row = logits + b.to(tl.int64) * V
        best = tl.load(highest + b, mask=by_mass, other=0.0)
        floor = tl.load(floors + b, mask=by_mass, other=LOWEST)
        before = tl.load(thresholds + b, mask=step > 0, other=LOWEST)
        c = tl.arange(0, 16)
        candidates = before + (c << (28 - 4 * step))
        edges = tl.maximum(candidates, floor)
        found = tl.zeros([BLOCK, 16], tl.float32)
        most = tl.full([BLOCK], float("-inf"), tl.float32)
        for first in range(part * BLOCK, V, PARTS * BLOCK):
            n = first + tl.arange(0, BLOCK)
            values = tl.load(row + n, mask=n < V, other=float("-inf"))
            most = tl.maximum(most, values)
            weight = tl.where(by_mass, tl.exp((values - best) / temperature), 1.0)
            weight = tl.where(n < V, weight, 0.0)
            kept = ordered(values)[:, None] >= edges[None, :]
            found += tl.where(kept, weight[:, None], 0.0)
        mine = workspace + (b * PARTS + part) * 16
        tl.store(mine + c, tl.where(kind == 0, tl.max(most), tl.sum(found, 0)))
        tl.debug_barrier()  # all of this CTA's stores come before its arrival
        arrived = tl.atomic_add(counters + b, 1, sem="acq_rel", scope="gpu")
        if arrived == PARTS - 1:
            tl.store(counters + b, 0)
            parts = workspace + (b * PARTS + tl.arange(0, PARTS)[:, None]) * 16 + c[None, :]
            theirs = tl.load(parts, cache_modifier=".cg")
            if kind == 0:
                tl.store(highest + b, tl.max(tl.max(theirs, 1)))
            else:
                weights = tl.sum(theirs, 0)
                enough = top_k.to(tl.float32)
                if by_mass:
                    mass = tl.load(masses + b, mask=step > 0, other=0.0)
                    if step == 0:  # the first candidate keeps all from the floor on
                        mass = tl.max(weights)
                        tl.store(masses + b, mass)
                    enough = mass * top_p
                there = (weights >= enough) | (candidates <= floor)
                threshold = tl.max(tl.where(there, candidates, LOWEST))
                if step == 7:
                    threshold = tl.maximum(threshold, floor)
                    if by_count:
                        tl.store(floors + b, threshold)
                tl.store(thresholds + b, threshold)
