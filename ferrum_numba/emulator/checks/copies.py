"""The check "race" of asynchronous copies, which are held back until the kernel waits for them.

    queue_<bytes>(to, from, mask, size, checks, ctx): begin a copy, in the warp's open group
    queuecommit(checks, ctx), queuewait_<granule>[_awaited](keep, base, checks, ctx): close a group;
        let all but the last `keep` closed groups land, for which an mbarrier waits (awaited)
    queuebegin(checks, ctx): at the start of a CTA

So a kernel that waits too late, or for too few groups, reads what was there before.  In the second
run of "order" they land at once, and it reads what comes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..hooks import Copy
from ..layout import LANES
from ..routine import VECTOR
from ..runtime.access import ADDRESSES
from ..values import Value
from .check import HERE, POINTER, Check, Kept, Kind, Room, zeros
from .code import Code, code
from .state import ENTRY_BYTES, QUEUE_BYTES, QUEUE_HEAD, QUEUE_LENGTH

_SIZES = (4, 8, 16)
# An entry: i32 group, mask, bytes; then <32 x i32> to, <32 x i64> from, <32 x i32> size.
_GROUP, _MASK, _NBYTES, _TO, _FROM, _SIZE = 0, 4, 8, 64, 192, 448


class Copies(Check):
    """Asynchronous copies (cp.async) that somebody does not wait for."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "pending-copy",
            "race",
            {
                "shared": "{place}: an asynchronous copy to here is still under way{by}; look for a"
                " cp.async.wait_group that is missing or leaves too many groups"
            },
        ),
    )
    fields: ClassVar = {"queues": POINTER}  # copies under way, one queue a warp

    def keep(self, room: Room) -> Kept:
        return {"queues": zeros(room.warps * QUEUE_BYTES, np.uint8)}

    def begin(self, b: Builder) -> None:
        b.call("queuebegin", "void", *HERE)

    def copy(self, b: Builder, at: Copy, mask: Value) -> None:
        """Put the copy into the warp's queue."""
        name = f"queue_{at.nbytes}_{self.subject.granule}"
        b.call(name, "void", at.to, at.source, mask, at.sizes, "ptr %shared", *HERE)

    def commit(self, b: Builder) -> None:
        b.call("queuecommit", "void", *HERE)

    def wait(self, b: Builder, keep: int) -> None:
        self._land(b, keep, "")

    def land(self, b: Builder) -> None:
        self._land(b, -1, "_awaited")

    def _land(self, b: Builder, keep: int, how: str) -> None:
        name = f"queuewait_{self.subject.granule}{how}"
        b.call(name, "void", b.constant("i32", keep), "ptr %shared", *HERE)


def _queue(c: Code) -> Value:
    """The warp's: i32 first, i32 behind the last, i32 number of the open group; then entries."""
    number = c.op("mul", c.cast("zext", c.warp(), "i64"), QUEUE_BYTES)
    return c.item("i8", c.field("queues"), number)


def _entry(c: Code, queue: Value, number: Value) -> Value:
    slot = c.cast("zext", c.op("and", number, QUEUE_LENGTH - 1), "i64")
    return c.item("i8", queue, c.op("add", c.op("mul", slot, ENTRY_BYTES), QUEUE_HEAD))


@code("queuebegin")
def begin(c: Code) -> None:
    c.goes()
    c.store(Value("zeroinitializer", "i32", 3), _queue(c), 0, 4)


@code("queue")
def enqueue(c: Code, nbytes: str, granule: str) -> None:
    """Put a copy into the queue; where that is full, the oldest group lands early."""
    to, source, mask, size, base = c.takes(VECTOR, ADDRESSES["global"], "i32", VECTOR, "ptr")
    c.goes()
    queue = _queue(c)
    first, last, group = (c.load("i32", 1, queue, 4 * i, 4) for i in range(3))
    full = c.compare("icmp uge", c.op("sub", last, first), QUEUE_LENGTH - 1)
    with c.when(full):
        c.call(f"queuewait_{granule}", "void", c.constant("i32", -1), base, c.checks, c.ctx)
    entry, width = _entry(c, queue, last), c.constant("i32", int(nbytes))
    for value, place in ((group, _GROUP), (mask, _MASK), (width, _NBYTES)):
        c.store(value, entry, place, 4)
    for value, place in ((to, _TO), (source, _FROM), (size, _SIZE)):
        c.store(value, entry, place, 64)
    c.store(c.op("add", last, 1), queue, 4, 4)
    with c.when(c.compare("icmp ne", c.field("reverse"), 0)):
        c.call(f"queuewait_{granule}", "void", c.constant("i32", -1), base, c.checks, c.ctx)


@code("queuecommit")
def commit(c: Code) -> None:
    c.goes()
    queue = _queue(c)
    c.store(c.op("add", c.load("i32", 1, queue, 8, 4), 1), queue, 8, 4)


@code("queuewait")
def wait(c: Code, granule: str, *how: str) -> None:
    """Groups are numbered from 0; keep = -1 lets the open group land too."""
    keep, base = c.takes("i32", "ptr")
    c.goes()
    queue = _queue(c)
    due = c.op("sub", c.load("i32", 1, queue, 8, 4), keep)
    loop = c.loop()
    with loop:
        first, last = (c.load("i32", 1, queue, 4 * i, 4) for i in range(2))
        loop.leave(c.compare("icmp eq", first, last))
        entry = _entry(c, queue, first)
        group, mask, nbytes = (c.load("i32", 1, entry, p, 4) for p in (_GROUP, _MASK, _NBYTES))
        loop.leave(c.compare("icmp sge", group, due))
        to, size = (c.load("i32", LANES, entry, p, 64) for p in (_TO, _SIZE))
        source = c.load("i64", LANES, entry, _FROM, 64)
        for width in _SIZES:
            with c.when(c.compare("icmp eq", nbytes, width)):
                c.call(f"copy_{width}", "void", base, to, source, mask, size)
                land = "_".join(["land", str(width), granule, *how])
                c.call(land, "void", to, mask, c.checks, c.ctx)
        c.store(c.op("add", first, 1), queue, 0, 4)
        loop.again()
