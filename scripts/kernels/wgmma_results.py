"""From the sums of wgmma, in wgmma_operands.py's order of columns, to c: whole tiles and parts."""

from linear_layouts import along, linear_layout, log2
from tile_parts import load_part, store_part, sum_parts
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
def finish(
    totals, results, tile, complete, sharing, first_row, first_column,
    ACROSS: gl.constexpr, PARTITIONS: gl.constexpr,
):  # fmt: skip
    """Store a tile's sums, or leave them as a part, and add up all parts if they are the last.

    totals: [BLOCK_N, rows] of each block of the tile's rows, of partition ACROSS of PARTITIONS
    along its columns.  results: c, its row stride, bias, wide, adds, workspace, counters, M and N.
    complete: whether it is the sum over all k's.  sharing: whole tiles of all programs, steps of a
    tile, sharers, their steps, and this program's first one of them: tile_schedule.py's.
    """
    c, c_step, bias, wide, adds, workspace, counters, M, N = results
    whole_tiles, steps, sharers, shared, start = sharing
    WARPS: gl.constexpr = gl.num_warps()
    BLOCKS: gl.constexpr = len(totals)
    BLOCK_N: gl.constexpr = totals[0].shape[0]
    HIGH: gl.constexpr = totals[0].shape[1]
    LOW: gl.constexpr = totals[BLOCKS - 1].shape[1]
    BLOCK_M: gl.constexpr = HIGH + LOW * (BLOCKS - 1)
    SIZE: gl.constexpr = BLOCK_M * BLOCK_N * PARTITIONS
    if complete:
        for j in gl.static_range(BLOCKS):
            row = first_row + j * HIGH
            _store(totals[j], c, bias, wide, adds, M, N, row, first_column, c_step)
    else:
        shared_tile = tile - whole_tiles
        tile_start = shared_tile * steps
        lowest = ((tile_start + 1) * sharers - 1) // shared
        highest = ((tile_start + steps) * sharers - 1) // shared
        # A program's first part and its last one; it has no more.
        slot = 2 * gl.program_id(0) + (start < tile_start).to(gl.int32)
        mine = workspace + ACROSS * (BLOCK_M * BLOCK_N)
        for j in gl.static_range(BLOCKS):
            store_part(mine + slot.to(gl.int64) * SIZE + j * HIGH * BLOCK_N, totals[j])
        gl.thread_barrier()
        counter = counters + shared_tile * PARTITIONS + ACROSS
        arrived = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if arrived == highest - lowest:
            gl.thread_barrier()
            # Only the lowest program can have begun with another tile.
            begun = (lowest * shared // sharers < tile_start).to(gl.int32)
            if highest == lowest + 1:  # two numbers have the same sum in either order
                other = lowest + highest - gl.program_id(0)
                slot = 2 * other + gl.where(other == lowest, begun, 0)
                for j in gl.static_range(BLOCKS):
                    part = mine + slot.to(gl.int64) * SIZE + j * HIGH * BLOCK_N
                    total = totals[j] + load_part(part, totals[j])
                    row = first_row + j * HIGH
                    _store(total, c, bias, wide, adds, M, N, row, first_column, c_step)
            else:
                ROWS: gl.constexpr = min(LOW, 1024 * WARPS // BLOCK_N)  # 32 a thread
                for row in range(0, BLOCK_M, ROWS):
                    total = sum_parts(
                        mine + row * BLOCK_N, SIZE, lowest, highest, begun, ROWS, BLOCK_N
                    )
                    at = first_row + row
                    _store(total, c, bias, wide, adds, M, N, at, first_column, c_step)
            gl.store(counter, 0)
