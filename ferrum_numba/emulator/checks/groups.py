"""Groups of a warp's asynchronous work, which are done in order.

A group's number and its time tell what has been waited for.  A warp has a block of memory: i32 how
many groups were committed, i32 how many of them are over; from byte 32 the times of the last eight.
"""

from __future__ import annotations

from ..values import Value
from .code import Code

BLOCK_BYTES = 64


def commit(c: Code, block: Value) -> None:
    """Close a group."""
    count = c.load("i32", 1, block, 0, 4)
    c.store(c.tick(), _time(c, block, count), 0, 4)
    c.store(c.op("add", count, 1), block, 0, 4)


def wait(c: Code, block: Value, keep: Value, known: Value) -> None:
    """Wait for all but the last `keep` groups.  known: where their last time goes, an address."""
    count, over = (c.load("i32", 1, block, 4 * i, 4) for i in range(2))
    due = c.op("sub", count, keep)
    with c.when(c.compare("icmp sgt", due, over)):
        c.store(due, block, 4, 4)
        c.store(c.load("i32", 1, _time(c, block, c.op("add", due, 7)), 0, 4), known, 0, 4)


def _time(c: Code, block: Value, group: Value) -> Value:
    """Address of the time of one of the last eight groups."""
    return c.item("i8", block, c.op("add", c.op("shl", c.op("and", group, 7), 2), 32))
