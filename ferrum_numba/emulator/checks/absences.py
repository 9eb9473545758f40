"""The check "race" of threads that end without a barrier which others of their CTA come to.

    absentround(checks, passed, fresh): a round begins
    absentbegin(checks, ctx): a warp begins a CTA
    touched(mask, checks, ctx): lanes use memory that others see
    comes(mask, checks, ctx, site): lanes come to a barrier of all threads
    comesnamed(mask, checks, ctx, site): to another one, which is of whole warps
    ends(mask, checks, ctx, site): lanes end

A thread that has used no memory since its last barrier may end early: GPUs count it as come, and
the kernels that rely on that are many.  Of any other nothing orders what it has done.  Only entries
with a branch, not the same for all threads, of which one way ends and the other comes to a barrier
are looked at.
Source: PTX ISA, "bar, barrier"; CUDA Programming Guide, "Synchronization Functions".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..flow import EXIT, Block, Flow, varies_in_cta
from ..hooks import Access
from ..ptx import Instruction, Operand
from ..values import Text, Value
from .check import HERE, POINTER, WORD, Check, Kept, Kind, Room, Subject, at_site, zeros
from .code import Code, code


class Absences(Check):
    """Threads that have used memory since their last barrier, and do not come to the next."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "skipped-barrier",
            "race",
            {
                "register": "{deed}{there}, and nothing orders what those that ended have done"
                " since their last barrier; let all threads come to it, and mask their work instead"
            },
        ),
    )
    # touched: lanes of each warp that have used memory since their last barrier; gone: those of
    # them that have ended.  come_at, gone_at: 1 + the index of an instruction by which threads of
    # the CTA came to the barrier of this round, or ended without.
    fields: ClassVar = {"touched": POINTER, "gone": POINTER, "come_at": WORD, "gone_at": WORD}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._possible = _may_miss_barriers(subject.flow)
        # Of all threads; warps look at the others again and again.
        waits = (block.last for block in subject.flow.blocks if block.exit == "barrier")
        self._barriers = {ins.index for ins in waits if ins is not None}

    @property
    def active(self) -> bool:
        return super().active and self._possible

    def keep(self, room: Room) -> Kept:
        return {"touched": zeros(room.warps), "gone": zeros(room.warps)}

    def sight(self, ins: Instruction, kept: Kept, record: np.void) -> dict[str, object]:
        ends = table.find(ins).ends == "branch"
        others = "ends while others of this CTA wait at a barrier"
        return {"deed": others if ends else "waits for threads of this CTA that have ended"}

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        b.call("absentround", "void", checks, passed, fresh)

    def begin(self, b: Builder) -> None:
        b.call("absentbegin", "void", *HERE)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.space == "shared" or at.kind != "load":
            b.call("touched", "void", b.mask(condition), *HERE)
        return condition

    def decides(self, b: Builder, branch: Instruction) -> None:
        if branch.opcode.base in ("ret", "exit"):
            b.call("ends", "void", b.mask(b.condition(branch)), *at_site(branch))
        elif branch.index in self._barriers:
            b.call("comes", "void", b.mask(b.condition(branch)), *at_site(branch))

    def arrives(self, b: Builder, ins: Instruction, number: Operand, opens: Value) -> None:
        b.call("comesnamed", "void", b.mask(b.condition(ins)), *at_site(ins))


def _may_miss_barriers(flow: Flow) -> bool:
    """True if some threads may end where others of the CTA come to a barrier."""
    varying = varies_in_cta(flow)
    ends, comes = _ways(flow, to_exit=True), _ways(flow, to_exit=False)
    for block in flow.blocks:
        guard = block.last.guard if block.exit == "branch" and block.last is not None else None
        if guard in varying:
            ways = (block.target, block.next)
            if any(ends[one] and comes[other] for one, other in (ways, ways[::-1])):
                return True
    return False


def _ways(flow: Flow, to_exit: bool) -> dict[int, bool]:
    """Blocks, by number, from whose start control may come to the entry's end without a barrier, or
    else to a barrier."""

    def meets(block: Block) -> bool:
        named = any(i.opcode.base == "bar arrival" for i in block.instructions)
        return named or block.exit in ("barrier", "poll")

    found = {block.index: not to_exit and meets(block) for block in flow.blocks} | {EXIT: to_exit}
    changed = True
    while changed:
        changed = False
        for block in reversed(flow.blocks):
            if found[block.index] or (to_exit and meets(block)):
                continue
            ways = {"jump": (block.target,), "branch": (block.target, block.next)}
            if any(found[way] for way in ways.get(block.exit, (block.next,))):
                found[block.index] = changed = True
    return found


# -- native code ----------------------------------------------------------------------------------


def _word_of_warp(c: Code, name: str) -> Value:
    return c.item("i32", c.field(name), c.warp())


@code("absentround")
def new_round(c: Code) -> None:
    c.checks, passed, _ = c.takes("ptr", "i1", "i1")
    c.ret_if(c.invert(passed))
    for name in ("come_at", "gone_at"):
        c.put(name, c.constant("i32", 0))


@code("absentbegin")
def begin(c: Code) -> None:
    c.goes()
    for name in ("touched", "gone"):
        c.store(c.constant("i32", 0), _word_of_warp(c, name), 0, 4)


@code("touched")
def touch(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.goes()
    place = _word_of_warp(c, "touched")
    c.store(c.op("or", c.load("i32", 1, place, 0, 4), mask), place, 0, 4)


def _come(c: Code) -> Value:
    """Lanes that come to a barrier, of which nothing is left to be ordered."""
    (mask,) = c.takes("i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    place = _word_of_warp(c, "touched")
    rest = c.op("and", c.load("i32", 1, place, 0, 4), c.op("xor", mask, -1))
    c.store(rest, place, 0, 4)
    return mask


def _report(c: Code, mask: Value, by: Value) -> None:
    c.visits()
    with c.each_lane(mask) as (lane,):
        c.record("skipped-barrier", lane, c.constant("i64", 0), 0, 0, by)


@code("comes")
def come(c: Code) -> None:
    mask = _come(c)
    c.put("come_at", c.op("add", c.site, 1))
    by = c.field("gone_at")
    with c.when(c.compare("icmp ne", by, 0)):
        _report(c, mask, by)


@code("comesnamed")
def come_to_named(c: Code) -> None:
    """Warps count as whole there; where others are missing it never opens."""
    mask = _come(c)
    gone = c.load("i32", 1, _word_of_warp(c, "gone"), 0, 4)
    with c.when(c.compare("icmp ne", gone, 0)):
        _report(c, mask, c.constant("i32", 0))


@code("ends")
def end(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.looks()
    late = c.op("and", mask, c.load("i32", 1, _word_of_warp(c, "touched"), 0, 4))
    c.ret_if(c.compare("icmp eq", late, 0))
    place = _word_of_warp(c, "gone")
    c.store(c.op("or", c.load("i32", 1, place, 0, 4), late), place, 0, 4)
    c.put("gone_at", c.op("add", c.site, 1))
    by = c.field("come_at")
    with c.when(c.compare("icmp ne", by, 0)):
        _report(c, late, by)
