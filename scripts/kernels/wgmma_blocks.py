"""Sums of a tile in wgmma's registers, in blocks of its rows.

A product takes a power of two of rows here.  A tile with 96 rows, say, is two blocks, of 64 and 32
rows, whose products share the weights in the registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait


@gluon.constexpr_function
def heights(ROWS):
    """Rows of a tile's blocks, the higher one first."""
    high = 1 << ROWS.bit_length() - 1
    low = ROWS - high
    assert low & (low - 1) == 0, f"{ROWS} rows are more than two blocks"
    return (high, low) if low else (high,)


@gluon.constexpr_function
def _sums_layout(ROWS, WARPS):
    """[BLOCK_N, ROWS]: wgmma's result."""
    return gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, ROWS, 16])


@gluon.constexpr_function
def operand_layout(ROWS, WARPS):
    """[BLOCK_N, k]: its left operand.  For any ROWS the registers are the same."""
    return gl.DotOperandLayout(0, _sums_layout(ROWS, WARPS), 2)


@gluon.jit
def zeros(BLOCK_N: gl.constexpr, ROWS: gl.constexpr):
    """Sums of each block of a tile with so many rows."""
    totals = ()
    for j in gl.static_range(len(heights(ROWS))):
        totals += (_zeros(BLOCK_N, heights(ROWS)[j]),)
    return totals


@gluon.jit
def _zeros(BLOCK_N: gl.constexpr, ROWS: gl.constexpr):
    return gl.zeros([BLOCK_N, ROWS], gl.float32, _sums_layout(ROWS, gl.num_warps()))


@gluon.jit
def product(weights, rows, total):
    """total [BLOCK_N, rows] + weights [BLOCK_N, k] @ rows [rows, k], which is under way then."""
    at: gl.constexpr = operand_layout(total.shape[1], gl.num_warps())
    weights = gl.convert_layout(weights, at, assert_trivial=True)
    return warpgroup_mma(weights, rows.permute([1, 0]), total, is_async=True)


@gluon.jit
def wait(LEFT: gl.constexpr, totals, weights):
    """Wait until so many products are left, of those that have these results and weights."""
    done = warpgroup_mma_wait(LEFT, deps=totals + (weights,))
    return done[: len(totals)], done[len(totals)]
