"""Counters by which the programs that have parts of one tile share out the sum of these.

A counter is zero before the first part of its tile is there, and after the last one.  In between it
holds three numbers: parts that are there, programs that no longer wait for the others, and shares
that are claimed.  A program waits for a while only, so that it never depends on others that may not
be running.  The one whose part is the last sums what nobody else does.  Who sums what changes
nothing in the sums.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

_LEFT = gl.constexpr(1 << 10)
_CLAIMED = gl.constexpr(1 << 20)
_FIELD = gl.constexpr((1 << 10) - 1)
_POLLS = gl.constexpr(256)  # longer than parts of the same length take where all programs run


@gluon.jit
def await_parts(counter, parts):
    """Wait for so many parts.  -> whether they are there."""
    polls = parts * 0 + _POLLS
    now = gl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    while (now != parts) & (polls > 0):
        now = gl.atomic_add(counter, 0, sem="acquire", scope="gpu")
        polls -= 1
    return now == parts


@gluon.jit
def claim_share(counter, parts, waits):
    """Say that a part is there, and take a share of the sum of all `parts` when they are there.

    waits: whether to wait for the other parts; the same for all programs of a tile.
    -> which share of how many; of none where this program has nothing to sum.
    """
    now = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") + 1
    share = (now & _FIELD) - 1
    shares = now * 0
    if waits:
        polls = now * 0 + _POLLS
        while (now != 0) & ((now & _FIELD) < parts) & (polls > 0):
            now = gl.atomic_add(counter, 0, sem="acquire", scope="gpu")
            polls -= 1
        waiting = (now != 0) & ((now & _FIELD) < parts)
        while waiting:
            before = now
            now = gl.atomic_cas(counter, before, before + _LEFT, sem="acquire", scope="gpu")
            waiting = (now != before) & (now != 0) & ((now & _FIELD) < parts)
        left = now // _LEFT & _FIELD
        if now == 0:  # the last part came, and nobody had left
            shares = parts
        elif (now & _FIELD) == parts:
            if left == 0:  # with this one
                gl.atomic_xchg(counter, 0, sem="release", scope="gpu")
                shares = parts
            else:
                share = gl.atomic_add(counter, _CLAIMED, sem="relaxed", scope="gpu") // _CLAIMED
                shares = parts - left
                if share == shares - 1:
                    gl.store(counter, 0)
    elif share == parts - 1:
        gl.store(counter, 0)
        shares += 1
        share = shares * 0
    return share, shares
