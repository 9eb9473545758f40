"""Rotary embedding of heads, with an RMS norm over each before it; all in float32.

Element j of the first R of a head turns with element j + R / 2; those from R on pass.
"""

import triton
import triton.language as tl


@triton.jit
def rotation(norm, cosines, sines, position, columns, D, R, turns):
    """The turn of a token's heads at `position`: each column's partner, and the factors of both.

    norm: the norm's weights float32 [D], or NULL.  cosines, sines: float32 [P, R / 2].  turns: not
    for heads that are only normed.
    """
    partner = tl.where(columns < R // 2, columns + R // 2, columns - R // 2)
    partner = tl.where(columns < R, partner, columns)
    normed = (norm.to(tl.int64) != 0) & (columns < D)
    own = tl.load(norm + columns, mask=normed, other=1.0)
    theirs = tl.load(norm + partner, mask=normed, other=1.0)
    turned = (columns < R) & turns
    angle = position.to(tl.int64) * (R // 2) + columns % (R // 2)
    cosine = tl.load(cosines + angle, mask=turned, other=1.0)
    sine = tl.load(sines + angle, mask=turned, other=0.0)
    sine = tl.where(columns < R // 2, -sine, sine)
    return partner, own * cosine, theirs * sine


@triton.jit
def load_heads(source, there, columns, partner):
    """Heads [H, D], and their elements' partners.  source: pointers, [H, 1].  there: [H, D]."""
    values = tl.load(source + columns[None, :], mask=there, other=0.0)
    return values, tl.load(source + partner[None, :], mask=there, other=0.0)


@triton.jit
def rotated(values, others, own, theirs, norm, D, eps):
    """Heads [H, D], as load_heads gives them, normed and turned."""
    turned = values * own[None, :] + others * theirs[None, :]
    if norm.to(tl.int64) != 0:
        turned /= tl.sqrt_rn(tl.sum(values * values, 1, keep_dims=True) / D + eps)
    return turned
