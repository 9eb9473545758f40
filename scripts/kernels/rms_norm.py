"""y = x / sqrt(mean(x²) + eps) * weight.

    x       float32 [M, H]   the residual stream
    weight  float32 [H]
    y       T       [M, H]   computed in float32, rounded once

T is float16 or bfloat16.  One CTA takes one row, BLOCK columns at a time.  A programmatic launch
reads `weight` before the launches ahead of it are done.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def rms_norm(x, weight, y, M, H, eps, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr = 0):
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    H = H // 8 * 8
    row = tl.program_id(0).to(tl.int64) * H
    columns = tl.arange(0, BLOCK)
    there = columns < H
    own = tl.load(weight + columns, mask=there, other=0.0)
    if DEPENDENT:
        gdc_wait()
    values = tl.load(x + row + columns, mask=there, other=0.0)
    squares = values * values
    for first in range(BLOCK, H, BLOCK):
        more = tl.load(x + row + first + columns, mask=first + columns < H, other=0.0)
        squares += more * more
    scale = 1 / tl.sqrt_rn(tl.sum(squares) / H + eps)
    tl.store(y + row + columns, (values * (scale * own)).to(y.dtype.element_ty), mask=there)
    for first in range(BLOCK, H, BLOCK):
        there = first + columns < H
        more = tl.load(x + row + first + columns, mask=there, other=0.0)
        more *= scale * tl.load(weight + first + columns, mask=there, other=0.0)
        tl.store(y + row + first + columns, more.to(y.dtype.element_ty), mask=there)
