"""Draw each sequence's next token from its logits, and move the sequence on by one.

    logits       float32 [B, V]
    temperatures float32 [B]    0 takes the highest logit
    thresholds   int32   [B]    of `token_threshold`, or NULL: all tokens
    seeds        int64   [B]
    tokens       int32   [B]    the token drawn
    mail         int64   [B]    the same, its position in the upper half: for a host that watches
    positions    int32   [B]    of the token that the logits follow; a negative one: no sequence
    workspace    float32 [B * PARTS * 2]     each part's best value, and its token
    counters     int32   [B]    zero before and after

A token is drawn as argmax(logit / temperature + g), where g is Gumbel noise of Philox4x32-10 with
the sequence's seed as key and (token, position) as counter: a seed repeats its tokens whatever else
is in the batch.  The lowest token wins a tie.  A NaN is never drawn; where all are, token 0 is.

PARTS CTAs share a sequence's tokens; the last one to arrive compares their winners.
"""

import triton
import triton.language as tl
from token_threshold import ordered
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def sample_token(
    logits, temperatures, thresholds, seeds, tokens, mail, positions, B, V, workspace, counters,
    PARTS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    b = tl.program_id(0)
    part = tl.program_id(1)
    position = tl.load(positions + b)
    if position >= 0:
        row = logits + b.to(tl.int64) * V
        temperature = tl.load(temperatures + b)
        seed = tl.load(seeds + b)
        threshold = -(2**31)
        if thresholds.to(tl.int64) != 0:
            threshold = tl.load(thresholds + b)
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        which = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
        for first in range(part * BLOCK, V, PARTS * BLOCK):
            n = first + tl.arange(0, BLOCK)
            values = tl.load(row + n, mask=n < V, other=float("-inf"))
            kept = (ordered(values) >= threshold) & (n < V)
            if temperature > 0:
                zero = n * 0
                bits, _, _, _ = tl.philox(seed, n, zero + position, zero, zero)
                # 23 bits and a half: never 0, never 1.
                uniform = ((bits >> 9).to(tl.float32) + 0.5) * (1.0 / (1 << 23))
                values = values / temperature - tl.log(-tl.log(uniform))
            better = kept & (values > best)
            which = tl.where(better, n, which)
            best = tl.where(better, values, best)
        winner = tl.max(best)
        token = tl.min(tl.where(best == winner, which, 0x7FFFFFFF))

        mine = workspace + (b * PARTS + part) * 2
        tl.store(mine, winner)
        tl.store(mine + 1, token.to(tl.float32, bitcast=True))
        tl.debug_barrier()  # both stores come before this CTA's arrival
        arrived = tl.atomic_add(counters + b, 1, sem="acq_rel", scope="gpu")
        if arrived == PARTS - 1:
            tl.store(counters + b, 0)
            theirs = workspace + (b * PARTS + tl.arange(0, PARTS)) * 2
            values = tl.load(theirs, cache_modifier=".cg")
            ids = tl.load(theirs + 1, cache_modifier=".cg").to(tl.int32, bitcast=True)
            token = tl.min(tl.where(values == tl.max(values), ids, 0x7FFFFFFF))
            token = tl.where(token < V, token, 0)
            tl.store(tokens + b, token)
            tl.store(positions + b, position + 1)
            tl.store(mail + b, (position + 1).to(tl.int64) << 32 | token)
