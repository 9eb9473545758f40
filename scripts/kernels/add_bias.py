"""c[M, N] += bias[N], in place: what a GEMM without a bias of its own is followed by.

    c     T [M, N]    added to in fp32, rounded once
    bias  T [N]

T is float16 or bfloat16; strides are in elements.  One CTA takes BLOCK_N columns of one row.
"""

import triton
import triton.language as tl


@triton.jit
def add_bias(c, bias, M, N, stride_cm, stride_cn, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (cols < N) & (row < M)
    c_row = c + row * stride_cm + cols * stride_cn
    total = tl.load(c_row, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(bias + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(c_row, total.to(c.dtype.element_ty), mask=mask)
