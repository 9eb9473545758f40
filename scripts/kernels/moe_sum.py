"""x[M, H] += the sum of each token's experts, and of what all tokens share.

    x       float32 [M, H]          the residual stream
    parts   float32 [M * top_k, H]  results of the experts, their weights multiplied in
    shared  T       [M, H]          what an expert that all tokens go to gives; or NULL
    gate    float32 [M]             whose sigmoid multiplies `shared`; or NULL

Summed in float32, the best expert first.  One CTA takes BLOCK columns of one row.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def moe_sum(
    x, parts, shared, gate, M, H, top_k,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    H = H // 8 * 8
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = columns < H
    total = tl.load(x + row * H + columns, mask=there, other=0.0)
    part = parts + row * top_k * H + columns
    for _ in range(top_k):
        total += tl.load(part, mask=there, other=0.0)
        part += H
    if shared.to(tl.int64) != 0:
        own = tl.load(shared + row * H + columns, mask=there, other=0.0).to(tl.float32)
        if gate.to(tl.int64) != 0:
            own *= 1 / (1 + tl.exp(-tl.load(gate + row)))
        total += own
    tl.store(x + row * H + columns, total, mask=there)
