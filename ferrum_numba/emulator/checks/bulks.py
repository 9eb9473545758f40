"""The check "race" of bulk copies to global memory: what they read until somebody waits for them.

    bulkbegin(checks, ctx): at the start of a CTA
    bulkissue(mask, checks, ctx): lanes begin a copy
    bulkcommit(mask, checks, ctx): close a group
    bulkwait(keep, mask, checks, ctx): wait for all but the last `keep` groups
    bulkend(mask, checks, ctx, site): lanes end
    bulklog(area, element, checks, ctx) -> i1: a copy writes an element; false: there is no room
    bulkdone(keep, mask, checks, ctx): likewise for all but the last groups to have been written

A warp has a block of groups (groups.py); at byte 8 of it is an i32, a mask of the lanes that issue
copies, and at byte 12 how many entries its log has.  An entry is of elements, in a row, that copies
of a group write (`_ENTRY_BYTES`): the array's Area, the first and the last, and the group.  Groups
are kept for a warp, not for each lane: most often one lane issues all of them.
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
from .areas import Marked
from .check import HERE, POINTER, Check, Kept, Kind, Room, at_site, zeros
from .clocks import own_clock
from .code import Code, code
from .state import BULKS
from .tags import Marker
from .talks import cta_of

_LOG, _ENTRY_BYTES = 1024, 32
_FIRST, _LAST, _GROUP = 8, 16, 24


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
        Kind(
            "unfinished-bulk",
            "race",
            {
                "global": "reads {place}, which a bulk copy of warp {other_warp} of this CTA{there}"
                " may not have written yet: cp.async.bulk.wait_group.read waits for its reads"
                " alone; look for a cp.async.bulk.wait_group without .read, and a barrier behind it"
            },
        ),
    )
    fields: ClassVar = {"bulks": POINTER, "bulk_log": POINTER}

    @property
    def active(self) -> bool:
        sends = ({"bulk_group"} & i.opcode.modifiers for i in self.subject.instructions)
        return self.subject.clocks and any(sends)

    def keep(self, room: Room) -> Kept:
        return {
            "bulks": zeros(room.warps * groups.BLOCK_BYTES, np.uint8),
            "bulk_log": zeros(room.warps * _LOG * _ENTRY_BYTES, np.uint8),
        }

    def begin(self, b: Builder) -> None:
        b.call("bulkbegin", "void", *HERE)

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        if run.kind == "load" and "bulk_group" in run.ins.opcode.modifiers:
            b.call("bulkissue", "void", mask, *HERE)
        return mask

    def bulk_commit(self, b: Builder, ins: Instruction) -> None:
        b.call("bulkcommit", "void", b.mask(b.condition(ins)), *HERE)

    def bulk_wait(self, b: Builder, ins: Instruction, keep: int) -> None:
        given = (b.constant("i32", keep), b.mask(b.condition(ins)), *HERE)
        if "read" not in ins.opcode.modifiers:
            b.call("bulkdone", "void", *given)
        b.call("bulkwait", "void", *given)

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


@code("bulklog")
def log(c: Code) -> None:
    area, element = c.takes("ptr", "i64")
    c.goes()
    block, start = _block(c), _log(c)
    count, group = c.load("i32", 1, block, 12, 4), c.load("i32", 1, block, 0, 4)
    number = c.cast("ptrtoint", area, "i64")
    with c.when(c.compare("icmp ne", count, 0)):
        last = c.item("i8", start, c.op("mul", c.op("add", count, -1), _ENTRY_BYTES))
        follows = c.compare("icmp eq", c.load("i32", 1, last, _GROUP, 4), group)
        behind = c.op("add", c.load("i64", 1, last, _LAST, 8), 1)
        for one, other in ((c.load("i64", 1, last, 0, 8), number), (behind, element)):
            follows = c.op("and", follows, c.compare("icmp eq", one, other))
        with c.when(follows):
            c.store(element, last, _LAST, 8)
            c.ret(Value("true", "i1"))
    c.ret_if(c.compare("icmp uge", count, _LOG), Value("false", "i1"))
    entry = c.item("i8", start, c.op("mul", count, _ENTRY_BYTES))
    for value, offset in ((number, 0), (element, _FIRST), (element, _LAST), (group, _GROUP)):
        c.store(value, entry, offset, 4)
    c.store(c.op("add", count, 1), block, 12, 4)
    c.ret(Value("true", "i1"))


@code("bulkdone")
def done(c: Code) -> None:
    """Take the entries of groups that are over from the log; the others move up."""
    keep, mask = c.takes("i32", "i32")
    c.goes()
    block, start = _block(c), _log(c)
    c.ret_if(c.compare("icmp eq", c.op("and", mask, c.load("i32", 1, block, 8, 4)), 0))
    due, count = c.op("sub", c.load("i32", 1, block, 0, 4), keep), c.load("i32", 1, block, 12, 4)
    loop = c.loop(c.constant("i32", 0), c.constant("i32", 0))
    with loop as (i, left):
        loop.leave(c.compare("icmp uge", i, count), left)
        more, entry = c.op("add", i, 1), c.item("i8", start, c.op("mul", i, _ENTRY_BYTES))
        with c.when(c.compare("icmp sge", c.load("i32", 1, entry, _GROUP, 4), due)):
            to = c.item("i8", start, c.op("mul", left, _ENTRY_BYTES))
            c.store(c.load("i64", 4, entry, 0, 8), to, 0, 8)
            loop.again(more, c.op("add", left, 1))
        _finish(c, entry)
        loop.again(more, left)
    c.store(loop.results[0], block, 12, 4)


def _log(c: Code) -> Value:
    """The warp's log."""
    return c.item("i8", c.field("bulk_log"), c.op("mul", c.warp(), _LOG * _ENTRY_BYTES))


def _finish(c: Code, entry: Value) -> None:
    """The copies' writes become stores of this warp, made now."""
    its, own = Marker(c, "clocks"), c.op("add", cta_of(c), 1)
    first, last = (c.load("i64", 1, entry, offset, 8) for offset in (_FIRST, _LAST))
    marked = Marked(c.load("ptr", 1, entry, 0, 8), first, last)
    loop = c.loop(first)
    with loop as (e,):
        mark, null = marked.hold(c, e), Value("null", "ptr")
        with c.when(c.compare("icmp eq", mark, own)):
            for name, offset in (("hands", 4), ("times", 0)):
                there = c.of_area(marked.area, name)
                with c.when(c.compare("icmp ne", there, null)):
                    place = marked.hand(c, e) if offset else c.item("<2 x i32>", there, e)
                    tag = c.load("i32", 1, place, offset, 4)
                    with c.when(c.compare("icmp eq", tag, its.pending)):
                        c.store(its.mine, place, offset, 4)
                        if not offset:
                            c.store(c.load("i32", 1, c.field("time"), 0, 4), place, 4, 4)
        marked.give(c, e, mark)
        more = c.op("add", e, 1)
        loop.again_if(c.compare("icmp ule", more, last), more)


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
