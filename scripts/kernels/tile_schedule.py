"""The tiles of c that a persistent program computes, and their steps of BLOCK_K k's that it does.

The programs take the tiles in rounds.  Where the last round would leave many of them idle for long,
tiles are shared out by steps: those of the last round, if that gives each program at most one part
of a tile and few programs none, else those of the last two rounds, so that a program may work on
parts of two tiles.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def schedule(M, N, K, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr):
    """Share out the tiles among the programs.

    -> programs that do whole tiles, those that share the remaining ones, steps of a tile, whole
    tiles of this program, steps of all the shared tiles, and which of those this program does,
    from `start` to `stop`.
    """
    # About as many as take as long as it takes to sum parts of tiles, two of each program.
    SUM_STEPS: gl.constexpr = 1024 // BLOCK_K
    limit = gl.num_programs(0)
    tiles = gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N)
    steps = gl.cdiv(K, BLOCK_K)
    program = gl.program_id(0)
    full = tiles // limit
    left = tiles - full * limit
    split = gl.minimum(limit // gl.maximum(left, 1), gl.cdiv(steps, 4))
    if (full > 0) & (split != 2):
        full -= 1
        left += limit
        split = 1
    # Parts of large tiles cost more than it saves to keep all programs busy with them.
    idle = gl.cdiv(steps, split) - gl.cdiv(left * steps, limit)
    if (BLOCK_M <= 128) & (full == 0) & (split < 4) & (idle > SUM_STEPS // 2):
        split = 1
    sharers = limit
    worth = tiles * 0 + SUM_STEPS
    if split > 1:
        sharers = split * gl.maximum(left, 1)
        worth = gl.where(full > 0, SUM_STEPS * 2 // 3, 0)
    if gl.cdiv(left, limit) * steps - gl.cdiv(left * steps, sharers) > worth:
        programs = limit
        whole = full
        shared = left * steps
    else:
        programs = gl.cdiv(tiles, gl.cdiv(tiles, limit))
        whole = gl.cdiv(tiles - program, programs)
        if program >= programs:
            whole = 0
        shared = 0
    start = gl.minimum(program, sharers) * shared // sharers
    stop = gl.minimum(program + 1, sharers) * shared // sharers
    return programs, sharers, steps, whole, shared, start, stop


@gluon.jit
def item_at(x, programs, steps, tiles, start, stop):
    """A program's work at x steps, those before `start` being of its whole tiles.

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
    # A program without a tile asks, too, and must not divide by zero.
    height = gl.maximum(gl.minimum(tiles_m - band * BAND, BAND), 1)
    rest = tile - band * (BAND * tiles_n)
    column = rest // height
    return (band * BAND + rest - column * height) * BLOCK_M, column * BLOCK_N
