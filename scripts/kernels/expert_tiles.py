"""Places of an expert's tensors, how many blocks of its rows are multiplied together, and places of
activations that are sorted into the order of blocks: shared by the GEMMs of experts.

SIZES has the numbers of blocks that there is code for: bit i for i of them.  A tile takes the next
one up.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def variants(SIZES):
    return SIZES.bit_count()


@gluon.constexpr_function
def size_of(i, SIZES):
    """The i-th of the numbers of blocks that are multiplied together, counted from 1; 0 is none."""
    return [size for size in range(SIZES.bit_length()) if (SIZES | 1) >> size & 1][i]


@gluon.jit
def address(table, place: gl.constexpr, dtype: gl.constexpr):
    """An address of the table as a pointer, which is aligned."""
    return gl.multiple_of(gl.load(table + place).to(gl.pointer_type(dtype)), 16)


@gluon.jit
def apart(table, place: gl.constexpr, align: gl.constexpr, size: gl.constexpr):
    """Elements of `size` bytes by which up's tensor lies behind gate's."""
    return (gl.load(table + place + 3) - gl.load(table + place)) // align * (align // size)


@gluon.jit
def permuted(k):
    """The place of column k of sorted activations: bits [p, h, e, t0, t1] as [e, t0, t1, h, p]."""
    return k // 32 * 32 + (k // 4 % 8 + k // 2 % 2 * 8 + k % 2 * 16)
