"""The rings in shared memory through which tiles come by cp.async, on their way to mma_operands.py.

A slot of the rings has one tile, of WARPS_K * 32 * STEPS k's, in SPANS spans that each have one
group:

    activations  [STEPS, WARPS_K * BLOCK_M, 16]       pairs of k's, 32 bits each
    words        [STEPS, WARPS_K * 4, BLOCK_N]
    scales       [SPANS, WARPS_K, BLOCK_N]
    zeros        [SPANS, WARPS_K, BLOCK_N / 8]        eight of them a word

The layouts keep a quarter of a warp, which is what shared memory serves at once, on different
banks:

    activations  rows of 64 bytes; a quarter reads two of them, which are neighbours
    words        rows of BLOCK_N words, 16-byte pieces c of row t at c ^ 2t; a quarter reads pieces
                 c, c + 1 of four rows

SHARE is (WARPS_N, WARPS_K), as in mma_operands.py.
"""

from linear_layouts import along, linear_layout, log2
from mma_operands import activations_of, next_group, words_layout
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy


@gluon.constexpr_function
def _pairs_layout(SHARE, BLOCK_M):
    """[1, WARPS_K * BLOCK_M (g, ...), 16 pairs of k's]: 16 bytes of a row a lane."""
    WN, WK = SHARE
    top = log2(BLOCK_M)
    return linear_layout(
        [1, WK * BLOCK_M, 16],
        [(2, 0, 2), (1, 3, top)],
        [(2, 2, 4), (1, 0, 3)],
        [(None, 0, log2(WN)), (1, top, top + log2(WK))],
    )


@gluon.constexpr_function
def _words_layout(SHARE, BLOCK_N):
    """[1, WARPS_K * 4, BLOCK_N]: 16 bytes of a word row a lane."""
    WN, WK = SHARE
    n = 5 + log2(WN)
    return linear_layout(
        [1, WK * 4, BLOCK_N],
        [(2, 0, 2), (2, n, log2(BLOCK_N))],
        [(1, 0, 2), (2, 2, 5)],
        [(2, 5, n), (1, 2, 2 + log2(WK))],
    )


@gluon.constexpr_function
def _scales_layout(SHARE, BLOCK_N):
    """[1, WARPS_K, BLOCK_N]: those of a lane's words."""
    WN, WK = SHARE
    n = 5 + log2(WN)
    return linear_layout(
        [1, WK, BLOCK_N],
        [(2, 0, 2), (2, n, log2(BLOCK_N))],
        [(None, 0, 2), (2, 2, 5)],
        [(2, 5, n), (1, 0, log2(WK))],
    )


@gluon.constexpr_function
def _zeros_layout(SHARE, BLOCK_N):
    """[1, WARPS_K, BLOCK_N / 8, 2]: a word of zeros a lane, and which half its columns have."""
    WN, WK = SHARE
    n = 2 + log2(WN)
    return linear_layout(
        [1, WK, BLOCK_N // 8, 2],
        [(2, n, log2(BLOCK_N // 8))],
        [(None, 0, 2), (3, 0, 1), (2, 0, 2)],
        [(2, 2, n), (1, 0, log2(WK))],
    )


@gluon.jit
def allocate_rings(
    dtype: gl.constexpr, DEPTH: gl.constexpr, STEPS: gl.constexpr, SPANS: gl.constexpr,
    WARPS_K: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """Rings of DEPTH slots: activations, words, scales and zeros."""
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    words_in: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 4, [2, 1, 0])
    a_ring = gl.allocate_shared_memory(gl.int32, [DEPTH, STEPS, WARPS_K * BLOCK_M, 16], plain)
    q_ring = gl.allocate_shared_memory(gl.int32, [DEPTH, STEPS, WARPS_K * 4, BLOCK_N], words_in)
    s_ring = gl.allocate_shared_memory(dtype, [DEPTH, SPANS, WARPS_K, BLOCK_N], plain)
    z_ring = gl.allocate_shared_memory(gl.int32, [DEPTH, SPANS, WARPS_K, BLOCK_N // 8], plain)
    return a_ring, q_ring, s_ring, z_ring


@gluon.jit
def fetch_weights(rings, slot, pointers, left, place, steps, K, group_size, BLOCK_K: gl.constexpr):
    """Start copying a tile's words, scales and zeros into a slot of the rings, and go on."""
    _, q_ring, s_ring, z_ring = rings
    q, s, z = pointers
    group, row = place
    q_step, s_step, z_step = steps
    s_at: gl.constexpr = gl.SliceLayout(2, s.type.layout)
    z_at: gl.constexpr = gl.SliceLayout(2, z.type.layout)
    async_copy.async_copy_global_to_shared(q_ring.index(slot), q, left > 0)
    there = gl.minimum(group, (K - 1) // group_size).to(gl.int64)
    s_there = s + (gl.convert_layout(there, s_at) * s_step)[:, :, None]
    z_there = z + (gl.convert_layout(there, z_at) * z_step)[:, :, None]
    async_copy.async_copy_global_to_shared(s_ring.index(slot), s_there)
    async_copy.async_copy_global_to_shared(z_ring.index(slot), z_there)
    q += q_step * (BLOCK_K // 8)
    groups_on = BLOCK_K // group_size
    group, row = next_group(group, row, groups_on, BLOCK_K - groups_on * group_size, group_size)
    return (q, s, z), left - BLOCK_K, (group, row)


@gluon.jit
def fetch_activations(rings, slot, a, left, BLOCK_K: gl.constexpr):
    """Start copying a tile's activations, and close the commit group of the tile; go on."""
    async_copy.async_copy_global_to_shared(rings[0].index(slot), a, left > 0)
    async_copy.commit_group()
    return a + BLOCK_K // 2, left - BLOCK_K


@gluon.jit
def load_activations(
    a_slot, step: gl.constexpr, dtype: gl.constexpr, SHARE: gl.constexpr, BLOCK_M: gl.constexpr,
    operand: gl.constexpr,
):  # fmt: skip
    """A lane's activations of one step, for its two mma's."""
    pairs = a_slot.slice(step, 1).load(_pairs_layout(SHARE, BLOCK_M))
    return activations_of(pairs.reshape([SHARE[1], BLOCK_M, 4, 4]), dtype, operand)


@gluon.jit
def load_words(q_slot, step: gl.constexpr, SHARE: gl.constexpr, BLOCK_N: gl.constexpr):
    """A lane's words of one step [WARPS_K, 4, BLOCK_N / 4, 4]."""
    words = q_slot.slice(step, 1).load(_words_layout(SHARE, BLOCK_N))
    words = words.reshape([SHARE[1], 4, BLOCK_N // 4, 4])
    return gl.convert_layout(words, words_layout(SHARE, BLOCK_N), assert_trivial=True)


@gluon.jit
def load_scales(s_slot, span: gl.constexpr, SHARE: gl.constexpr, BLOCK_N: gl.constexpr):
    """The bits of the scale of each of a lane's words [WARPS_K, BLOCK_N / 4, 4]."""
    at: gl.constexpr = gl.SliceLayout(1, words_layout(SHARE, BLOCK_N))
    scale = s_slot.slice(span, 1).load(_scales_layout(SHARE, BLOCK_N))
    scale = scale.to(gl.int16, bitcast=True).to(gl.int32) & 0xFFFF
    return gl.convert_layout(scale.reshape([SHARE[1], BLOCK_N // 4, 4]), at, assert_trivial=True)


@gluon.jit
def load_zeros(z_slot, span: gl.constexpr, SHARE: gl.constexpr, BLOCK_N: gl.constexpr):
    """The zero, as the file has it, of each of a lane's words [WARPS_K, BLOCK_N / 4, 4]."""
    at: gl.constexpr = gl.SliceLayout(1, words_layout(SHARE, BLOCK_N))
    zeros_at: gl.constexpr = _zeros_layout(SHARE, BLOCK_N)
    zero = z_slot.slice(span, 1).load(gl.SliceLayout(3, zeros_at))[:, :, :, None]
    half = gl.arange(0, 2, along(zeros_at, 3))[None, None, None, :]
    zero = zero >> half * 16
    zero = zero.reshape([SHARE[1], BLOCK_N // 4])
    zero = gl.convert_layout(zero, gl.SliceLayout(2, at), assert_trivial=True)
    r = gl.arange(0, 4, along(at, 2))[None, None, :]
    return (zero[:, :, None] >> r * 4) & 15
