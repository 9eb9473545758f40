"""The canonical W4A16 GEMM: c[M, N] = a[M, K] @ dequantise(qweight, qzeros, scales)[K, N].

The ABI's reference, written to be read.  It computes straight on the tensors of a GPTQ
checkpoint; nothing is repacked.

    a        T       [M, K]                 activations
    qweight  int32   [K/8, N]               eight 4-bit weights a word, low nibble first along K
    scales   T       [ceil(K/G), N]
    qzeros   int32   [ceil(K/G), N/8]       eight 4-bit zeros a word, low nibble first along N
    c        T       [M, N]                 fp32 accumulation, rounded once

T is float16 or bfloat16; strides are in elements.  G = group_size is a multiple of 8, so that the
eight weights of one word share a group; N and K are multiples of 8; M is anything.  ZERO_BIAS is 1
for GPTQ v1 (the file stores zero - 1) and 0 for GPTQ v2.
"""

import triton
import triton.language as tl


@triton.jit
def w4a16_gptq_gemm_typed(
    a,
    qweight,
    scales,
    qzeros,
    c,
    M,
    N,
    K,
    group_size,
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
    WORDS: tl.constexpr = BLOCK_K // 8
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows < M
    col_mask = cols < N
    ks = tl.arange(0, BLOCK_K)
    words = tl.arange(0, WORDS)
    nibbles = tl.arange(0, 8) * 4

    # Every offset is 64 bits wide: M*K, K*N/8 and M*N each pass 2^31 in real models.
    a_tile = a + rows[:, None] * stride_am + ks[None, :].to(tl.int64) * stride_ak
    q_tile = qweight + words[:, None].to(tl.int64) * stride_qwk + cols[None, :] * stride_qwn
    s_cols = scales + cols * stride_sn
    z_cols = qzeros + (cols // 8) * stride_qzn
    z_shift = ((cols % 8) * 4).to(tl.int32)

    accumulator = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k0 in range(0, K, BLOCK_K):
        a_values = tl.load(a_tile, mask=row_mask[:, None] & (ks[None, :] < K - k0), other=0.0)

        word_rows = k0 // 8 + words
        mask = (word_rows[:, None] < K // 8) & col_mask[None, :]
        # One group per word row, not per tile: a tile may then span several groups.
        groups = (word_rows * 8 // group_size).to(tl.int64)
        q = tl.load(q_tile, mask=mask, other=0)
        s = tl.load(s_cols[None, :] + groups[:, None] * stride_sk, mask=mask, other=0.0)
        z = tl.load(z_cols[None, :] + groups[:, None] * stride_qzk, mask=mask, other=0)
        z = ((z >> z_shift[None, :]) & 15) + ZERO_BIAS

        levels = ((q[:, :, None] >> nibbles[None, None, :]) & 15) - z[:, :, None]
        weights = levels.to(s.dtype) * s[:, :, None]
        weights = weights.permute(0, 2, 1).reshape(BLOCK_K, BLOCK_N)
        accumulator = tl.dot(a_values, weights, accumulator)

        a_tile += BLOCK_K * stride_ak.to(tl.int64)
        q_tile += WORDS * stride_qwk.to(tl.int64)

    c_tile = c + rows[:, None] * stride_cm + cols[None, :] * stride_cn
    tl.store(c_tile, accumulator.to(c.dtype.element_ty), mask=row_mask[:, None] & col_mask[None, :])
