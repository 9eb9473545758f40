"""y = x / sqrt(mean(x²) + eps) * weight.

    x       float32 [M, H]   the residual stream
    weight  float32 [H]
    y       T       [M, H]   computed in float32, rounded once

T is float16 or bfloat16.  One CTA takes one row, BLOCK columns at a time.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def rms_norm(x, weight, y, M, H, eps, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    H = H // 8 * 8
    row = tl.program_id(0).to(tl.int64) * H
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, H, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        there = columns < H
        values = tl.load(x + row + columns, mask=there, other=0.0)
        squares += values * values
    scale = 1 / tl.sqrt_rn(tl.sum(squares) / H + eps)
    for first in range(0, H, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        there = columns < H
        values = tl.load(x + row + columns, mask=there, other=0.0)
        values *= scale * tl.load(weight + columns, mask=there, other=0.0)
        tl.store(y + row + columns, values.to(y.dtype.element_ty), mask=there)
