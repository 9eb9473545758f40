"""y[M, I] = silu(gate) * up, where `both` [M, 2 * I] holds gate's columns, then up's.

T is float16 or bfloat16; computed in float32, rounded once.  One CTA takes BLOCK columns of a row.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def silu_mul(both, y, M, I, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0):  # noqa: E741
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
        gdc_wait()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    I = I // 8 * 8  # noqa: E741
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = columns < I
    gate = tl.load(both + row * 2 * I + columns, mask=there, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * I + I + columns, mask=there, other=0.0).to(tl.float32)
    values = gate / (1 + tl.exp(-gate)) * up
    tl.store(y + row * I + columns, values.to(y.dtype.element_ty), mask=there)
