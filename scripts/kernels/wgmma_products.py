"""Products by wgmma of any multiple of 8 rows, and their sums in registers.

A block of Triton's has a power of two of rows.  A product of fewer notes in the PTX how many it
takes, and scripts/compile_ptx.py (`_cropped`) has it take no more: the time goes by the rows.  The
sums of the others stay zero, and need no registers.
"""

from linear_layouts import log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait


@gluon.constexpr_function
def height(ROWS):
    """Rows of the block of a product that takes ROWS of them."""
    return 1 << (ROWS - 1).bit_length()


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
    """Sums of a block of products that take ROWS rows."""
    HEIGHT: gl.constexpr = height(ROWS)
    return gl.zeros([BLOCK_N, HEIGHT], gl.float32, _sums_layout(HEIGHT, gl.num_warps()))


@gluon.constexpr_function
def _note(ROWS):
    return f"mov.b32 $0, $1; // the next product: {ROWS} rows"


@gluon.jit
def product(weights, rows, total, ROWS: gl.constexpr, scalar):
    """total [BLOCK_N, rows] + weights [BLOCK_N, k] @ rows [rows, k], which is under way then.

    It takes the first ROWS rows.  scalar: any int32.
    """
    if total.shape[1] > ROWS:
        gl.inline_asm_elementwise(_note(ROWS), "=r,r", [scalar], gl.int32, is_pure=False, pack=1)
    return warpgroup_mma(weights, rows.permute([1, 0]), total, is_async=True)


@gluon.jit
def wait(LEFT: gl.constexpr, total, weights):
    """Wait until so many products are left, of those that have this result and these weights."""
    return warpgroup_mma_wait(LEFT, deps=(total, weights))


@gluon.jit
def pieces_of(total, ROWS: gl.constexpr, PIECE: gl.constexpr):
    """The first ROWS rows of total [BLOCK_N, rows], in pieces of PIECE rows, a power of two."""
    pieces = (total,)
    for i in gl.static_range(log2(total.shape[1] // PIECE)):
        halves = ()
        for j in gl.static_range(2**i):
            halves += _halves(pieces[j])
        pieces = halves
    return pieces[: ROWS // PIECE]


@gluon.jit
def _halves(total):
    both = total.reshape([total.shape[0], 2, total.shape[1] // 2]).permute([0, 2, 1])
    return gl.split(both)
