"""Places of warps and CTAs that wait, as they are read from a worker's memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Place at which a warp stands.

    resume: what its context says (layout.py).  address, parity: of the mbarrier and the phase that
    it waited for last.  word: what that mbarrier holds.
    """

    resume: int
    address: int
    parity: int
    word: int


@dataclass(frozen=True)
class Wait:
    """Place of a CTA that waits for others.

    resume: what the context of its first warp that has not ended says.  address: what was polled
    last, and site: 1 + the index of the instruction; 0 where the entry polls nothing with .relaxed,
    .acquire, .volatile or atom.
    """

    cta: tuple[int, int, int]
    resume: int
    address: int
    site: int
