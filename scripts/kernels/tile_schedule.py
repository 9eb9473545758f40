"""The tiles of c that persistent programs compute, and the steps of BLOCK_K k's that each does.

The launcher shares them out, by the rules beside SCHEDULE in scripts/ptx_builds/w4a16.py, and the
kernel looks up a program's own: integer divisions take long, and all that follows waits for them.

A program does whole tiles first, every `programs`-th from its own number on, `whole` of them at the
most.  The tiles that are left go to `sharers` programs by their steps: to `parts` of them each, or,
where `parts` is 0, to all in a row, so that a program may work on parts of two tiles.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def divide(x, y):
    """x // y of numbers that are not negative."""
    return (x.to(gl.uint32) // y.to(gl.uint32)).to(gl.int32)


@gluon.jit
def work_of(plan, program):
    """This program's whole tiles, and which steps of all the shared tiles it does, from - to."""
    tiles, steps, whole, programs, sharers, _ = plan
    count = whole - (program + (whole - 1) * programs >= tiles).to(gl.int32)
    start = tiles * 0
    stop = tiles * 0
    if program < sharers:
        shared = (tiles - whole * programs) * steps
        start = divide(program * shared, sharers)
        stop = divide((program + 1) * shared, sharers)
    return count, start, stop


@gluon.jit
def item_at(i, x, plan, work):
    """The i-th item of a program's work, with the step x of the shared tiles.

    -> tile, its first step, its last one + 1, and the next item's x.
    """
    _, steps, whole, programs, _, _ = plan
    count, _, stop = work
    tile = gl.program_id(0) + i * programs
    first = x * 0
    end = steps
    if i >= count:
        past = divide(x, steps)
        tile = whole * programs + past
        first = x - past * steps
        end = gl.minimum(steps, first + stop - x)
        x += end - first
    return tile, first, end, x


@gluon.jit
def place_of(tile, M, N, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BAND: gl.constexpr):
    """A tile's first row and column.  Tiles go down BAND of them first, then to the right."""
    height = gl.cdiv(M, BLOCK_M)
    row = tile * 0
    column = tile
    if height > BAND:
        across = gl.cdiv(N, BLOCK_N)
        band = divide(tile, BAND * across)
        row = band * BAND
        height = gl.minimum(height - row, BAND)
        column -= row * across
    if height > 1:
        right = divide(column, height)
        row += column - right * height
        column = right
    return row * BLOCK_M, column * BLOCK_N
