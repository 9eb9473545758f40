"""Stores of wgmma's sums, in wgmma_operands.py's order of columns, to c: whole tiles and parts."""

from linear_layouts import along, linear_layout, log2
from part_counters import await_parts, claim_share
from tile_parts import load_part, store_part, sum_parts
from tile_schedule import divide
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def _outputs_layout(BLOCK_M, BLOCK_N, WARPS):
    """[BLOCK_M, BLOCK_N]: wgmma's result, two columns of c together."""
    columns = 4 + log2(WARPS)
    return linear_layout(
        [BLOCK_M, BLOCK_N],
        [(1, 0, 1), (0, 0, 1), (0, 3, log2(BLOCK_M)), (1, columns, log2(BLOCK_N))],
        [(0, 1, 3), (1, 1, 4)],
        [(1, 4, columns)],
    )


@gluon.jit
def here(x):
    """x, in a way that what depends on it is not computed ahead of loops and kept in registers."""
    return gl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [x], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _store(total, c, bias, wide, adds, M, N, first_row, first_column, c_step):
    """total [BLOCK_N in wgmma's order, BLOCK_M] + bias -> c, or `wide`."""
    BLOCK_N: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[1]
    at: gl.constexpr = _outputs_layout(BLOCK_M, BLOCK_N, gl.num_warps())
    total = total.reshape([BLOCK_N // 16, 2, 8, BLOCK_M]).permute([3, 0, 2, 1])
    total = gl.convert_layout(total.reshape([BLOCK_M, BLOCK_N]), at, assert_trivial=True)
    row = gl.arange(0, BLOCK_M, along(at, 0))
    column = gl.arange(0, BLOCK_N, along(at, 1))
    inside = (first_column + column) // 8 < N // 8
    if bias.to(gl.int64) != 0:
        total += gl.load(bias + first_column + column, inside, 0).to(gl.float32)[None, :]
    mask = (row < M - first_row)[:, None] & inside[None, :]
    if wide.to(gl.int64) != 0:
        there = gl.multiple_of(wide + (first_row.to(gl.int64) * N + first_column), 8)
        there += gl.multiple_of(row * here(N), 2)[:, None] + column[None, :]
        if adds != 0:
            total += gl.load(there, mask, 0)
        gl.store(there, total, mask)
    else:
        corner = gl.multiple_of(c + (first_row.to(gl.int64) * c_step + first_column), 16)
        offset = gl.multiple_of(row * here(c_step.to(gl.int32)), 2)[:, None] + column[None, :]
        gl.store(corner + offset, total.to(c.dtype.element_ty), mask)


@gluon.jit
def finish(totals, results, tile, complete, sharing, first_row, first_column):
    """Store a tile's sums, or leave them as a part, and add up this program's share of all parts.

    totals: [BLOCK_N, rows] of each piece of the tile's rows.  results: c, its row stride, bias,
    wide, adds, workspace, counters, M and N.
    complete: whether it is the sum over all k's.  sharing: the plan of tile_schedule.py, and this
    program's first step of the shared tiles.
    """
    c, c_step, bias, wide, adds, workspace, counters, M, N = results
    plan, start = sharing
    tiles, steps, whole, programs, sharers, together = plan
    PIECES: gl.constexpr = len(totals)
    BLOCK_N: gl.constexpr = totals[0].shape[0]
    HIGH: gl.constexpr = totals[0].shape[1]
    BLOCK_M: gl.constexpr = HIGH * PIECES
    SIZE: gl.constexpr = BLOCK_M * BLOCK_N
    if complete:
        for j in gl.static_range(PIECES):
            row = first_row + j * HIGH
            _store(totals[j], c, bias, wide, adds, M, N, row, first_column, c_step)
    else:
        shared_tile = tile - whole * programs
        tile_start = shared_tile * steps
        lowest = shared_tile * together
        highest = lowest + together - 1
        begun = together * 0  # 1 where the lowest program has begun with another tile
        if together == 0:
            shared = (tiles - whole * programs) * steps
            lowest = divide((tile_start + 1) * sharers - 1, shared)
            highest = divide((tile_start + steps) * sharers - 1, shared)
            begun = (lowest * shared < tile_start * sharers).to(gl.int32)
        parts = highest - lowest + 1
        program = gl.program_id(0)
        # Programs with a part of one tile each finish at the same time, and share out the sum.  Of
        # others the lowest one is the last: it begins with the tile when they are done with it.
        even = together > 2
        counter = counters + shared_tile
        there = even & False
        if (program == lowest) & (even == 0):
            there = await_parts(counter, parts - 1)
            gl.thread_barrier()
        if there:
            gl.store(counter, 0)
            for other in range(lowest + 1, highest + 1):  # each has begun with this tile
                part = workspace + (2 * other).to(gl.int64) * SIZE
                sums = ()
                for j in gl.static_range(PIECES):
                    sums += (totals[j] + load_part(part + j * HIGH * BLOCK_N, totals[j]),)
                totals = sums
            for j in gl.static_range(PIECES):
                row = first_row + j * HIGH
                _store(totals[j], c, bias, wide, adds, M, N, row, first_column, c_step)
        else:
            # A program's first part and its last one; it has no more.
            slot = 2 * program + (start < tile_start).to(gl.int32)
            for j in gl.static_range(PIECES):
                store_part(workspace + slot.to(gl.int64) * SIZE + j * HIGH * BLOCK_N, totals[j])
            gl.thread_barrier()
            share, shares = claim_share(counter, parts, even)
            gl.thread_barrier()
            if shares > 0:
                ROWS: gl.constexpr = max(8, HIGH // 4)
                BANDS: gl.constexpr = BLOCK_M // ROWS
                for band in range(share * BANDS // shares, (share + 1) * BANDS // shares):
                    row = band * ROWS
                    total = sum_parts(
                        workspace + row * BLOCK_N, SIZE, lowest, highest, begun, ROWS, BLOCK_N
                    )
                    at = first_row + row
                    _store(total, c, bias, wide, adds, M, N, at, first_column, c_step)
