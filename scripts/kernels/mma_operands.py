"""A GPTQ layer's words, and activations, as the operands of mma.m16n8k16: nothing is repacked.

The weights are the left operand (16 columns of c), the activations the right one (8 rows of c).  A
sum over k may run in any order, so a lane (g = lane / 4, t = lane % 4) multiplies the k's that its
own loads bring, 32 of them a step and two mma's deep:

    weights      16 bytes: the words of row t, columns 4g .. 4g + 3
    activations  16 bytes: row g, k = 8t .. 8t + 7

Index bits, low to high; nibble = (p, h, e) is a weight's place in its word, w are the warps along
columns:

    k of one mma       [e, t0, t1, h]            p says which of the two mma's
    k in the file      [p, h, e, t0, t1]
    row of the mma's   [g0, g1, g2, r0, w, r1, ...]
    column in the file [r0, r1, g0, g1, g2, w, ...]

SHARE is (WARPS_N, WARPS_K): how many warps lie along columns of c and along k's.  Activations are
read as pairs of k's, 32 bits each.
"""

from linear_layouts import along, linear_layout, log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def words_layout(SHARE, BLOCK_N):
    """[WARPS_K, 4 (t), BLOCK_N / 4 (g, w, ...), 4 (r)]: 16 bytes of a word row a lane."""
    WN, WK = SHARE
    n = 3 + log2(WN)
    return linear_layout(
        [WK, 4, BLOCK_N // 4, 4],
        [(3, 0, 2), (2, n, log2(BLOCK_N // 4))],
        [(1, 0, 2), (2, 0, 3)],
        [(2, 3, n), (0, 0, log2(WK))],
    )


@gluon.constexpr_function
def pairs_layout(WARPS_K, BLOCK_M):
    """[WARPS_K, BLOCK_M (g, ...), 4 (t), 4 (h, e)]: 16 bytes of an activation row a lane."""
    return linear_layout(
        [WARPS_K, BLOCK_M, 4, 4],
        [(3, 0, 2), (1, 3, log2(BLOCK_M))],
        [(2, 0, 2), (1, 0, 3)],
        [(0, 0, log2(WARPS_K))],
    )


@gluon.jit
def first_words(qweight, k, first_quad, last_quad, q_step, words_at: gl.constexpr):
    """Pointers to a lane's first words [WARPS_K, 4, BLOCK_N / 4, 4].

    k: [WARPS_K, 4], this lane's first k.  Quads of columns beyond the last one are the last one.
    """
    quads = first_quad + gl.arange(0, words_at.shape[2], along(words_at, 2))
    quads = gl.minimum(quads, last_quad)
    return words_of(qweight, k, quads.to(gl.int64) * 4, q_step, words_at)


@gluon.jit
def words_of(qweight, k, columns, q_step, words_at: gl.constexpr):
    """Pointers, as first_words makes them, from each quad's first column: int64 [BLOCK_N / 4]."""
    q = gl.expand_dims(gl.expand_dims((k // 8).to(gl.int64) * q_step, 2), 3)
    q += columns[None, None, :, None]
    return qweight + (q + gl.arange(0, 4, along(words_at, 3))[None, None, None, :])


@gluon.jit
def first_pairs(a, k, first_row, M, a_step, pairs_at: gl.constexpr):
    """Pointers to a lane's first activations [WARPS_K, BLOCK_M, 4, 4], in pairs of k's.

    k: [WARPS_K, 4], this lane's first k.  Rows beyond M are the last one.
    """
    rows = first_row + gl.arange(0, pairs_at.shape[1], along(pairs_at, 1))
    rows = gl.minimum(rows, M - 1)
    return pairs_of(a, k, rows, a_step, pairs_at)


@gluon.jit
def pairs_of(a, k, rows, a_step, pairs_at: gl.constexpr):
    """Pointers as first_pairs makes them, from each row: [BLOCK_M]."""
    k_pairs = gl.convert_layout(k // 2, along(pairs_at, 0, 2), assert_trivial=True)
    k_pairs = gl.expand_dims(gl.expand_dims(k_pairs, 1), 3)
    k_pairs += gl.arange(0, 4, along(pairs_at, 3))[None, None, None, :]
    a = a.cast(gl.pointer_type(gl.int32))
    return a + ((rows.to(gl.int64) * a_step)[None, :, None, None] + k_pairs)


@gluon.jit
def load_pairs(a, left, STEPS: gl.constexpr, pairs_at: gl.constexpr):
    """A tile's activations, step by step.

    left: [WARPS_K, 4], how many k's there are from this lane's first one on.
    """
    pairs = ()
    left = gl.convert_layout(left, along(pairs_at, 0, 2), assert_trivial=True)
    left = gl.expand_dims(gl.expand_dims(left, 1), 3)
    for i in gl.static_range(STEPS):
        pairs = pairs + (gl.load(a + i * 16, left > 32 * i, 0),)
    return pairs


@gluon.jit
def next_group(group, row, groups, rows, group_size):
    """The place `groups` whole groups and `rows` < group_size rows further on."""
    row += rows
    over = row >= group_size
    return group + groups + over.to(gl.int32), gl.where(over, row - group_size, row)


@gluon.jit
def weights_of(nibbles, WARPS_N: gl.constexpr, operand: gl.constexpr):
    """nibbles [WARPS_K, 4, BLOCK_N / 4, 4, 2 (e), 2 (h)] -> an mma's [WARPS_K, BLOCK_N, 16]."""
    WARPS_K: gl.constexpr = nibbles.shape[0]
    BLOCKS: gl.constexpr = nibbles.shape[2] // (8 * WARPS_N)
    weights = nibbles.reshape([WARPS_K, 4, BLOCKS, WARPS_N, 8, 2, 2, 2, 2])
    weights = weights.permute([0, 2, 5, 3, 6, 4, 8, 1, 7])  # [., ., r1, w, r0, g, h, t, e]
    weights = weights.reshape([WARPS_K, BLOCKS * WARPS_N * 32, 16])
    return gl.convert_layout(weights, operand, assert_trivial=True)


@gluon.jit
def activations_of(pairs, dtype: gl.constexpr, operand: gl.constexpr):
    """pairs [WARPS_K, BLOCK_M, 4, 4 (h, e)], each of p = 0, 1 -> both mma's [., 16, BLOCK_M].

    A register of an mma holds k's that differ in e, so the halves of the pairs change places.
    """
    WARPS_K: gl.constexpr = pairs.shape[0]
    BLOCK_M: gl.constexpr = pairs.shape[1]
    low, high = gl.inline_asm_elementwise(
        "prmt.b32 $0, $4, $6, 0x5410;"
        "prmt.b32 $1, $5, $7, 0x5410;"
        "prmt.b32 $2, $4, $6, 0x7632;"
        "prmt.b32 $3, $5, $7, 0x7632;",
        "=&r,=&r,=&r,=&r,r,r,r,r",
        [pairs],
        (gl.float16, gl.float16),
        is_pure=True,
        pack=4,
    )
    low = low.to(dtype, bitcast=True).reshape([WARPS_K, BLOCK_M, 4, 2, 2])
    high = high.to(dtype, bitcast=True).reshape([WARPS_K, BLOCK_M, 4, 2, 2])
    low = low.permute([0, 3, 2, 4, 1]).reshape([WARPS_K, 16, BLOCK_M])
    high = high.permute([0, 3, 2, 4, 1]).reshape([WARPS_K, 16, BLOCK_M])
    low = gl.convert_layout(low, operand, assert_trivial=True)
    high = gl.convert_layout(high, operand, assert_trivial=True)
    return low, high
