"""rows[p] = a[sorted_token_ids[p] / top_k]: each choice's activations, in the order of blocks.

    a                       T     [cdiv(T, top_k), K]  activations
    sorted_token_ids        int32 [P]                  choices by expert; T and above: zeros
    num_tokens_post_padded  int32 [1]                  how much of them there is
    rows                    T     [P, K32]             K32 = cdiv(K, 32) * 32; zeros beyond K

Columns k = [p, h, e, t0, t1], low bits first, of each 32 go to [e, t0, t1, h, p], as
moe_w4a16_gptq_wgmma.py wants them.  Rows from num_tokens_post_padded on are left as they are.

One CTA takes ROWS rows, BLOCK columns of each.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def moe_gather(
    a, sorted_token_ids, num_tokens_post_padded, rows, T, P, K, top_k,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    K = K // 8 * 8
    first = tl.program_id(0) * ROWS
    if first < tl.load(num_tokens_post_padded):
        row = first + tl.arange(0, ROWS)
        ids = tl.load(sorted_token_ids + row, mask=row < P, other=T)
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        source = a + (ids // top_k).to(tl.int64)[:, None] * K + columns[None, :]
        inside = (columns < K)[None, :] & (ids < T)[:, None]
        values = tl.load(source, mask=inside, other=0.0)
        # [t, e, h, p] -> [p, h, t, e], high bits first
        values = values.reshape([ROWS, BLOCK // 32, 4, 2, 2, 2]).permute([0, 1, 5, 4, 2, 3])
        values = values.reshape([ROWS, BLOCK])
        wide = (K + 31) // 32 * 32
        there = rows + row.to(tl.int64)[:, None] * wide + columns[None, :]
        tl.store(there, values, mask=(columns < wide)[None, :] & (row < P)[:, None])
