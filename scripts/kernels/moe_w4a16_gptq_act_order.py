"""The W4A16 GEMM of many experts whose rows are in activation order: g_idx names each row's group.

Parameters, routing and results are those of moe_w4a16_gptq.py, but

    experts  int64 [E, 4]   addresses of each expert's qweight, scales, qzeros and g_idx int32 [K];
                            GATED: [E, 8], those of gate and then those of up

Scales and zeros are gathered row by row.  A row's result depends neither on the other rows nor on
its place among them.
"""

import triton
import triton.language as tl


@triton.jit
def _pointer(table, place: tl.constexpr, dtype: tl.constexpr):
    return tl.load(table + place).to(tl.pointer_type(dtype))


@triton.jit
def _product(
    a, inside, table, first_column, there, N, groups, stride_qwk, stride_sk, stride_qzk, zero_bias,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The sums [BLOCK_M, BLOCK_N] of a block's rows and one tensor's columns.

    a: pointers to the rows' first elements [BLOCK_M], which are read where `inside` holds.
    """
    dtype = a.dtype.element_ty
    qweight = _pointer(table, 0, tl.int32)
    scales = _pointer(table, 1, dtype)
    qzeros = _pointer(table, 2, tl.int32)
    g_idx = _pointer(table, 3, tl.int32)
    columns = first_column + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    q_tile = qweight + (ks // 8)[:, None].to(tl.int64) * stride_qwk + columns[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, there, BLOCK_K):
        k_there = ks < there - first
        rows = tl.load(
            a[:, None] + (first + ks)[None, :], inside[:, None] & k_there[None, :], other=0.0
        )
        group = tl.load(g_idx + first + ks, mask=k_there, other=0)
        # A group that is not there is not read: its rows count as zero.
        k_there = k_there & (group >= 0) & (group < groups)
        group = group[:, None].to(tl.int64)
        mask = k_there[:, None] & (columns < N)[None, :]
        words = tl.load(q_tile, mask=mask, other=0)
        scale = tl.load(scales + group * stride_sk + columns[None, :], mask=mask, other=0.0)
        zero = tl.load(qzeros + group * stride_qzk + (columns // 8)[None, :], mask=mask, other=0)
        zero = ((zero >> (columns % 8 * 4)[None, :]) & 15) + zero_bias
        weights = ((words >> (ks % 8 * 4)[:, None]) & 15) - zero
        total = tl.dot(rows, weights.to(dtype) * scale, total)
        q_tile += (BLOCK_K // 8) * stride_qwk.to(tl.int64)
    return total


@triton.jit
def moe_w4a16_gptq_act_order(
    a,
    experts,
    sorted_token_ids,
    expert_ids,
    num_tokens_post_padded,
    weights,
    c,
    wide,
    T,
    N,
    K,
    E,
    group_size,
    top_k,
    blocks,
    stride_am,
    stride_qwk,
    stride_sk,
    stride_qzk,
    zero_bias,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GATED: tl.constexpr,
):
    PARTS: tl.constexpr = 2 if GATED else 1
    block = tl.program_id(1)
    if block * BLOCK_M < tl.load(num_tokens_post_padded):
        expert = tl.load(expert_ids + block)
        there = tl.where(expert < 0, 0, K)  # nothing of an expert that is not here
        table = experts + tl.maximum(expert, 0).to(tl.int64) * (4 * PARTS)
        ids = tl.load(sorted_token_ids + block * BLOCK_M + tl.arange(0, BLOCK_M))
        inside = ids < T
        rows = a + tl.where(inside, ids // top_k, 0).to(tl.int64) * stride_am
        groups = (K - 1) // group_size + 1
        first_column = tl.program_id(0) * BLOCK_N
        values = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for part in range(PARTS):  # at run time: half the code
            total = _product(
                rows, inside, table + 4 * part, first_column, there, N, groups, stride_qwk,
                stride_sk, stride_qzk, zero_bias, BLOCK_M, BLOCK_N, BLOCK_K,
            )  # fmt: skip
            values = tl.where(part == 0, total, values / (1 + tl.exp(-values)) * total)
        if weights.to(tl.int64) != 0:
            values *= tl.load(weights + ids, mask=inside, other=0.0)[:, None]
        columns = first_column + tl.arange(0, BLOCK_N)
        at = tl.where(inside, ids, 0).to(tl.int64)[:, None] * N + columns[None, :]
        mask = inside[:, None] & (columns < N)[None, :]
        if wide.to(tl.int64) != 0:
            tl.store(wide + at, values, mask=mask)
        else:
            tl.store(c + at, values.to(c.dtype.element_ty), mask=mask)
