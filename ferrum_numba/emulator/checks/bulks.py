"""The check "race" of bulk copies to global memory: what they read until somebody waits for them.

    bulkbegin(checks, ctx): at the start of a CTA
    bulkissue(mask, checks, ctx): lanes begin a copy
    bulkcommit(mask, checks, ctx): close a group
    bulkwait(keep, mask, checks, ctx): wait for all but the last `keep` groups
    bulkend(mask, checks, ctx, site): lanes end

A warp has a block of groups (groups.py); at byte 8 of it is an i32, a mask of the lanes that issue
copies.  Groups are kept for a warp, not for each lane: most often one lane issues all of them.
Source: PTX ISA, "cp.async.bulk.commit_group", "cp.async.bulk.wait_group".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..hooks import Run
from ..ptx import Instruction
from ..values import Value
from . import groups
from .check import HERE, POINTER, Check, Kept, Kind, Room, at_site, zeros
from .clocks import own_clock
from .code import Code, code
from .state import BULKS


class Bulks(Check):
    """Shared memory that bulk copies to global memory may still read."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "pending-bulk",
            "race",
            {
                "shared": "writes {place}, which a bulk copy to global memory{by} may still read;"
                " look for a cp.async.bulk.wait_group that is missing, leaves too many groups, or"
                " comes before the group's commit_group",
                "register": "ends while a bulk copy may still read the CTA's shared memory, which"
                " the next CTA is given; look for a missing cp.async.bulk.wait_group",
            },
        ),
    )
    fields: ClassVar = {"bulks": POINTER}

    @property
    def active(self) -> bool:
        sends = ({"bulk_group"} & i.opcode.modifiers for i in self.subject.instructions)
        return self.subject.clocks and any(sends)

    def keep(self, room: Room) -> Kept:
        return {"bulks": zeros(room.warps * groups.BLOCK_BYTES, np.uint8)}

    def begin(self, b: Builder) -> None:
        b.call("bulkbegin", "void", *HERE)

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        if run.kind == "load":
            b.call("bulkissue", "void", mask, *HERE)
        return mask

    def bulk_commit(self, b: Builder, ins: Instruction) -> None:
        b.call("bulkcommit", "void", b.mask(b.condition(ins)), *HERE)

    def bulk_wait(self, b: Builder, ins: Instruction, keep: int) -> None:
        b.call("bulkwait", "void", b.constant("i32", keep), b.mask(b.condition(ins)), *HERE)

    def decides(self, b: Builder, branch: Instruction) -> None:
        if branch.opcode.base in ("ret", "exit"):
            b.call("bulkend", "void", b.mask(b.condition(branch)), *at_site(branch))


def _block(c: Code) -> Value:
    """The warp's memory."""
    return c.item("i8", c.field("bulks"), c.op("mul", c.warp(), groups.BLOCK_BYTES))


def _agent(c: Code) -> Value:
    """Address of the time of the warp's bulk copies that is known to itself."""
    return c.item("i32", own_clock(c), c.op("add", c.warp(), BULKS))


@code("bulkbegin")
def begin(c: Code) -> None:
    c.goes()
    c.store(Value("zeroinitializer", "i32", 4), _block(c), 0, 16)


@code("bulkissue")
def issue(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.goes()
    block = _block(c)
    c.store(c.op("or", c.load("i32", 1, block, 8, 4), mask), block, 8, 4)


@code("bulkcommit")
def commit(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.goes()
    c.ret_if(c.compare("icmp eq", mask, 0))
    groups.commit(c, _block(c))


@code("bulkwait")
def wait(c: Code) -> None:
    keep, mask = c.takes("i32", "i32")
    c.goes()
    block = _block(c)
    c.ret_if(c.compare("icmp eq", c.op("and", mask, c.load("i32", 1, block, 8, 4)), 0))
    groups.wait(c, block, keep, _agent(c))


@code("bulkend")
def end(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    plane = c.op("add", c.op("shl", c.of_worker("warps"), 1), c.warp())
    last = c.load("i32", 1, c.item("i32", c.field("latest"), plane), 0, 4)
    c.ret_if(c.compare("icmp ult", last, c.load("i32", 1, _agent(c), 0, 4)))
    c.visits()
    c.record(
        "pending-bulk", c.intrinsic("llvm.cttz", mask, extra="i1 false"), c.constant("i64", 0), 0
    )
