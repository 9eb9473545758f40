"""Report of a standstill: the waits of a CTA's warps of which none will ever go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .flow import Block
from .layout import WAITING
from .ptx import Instruction
from .runtime.mbarriers import BYTES, COUNT, PHASE

_FINISHED = 0xFFFFFFFF


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


def describe(blocks: Sequence[Block], places: Sequence[Place]) -> str:
    """A line for each wait, with the warps that stand there."""
    groups: dict[str, list[int]] = {}
    for warp, place in enumerate(places):
        groups.setdefault(_line(blocks, place), []).append(warp)
    return "\n".join(f"  {_warps(warps)}: {line}" for line, warps in groups.items())


def _line(blocks: Sequence[Block], place: Place) -> str:
    if place.resume == _FINISHED:
        return "finished"
    ins = _wait(blocks, place.resume)
    if ins is None:
        return "between two waits"
    text = f"PTX line {ins.line}: {' '.join(ins.text.split())}"
    if not ins.opcode.base.startswith("mbarrier"):
        return f"{text}: for other warps to come to this barrier"
    pending, nbytes = place.word & COUNT, place.word >> BYTES & (1 << PHASE - BYTES) - 1
    signed = nbytes - (nbytes >> PHASE - BYTES - 1 << PHASE - BYTES)
    return (
        f"{text}: for the phase of parity {place.parity} of the mbarrier at shared byte"
        f" {place.address}, whose phase of parity {place.word >> PHASE & 1} lacks"
        f" {pending} arrivals and {signed} bytes"
    )


def _wait(blocks: Sequence[Block], resume: int) -> Instruction | None:
    """The instruction that a warp waits at."""
    number = resume & (WAITING - 1)
    for block in blocks:
        waits = block.exit == "barrier" if resume & WAITING else block.exit == "yield"
        if (waits and block.next == number) or (block.exit == "poll" and block.index == number):
            return block.last
    return None


def _warps(warps: list[int]) -> str:
    if len(warps) == 1:
        return f"warp {warps[0]}"
    if warps == list(range(warps[0], warps[-1] + 1)):
        return f"warps {warps[0]}-{warps[-1]}"
    return f"warps {', '.join(map(str, warps))}"
