"""Helpers that hold asynchronous copies back until the kernel waits for them.

    queue_<bytes>(to, from, mask, size, checks, ctx): begin a copy, in the warp's open group
    queuecommit(checks, ctx), queuewait_<granule>[_awaited](keep, base, checks, ctx): close a group;
        let all but the last `keep` closed groups land, for which an mbarrier waits (awaited)
    queuebegin(checks, ctx): at the start of a CTA

So a kernel that waits too late, or for too few groups, reads what was there before.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..layout import WARP
from ..library import Helpers, family
from ..ptx import Instruction
from ..values import Value
from .check import HERE, POINTER, Check, Kept, Kind, Room, zeros
from .state import ENTRY_BYTES, QUEUE_BYTES, QUEUE_HEAD, QUEUE_LENGTH, load_field

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

    def copy(
        self,
        b: Builder,
        ins: Instruction,
        to: Value,
        source: Value,
        nbytes: int,
        mask: Value,
        sizes: Value,
    ) -> None:
        """It is put into the warp's queue."""
        name = f"queue_{nbytes}_{self.subject.granule}"
        b.call(name, "void", to, source, mask, sizes, "ptr %shared", *HERE)

    def commit(self, b: Builder) -> None:
        b.call("queuecommit", "void", *HERE)

    def wait(self, b: Builder, keep: int) -> None:
        self._land(b, keep, "")

    def land(self, b: Builder) -> None:
        self._land(b, -1, "_awaited")

    def _land(self, b: Builder, keep: int, how: str) -> None:
        name = f"queuewait_{self.subject.granule}{how}"
        b.call(name, "void", b.constant("i32", keep), "ptr %shared", *HERE)


def _queue() -> str:
    """Lines that set %queue and its counters' places."""
    return f"""{load_field("queues", "ptr")}  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %warp.wide = zext i32 %warp to i64
  %queue.offset = mul i64 %warp.wide, {QUEUE_BYTES}
  %queue = getelementptr i8, ptr %queues, i64 %queue.offset
  %last.at = getelementptr i8, ptr %queue, i64 4
  %group.at = getelementptr i8, ptr %queue, i64 8
"""


def _entry(number: str) -> str:
    """Lines that set %entry to the place of an entry, and %e.<field> to those of its fields."""
    fields = {"mask": _MASK, "nbytes": _NBYTES, "to": _TO, "from": _FROM, "size": _SIZE}
    return f"""  %e.number = and i32 {number}, {QUEUE_LENGTH - 1}
  %e.wide = zext i32 %e.number to i64
  %e.bytes = mul i64 %e.wide, {ENTRY_BYTES}
  %e.offset = add i64 %e.bytes, {QUEUE_HEAD}
  %entry = getelementptr i8, ptr %queue, i64 %e.offset
""" + "".join(
        f"  %e.{field} = getelementptr i8, ptr %entry, i64 {offset}\n"
        for field, offset in fields.items()
    )


@family("queuebegin")
def begin(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_queue()}  store <3 x i32> zeroinitializer, ptr %queue, align 4
  ret void
}}
"""


@family("queue")
def enqueue(helpers: Helpers, name: str, nbytes: str, granule: str) -> str:
    """Where the queue is full, the oldest group lands early."""
    wait = helpers.use(f"queuewait_{granule}")
    arguments = "<32 x i32> %to, <32 x i64> %from, i32 %mask, <32 x i32> %size"
    return f"""
define internal void @{name}({arguments}, ptr %base, ptr %checks, ptr %ctx) #0 {{
{_queue()}  %first = load i32, ptr %queue, align 4
  %last = load i32, ptr %last.at, align 4
  %group = load i32, ptr %group.at, align 4
  %length = sub i32 %last, %first
  %full = icmp uge i32 %length, {QUEUE_LENGTH - 1}
  br i1 %full, label %make_room, label %append
make_room:
  call void @{wait}(i32 -1, ptr %base, ptr %checks, ptr %ctx)
  br label %append
append:
{_entry("%last")}  store i32 %group, ptr %entry, align 4
  store i32 %mask, ptr %e.mask, align 4
  store i32 {nbytes}, ptr %e.nbytes, align 4
  store <32 x i32> %to, ptr %e.to, align 64
  store <32 x i64> %from, ptr %e.from, align 64
  store <32 x i32> %size, ptr %e.size, align 64
  %last.next = add i32 %last, 1
  store i32 %last.next, ptr %last.at, align 4
  ret void
}}
"""


@family("queuecommit")
def commit(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_queue()}  %group = load i32, ptr %group.at, align 4
  %next = add i32 %group, 1
  store i32 %next, ptr %group.at, align 4
  ret void
}}
"""


@family("queuewait")
def wait(helpers: Helpers, name: str, granule: str, *how: str) -> str:
    """Groups are numbered from 0; %keep = -1 lets the open group land too."""
    cases, bodies = "", ""
    for nbytes in _SIZES:
        copy = helpers.use(f"copy_{nbytes}")
        land = helpers.use("_".join(["land", str(nbytes), granule, *how]))
        cases += f"i32 {nbytes}, label %copy{nbytes} "
        bodies += f"""copy{nbytes}:
  call void @{copy}(ptr %base, <32 x i32> %to, <32 x i64> %from, i32 %mask, <32 x i32> %size)
  call void @{land}(<32 x i32> %to, i32 %mask, ptr %checks, ptr %ctx)
  br label %landed
"""
    return f"""
define internal void @{name}(i32 %keep, ptr %base, ptr %checks, ptr %ctx) #0 {{
{_queue()}  %group = load i32, ptr %group.at, align 4
  %due = sub i32 %group, %keep
  br label %test
test:
  %first = load i32, ptr %queue, align 4
  %last = load i32, ptr %last.at, align 4
  %empty = icmp eq i32 %first, %last
  br i1 %empty, label %end, label %look
end:
  ret void
look:
{_entry("%first")}  %its = load i32, ptr %entry, align 4
  %ready = icmp slt i32 %its, %due
  br i1 %ready, label %take, label %end
take:
  %nbytes = load i32, ptr %e.nbytes, align 4
  %mask = load i32, ptr %e.mask, align 4
  %to = load <32 x i32>, ptr %e.to, align 64
  %from = load <32 x i64>, ptr %e.from, align 64
  %size = load <32 x i32>, ptr %e.size, align 64
  switch i32 %nbytes, label %landed [ {cases}]
{bodies}landed:
  %first.next = add i32 %first, 1
  store i32 %first.next, ptr %queue, align 4
  br label %test
}}
"""
