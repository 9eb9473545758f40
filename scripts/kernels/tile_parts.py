"""Parts of a tile of c, summed over some of the k's each: how they lie in the workspace.

A part is what wgmma leaves in the registers of a lane (g = lane / 4, t = lane % 4), its rows being
columns of c: rows g and g + 8 (r) of each 16, and rows 2t and 2t + 1 of each 8 of c.  In the
workspace a lane's four numbers [r, m % 2] of eight rows lie together, one lane beside the other.
"""

from linear_layouts import along, linear_layout, log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def _layout(ROWS, BLOCK_N, WARPS):
    """[ROWS / 8, BLOCK_N * 2, 4]: wgmma's result as it lies in the workspace."""
    columns = 5 + log2(WARPS)
    return linear_layout(
        [ROWS // 8, BLOCK_N * 2, 4],
        [(2, 0, 2), (0, 0, log2(ROWS // 8)), (1, columns, 1 + log2(BLOCK_N))],
        [(1, 0, 5)],
        [(1, 5, columns)],
    )


@gluon.jit
def _offsets(ROWS: gl.constexpr, BLOCK_N: gl.constexpr):
    """Places of a part's rows in the workspace: 16 bytes a lane, one lane beside the other."""
    at: gl.constexpr = _layout(ROWS, BLOCK_N, gl.num_warps())
    offset = gl.arange(0, ROWS // 8, along(at, 0))[:, None, None] * (BLOCK_N * 8)
    offset += gl.arange(0, BLOCK_N * 2, along(at, 1))[None, :, None] * 4
    return offset + gl.arange(0, 4, along(at, 2))[None, None, :]


@gluon.jit
def store_part(part, total):
    """total [BLOCK_N in wgmma's order, BLOCK_M] -> the workspace."""
    BLOCK_N: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[1]
    at: gl.constexpr = _layout(BLOCK_M, BLOCK_N, gl.num_warps())
    gl.store(part + _offsets(BLOCK_M, BLOCK_N), _as_part(total, at))


@gluon.jit
def load_part(part, like):
    """Load a part that `store_part` left in the workspace, as wgmma has it in `like`."""
    BLOCK_N: gl.constexpr = like.shape[0]
    BLOCK_M: gl.constexpr = like.shape[1]
    numbers = gl.load(gl.multiple_of(part, 4) + _offsets(BLOCK_M, BLOCK_N), cache_modifier=".cg")
    return gl.convert_layout(_as_total(numbers), like.type.layout, assert_trivial=True)


@gluon.jit
def allocate_part(ROWS: gl.constexpr, BLOCK_N: gl.constexpr):
    """Allocate a part in shared memory."""
    at: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    return gl.allocate_shared_memory(gl.float32, [ROWS // 8, BLOCK_N * 2, 4], at)


@gluon.jit
def share_part(part, total):
    """total [BLOCK_N in wgmma's order, rows] -> one of `allocate_part`."""
    at: gl.constexpr = _layout(total.shape[1], total.shape[0], gl.num_warps())
    part.store(_as_part(total, at))


@gluon.jit
def shared_part(part, like):
    """Load a part that `share_part` left, as wgmma has it in `like`."""
    at: gl.constexpr = _layout(like.shape[1], like.shape[0], gl.num_warps())
    return gl.convert_layout(_as_total(part.load(at)), like.type.layout, assert_trivial=True)


@gluon.jit
def _as_part(total, at: gl.constexpr):
    BLOCK_N: gl.constexpr = total.shape[0]
    BLOCK_M: gl.constexpr = total.shape[1]
    # [..., r, g, m / 8, t, m % 2]
    total = total.reshape([BLOCK_N // 16, 2, 8, BLOCK_M // 8, 4, 2]).permute([3, 0, 2, 4, 1, 5])
    total = total.reshape([BLOCK_M // 8, BLOCK_N * 2, 4])
    return gl.convert_layout(total, at, assert_trivial=True)


@gluon.jit
def _as_total(part):
    ROWS: gl.constexpr = part.shape[0] * 8
    BLOCK_N: gl.constexpr = part.shape[1] // 2
    part = part.reshape([ROWS // 8, BLOCK_N // 16, 8, 4, 2, 2]).permute([1, 4, 2, 0, 3, 5])
    return part.reshape([BLOCK_N, ROWS])


@gluon.jit
def sum_parts(
    workspace, slot_size, lowest, highest, begun,
    ROWS: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """ROWS rows of the sum of the parts that the programs `lowest` to `highest` left of one tile.

    workspace: at these rows of slot 0.  begun: 1 where the lowest one left it in its second slot.
    """
    TOGETHER: gl.constexpr = 3  # loads that are under way at a time
    at: gl.constexpr = _layout(ROWS, BLOCK_N, gl.num_warps())
    total = gl.zeros([ROWS // 8, BLOCK_N * 2, 4], gl.float32, at)
    offset = _offsets(ROWS, BLOCK_N)
    for program in range(lowest, highest + 1, TOGETHER):
        parts = ()
        for i in gl.static_range(TOGETHER):
            slot = (2 * (program + i) + begun).to(gl.int64)
            begun = 0
            part = gl.multiple_of(workspace + slot * slot_size, 4) + offset
            there = program + i <= highest
            parts = parts + (gl.load(part, there, 0.0, cache_modifier=".cg"),)
        for i in gl.static_range(TOGETHER):
            total += parts[i]
    return _as_total(total)
