"""The canonical W4A16 GEMM for act-order checkpoints, where each row of the weight names its group.

    a        T       [M, K]                 activations
    qweight  int32   [K/8, N]               eight 4-bit weights a word, low nibble first along K
    scales   T       [groups, N]
    qzeros   int32   [groups, N/8]          eight 4-bit zeros a word, low nibble first along N
    g_idx    int32   [K]                    the group of each k, in any order
    c        T       [M, N]                 fp32 accumulation, rounded once

As w4a16_gptq_gemm_typed, but scales and zeros are gathered row by row, which is what act-order
costs without a repack.  T is float16 or bfloat16; strides are in elements; N and K are multiples of
8; M is anything.  ZERO_BIAS is 1 for GPTQ v1 (the file stores zero - 1) and 0 for GPTQ v2.
"""

import triton
import triton.language as tl


@triton.jit
def w4a16_gptq_gemm_act_order(
    a,
    qweight,
    scales,
    qzeros,
    g_idx,
    c,
    M,
    N,
    K,
    groups,
    stride_am,
    stride_ak,
    stride_qwk,
    stride_qwn,
    stride_sk,
    stride_sn,
    stride_qzk,
    stride_qzn,
    stride_cm,
    stride_cn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ZERO_BIAS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows < M
    col_mask = cols < N
    ks = tl.arange(0, BLOCK_K)

    # Every offset is 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_tile = a + rows[:, None] * stride_am + ks[None, :].to(tl.int64) * stride_ak
    q_tile = qweight + (ks // 8)[:, None].to(tl.int64) * stride_qwk + cols[None, :] * stride_qwn
    q_shift = (ks % 8) * 4
    s_cols = scales + cols * stride_sn
    z_cols = qzeros + (cols // 8) * stride_qzn
    z_shift = ((cols % 8) * 4).to(tl.int32)

    accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k_mask = ks < K - k0
        a_values = tl.load(a_tile, mask=row_mask[:, None] & k_mask[None, :], other=0.0)
        group = tl.load(g_idx + k0 + ks, mask=k_mask, other=0)
        # A group that is not there is not read: its rows count as zero.
        k_mask = k_mask & (group >= 0) & (group < groups)
        group = group[:, None].to(tl.int64)

        mask = k_mask[:, None] & col_mask[None, :]
        q = tl.load(q_tile, mask=mask, other=0)
        s = tl.load(s_cols[None, :] + group * stride_sk, mask=mask, other=0.0)
        z = tl.load(z_cols[None, :] + group * stride_qzk, mask=mask, other=0)
        levels = ((q >> q_shift[:, None]) & 15) - (((z >> z_shift[None, :]) & 15) + ZERO_BIAS)
        accumulator = tl.dot(a_values, levels.to(s.dtype) * s, accumulator)

        a_tile += BLOCK_K * stride_ak.to(tl.int64)
        q_tile += BLOCK_K // 8 * stride_qwk.to(tl.int64)

    c_tile = c + rows[:, None] * stride_cm + cols[None, :] * stride_cn
    tl.store(c_tile, accumulator.to(c.dtype.element_ty), mask=row_mask[:, None] & col_mask[None, :])
