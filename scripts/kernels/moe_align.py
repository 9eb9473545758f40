"""Sort the choices of experts into blocks of rows that go to one expert each.

    topk_ids                int32 [T]               the expert of each choice, choice / top_k
                                                    being its token
    sorted_token_ids        int32 [blocks * block]  choices by expert, in their order; every
                                                    expert's last block is filled up with T
    expert_ids              int32 [blocks]          the expert of each block
    num_tokens_post_padded  int32 [1]               choices and fillings
    tiles                   int32 [1 + blocks]      how many tiles of up to `span` blocks of one
                                                    expert there are, and of each 16 times its first
                                                    block and how many it has; or NULL.  Tiles of an
                                                    expert differ by a block at the most

The contract is vLLM's `moe_align_block_size`.  An expert that nobody chose has no block; choices
that are no expert's (another machine's) are left out.  What lies behind num_tokens_post_padded is
not written.  One CTA takes one expert, and counts all of them: there is nothing to wait for.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def moe_align(
    topk_ids, sorted_token_ids, expert_ids, num_tokens_post_padded, tiles,
    T, E, block, blocks, span,
    BLOCK: tl.constexpr, BLOCK_E: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    own = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    e = tl.arange(0, BLOCK_E)
    counts = tl.zeros([BLOCK_E], tl.int32)
    for first in range(0, T, BLOCK):
        ids = tl.load(topk_ids + first + i, mask=first + i < T, other=-1)
        inside = (ids >= 0) & (ids < E)
        counts += tl.histogram(tl.where(inside, ids, 0), BLOCK_E, mask=inside)
    whole = (counts + block - 1) // block
    start = tl.sum(tl.where(e < own, whole, 0)) * block
    count = tl.sum(tl.where(e == own, counts, 0))
    own_blocks = (count + block - 1) // block
    end = start + own_blocks * block
    if own == E - 1:
        tl.store(num_tokens_post_padded, end)
    if tiles.to(tl.int64) != 0:
        number = (whole + span - 1) // span
        before = tl.sum(tl.where(e < own, number, 0))
        mine = tl.sum(tl.where(e == own, number, 0))
        if own == E - 1:
            tl.store(tiles, before + mine)
        least = own_blocks // tl.maximum(mine, 1)
        longer = own_blocks - least * mine  # tiles that have a block more
        for first in range(0, mine, BLOCK):
            at = (first + i) * least + tl.minimum(first + i, longer)
            packed = (start // block + at) * 16 + least + (first + i < longer).to(tl.int32)
            tl.store(tiles + 1 + before + first + i, packed, mask=first + i < mine)
    if count > 0:
        place = start
        for first in range(0, T, BLOCK):
            ids = tl.load(topk_ids + first + i, mask=first + i < T, other=-1)
            mine = ids == own
            rank = tl.cumsum(mine.to(tl.int32)) - 1
            tl.store(sorted_token_ids + place + rank, first + i, mask=mine)
            place += tl.sum(mine.to(tl.int32))
        for first in range(place, end, BLOCK):
            tl.store(
                sorted_token_ids + first + i, tl.zeros([BLOCK], tl.int32) + T, mask=first + i < end
            )
        for first in range(start // block, end // block, BLOCK):
            blank = tl.zeros([BLOCK], tl.int32)
            tl.store(expert_ids + first + i, blank + own, mask=first + i < end // block)
