"""Products by wgmma of fewer rows than a block of Triton's, which has a power of two.

A product notes in the PTX how many rows it takes, and scripts/compile_ptx.py (`_cropped`) has it
take no more: the time goes by the rows.  The sums of the others stay zero, and need no registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from wgmma_blocks import product


@gluon.constexpr_function
def height(ROWS):
    """Rows of the block of a product that takes ROWS of them, a multiple of 8."""
    return 1 << (ROWS - 1).bit_length()


@gluon.constexpr_function
def _note(ROWS):
    return f"mov.b32 $0, $1; // the next product: {ROWS} rows"


@gluon.jit
def cropped(weights, rows, total, ROWS: gl.constexpr, scalar):
    """Product like wgmma_blocks.py's, of the first ROWS rows.  scalar: any int32."""
    if total.shape[1] > ROWS:
        gl.inline_asm_elementwise(_note(ROWS), "=r,r", [scalar], gl.int32, is_pure=False, pack=1)
    return product(weights, rows, total)
