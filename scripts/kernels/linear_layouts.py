"""Gluon's linear layouts, told by which bits of an index are a register's, a lane's or a warp's."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def log2(n):
    return n.bit_length() - 1


@gluon.constexpr_function
def linear_layout(shape, registers, lanes, warps):
    """Each of the three lists spans of index bits (dim, first, end); dim None: copies."""
    parts = []
    for spans in (registers, lanes, warps):
        part = []
        for dim, first, end in spans:
            for i in range(first, end):
                part.append([2**i if d == dim else 0 for d in range(len(shape))])
        parts.append(part)
    return gl.DistributedLinearLayout(parts[0], parts[1], parts[2], [], shape)


@gluon.constexpr_function
def along(layout, *dims):
    """The layout of a tensor that indexing with None spreads to `layout` from these dimensions."""
    for other in reversed(range(layout.rank)):
        if other not in dims:
            layout = gl.SliceLayout(other, layout)
    return layout
