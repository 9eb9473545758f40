"""Stores of the sums of mma.m16n8k16, as mma_operands.py makes them, to the columns of c."""

from linear_layouts import linear_layout, log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def outputs_layout(SHARE, BLOCK_M, BLOCK_N):
    """[WARPS_K, BLOCK_N, BLOCK_M]: a thread has all parts of its outputs, four columns a row."""
    WN, WK = SHARE
    n = 5 + log2(WN)
    bits = [(1, i) for i in range(n, log2(BLOCK_N))] + [(2, i) for i in range(3, log2(BLOCK_M))]
    bits = [(1, 0, 1), (1, 1, 2), (2, 0, 1)] + [(dim, i, i + 1) for dim, i in bits]
    own = max(0, len(bits) - log2(WK))  # the warps that had shared K share these outputs
    return linear_layout(
        [WK, BLOCK_N, BLOCK_M],
        [(0, 0, log2(WK))] + bits[:own],
        [(2, 1, 3), (1, 2, 5)],
        [(1, 5, n)] + bits[own:] + [(None, 0, log2(WK) - (len(bits) - own))],
    )


@gluon.jit
def in_file_order(total, WARPS_N: gl.constexpr):
    """total [WARPS_K, BLOCK_N in the mma's order, BLOCK_M] with its columns in c's order."""
    WARPS_K: gl.constexpr = total.shape[0]
    BLOCK_N: gl.constexpr = total.shape[1]
    BLOCK_M: gl.constexpr = total.shape[2]
    total = total.reshape([WARPS_K, BLOCK_N // (32 * WARPS_N), 2, WARPS_N, 2, 8, BLOCK_M])
    return total.permute([0, 1, 3, 5, 2, 4, 6]).reshape([WARPS_K, BLOCK_N, BLOCK_M])


@gluon.jit
def store_outputs(outputs, c, c_at, wide, wide_at, adds, mask, dtype: gl.constexpr):
    """Sums in float32 to c, rounded once, or as they are to `wide`, where it is not NULL."""
    if wide.to(gl.int64) != 0:
        if adds != 0:
            outputs += gl.load(wide + wide_at, mask=mask, other=0)
        gl.store(wide + wide_at, outputs, mask=mask)
    else:
        gl.store(c + c_at, outputs.to(dtype), mask=mask)


@gluon.jit
def load_bias(bias, columns, N):
    """The summand of these columns, in float32; zero where bias is NULL."""
    has_bias = bias.to(gl.int64) != 0
    return gl.load(bias + columns, mask=has_bias & (columns < N), other=0).to(gl.float32)
