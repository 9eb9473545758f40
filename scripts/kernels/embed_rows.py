"""x[T, H] = table[ids[T], H] in float32: the rows of a token embedding.

    ids    int32   [T]      rows of the table; every one has to be there
    table  T       [V, H]   float16 or bfloat16, as the checkpoint has it
    x      float32 [T, H]

One CTA takes BLOCK columns of one row.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def embed_rows(ids, table, x, T, V, H, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0):
    if DEPENDENT:
        gdc_wait()
        # Only now: launches behind this one read tokens' positions before they wait.
        gdc_launch_dependents()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    H = H // 8 * 8
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = columns < H
    token = tl.load(ids + row).to(tl.int64)
    values = tl.load(table + token * H + columns, mask=there)
    tl.store(x + row * H + columns, values.to(tl.float32), mask=there)
