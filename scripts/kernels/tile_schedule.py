"""Which tiles of c a persistent program computes, and which of their steps of BLOCK_K k's.

The programs take the tiles in rounds.  Where there are fewer tiles than programs, K is split; and
where many programs would be idle for long, the tiles of the last two rounds are shared out by
steps, so that a program may work on parts of two tiles.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def schedule(M, N, K, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr):
    """How the programs share out the tiles.

    -> programs that work, steps of a tile, whole tiles of each program, steps of all the remaining
    tiles, and which of those this program does, from `start` to `stop`.
    """
    # About as many as take as long as it takes to sum parts of tiles.
    SUM_STEPS: gl.constexpr = max(12, BLOCK_M * BLOCK_N // (BLOCK_K * 16))
    limit = gl.num_programs(0)
    tiles = gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N)
    steps = gl.cdiv(K, BLOCK_K)
    program = gl.program_id(0)
    rounds = gl.cdiv(tiles, limit)
    split = gl.maximum(1, gl.minimum(limit // tiles, gl.cdiv(steps, 4)))
    if rounds * gl.cdiv(steps, split) - gl.cdiv(tiles * steps, limit) > SUM_STEPS:
        programs = limit
        whole = gl.maximum(tiles // limit - 1, 0)
        shared = (tiles - whole * limit) * steps
    elif split > 1:
        programs = split * tiles
        whole = 0
        shared = tiles * steps
    else:
        programs = gl.cdiv(tiles, rounds)
        whole = gl.cdiv(tiles - program, programs)
        shared = 0
    if program >= programs:
        whole = 0
    start = gl.minimum(program, programs) * shared // programs
    stop = gl.minimum(program + 1, programs) * shared // programs
    return programs, steps, whole, shared, start, stop


@gluon.jit
def item_at(x, programs, steps, tiles, start, stop):
    """What a program does at x steps, those before `start` being of its whole tiles.

    -> tile, its first step, its last one + 1.  tiles: those before the shared ones.
    """
    if x < start:
        tile = gl.program_id(0) + ((start - x) // steps - 1) * programs
        first = 0
        end = steps
    else:
        tile = tiles + x // steps
        first = x % steps
        end = gl.minimum(steps, first + stop - x)
    return tile, first, end


@gluon.jit
def place_of(tile, M, N, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BAND: gl.constexpr):
    """A tile's first row and column.  Tiles go down BAND of them first, then to the right."""
    tiles_m = gl.cdiv(M, BLOCK_M)
    tiles_n = gl.cdiv(N, BLOCK_N)
    band = tile // (BAND * tiles_n)
    height = gl.minimum(tiles_m - band * BAND, BAND)
    rest = tile - band * (BAND * tiles_n)
    column = rest // height
    return (band * BAND + rest - column * height) * BLOCK_M, column * BLOCK_N
