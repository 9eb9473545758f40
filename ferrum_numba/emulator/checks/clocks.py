"""The check "race" where warps wait for some of the others: each has a vector clock.

    clocks_<init>(checks, passed, fresh): a CTA begins (fresh), or all warps passed a barrier
    publish_<own|copies>(checks, ctx, object): what this warp did, or its copies that have landed,
        comes before what a warp does that acquires the object
    landed(checks, ctx), bulkwait(checks, ctx): this warp has waited for its copies to shared, or to
        global memory
    promote(checks, object), acquire(checks, ctx, object): the barrier opens; this warp goes on
    object_<publish|copies|promote|acquire|renew>(addresses, mask, checks, ctx): that for mbarriers
    exchange(checks, ctx): an atomic operation: it publishes and acquires
    readers_<bytes>_<granule>(addresses, mask, checks, ctx, site): before a store: who still reads
    fence(checks, ctx): a warp makes its stores visible to the asynchronous proxy
    fenced_<granule>(addresses, mask, checks, ctx, site): before a read by that proxy

Time is a counter of the whole worker that moves at each event ("stamp" in state.py).  A clock
holds, for each warp, for its copies and for its products (wgmma), the first time that does not come
before this warp's next instruction; so an access is a race where its tag is at or above that.  Each
warp has a plane of its own with the times of its loads, for many may load one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..hooks import Access
from ..layout import WAIT_TRIED
from ..opcodes.barrier import uniform
from ..ptx import Instruction, Operand
from ..routine import VECTOR
from ..values import EachLane, Text, Value
from .check import HERE, LONG, POINTER, Check, Kept, Kind, Room, at_site, zeros
from .code import Code, code
from .state import (
    AGENTS,
    ATOMICS,
    AWAITED,
    BULKS,
    CLOCK_BYTES,
    COPIES,
    LANDED,
    LAST_EPOCH,
    MBARRIERS,
    OBJECT_BYTES,
    OBJECTS,
    PENDING,
    PRODUCTS,
    STEP,
    number_of,
    offset,
)

_ACQUIRED, _PUBLISHED, PHASE = 64, 64 + CLOCK_BYTES, 4  # of an object; at 0 is its address + 1


class Clocks(Check):
    """Order of warps that wait for some of the others, by a vector clock for each warp."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "barrier-reuse",
            "race",
            {
                "register": "comes to a named barrier although nothing says that it has opened for"
                " those that came before, so that it may open too early or never; wait for them, or"
                " take a barrier of another number"
            },
        ),
    )
    # clocks, objects: see state.py.  planes: for each warp, then for the products of each, then for
    # its bulk copies, when it last loaded each granule; latest: its last load of all.  fences: of
    # each warp the time of its last proxy fence.
    fields: ClassVar = {
        "clocks": POINTER,
        "objects": POINTER,
        "planes": POINTER,
        "plane_bytes": LONG,
        "latest": POINTER,
        "fences": POINTER,
    }

    @property
    def active(self) -> bool:
        return self.subject.clocks

    def keep(self, room: Room) -> Kept:
        return {
            "clocks": zeros(room.warps * CLOCK_BYTES, np.uint8),
            "objects": zeros(OBJECTS * OBJECT_BYTES, np.uint8),
            "planes": zeros(3 * room.warps * room.words),
            "plane_bytes": 4 * room.words,
            "latest": zeros(3 * 32),
            "fences": zeros(room.warps),
        }

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        b.call(f"clocks_{self.subject.init:d}", "void", checks, passed, fresh)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        """Take an atomic operation that returns something for a lock."""
        if at.kind == "atomic" and table.find(at.ins).writes:
            b.call("exchange", "void", *HERE)
        return condition

    def fence(self, b: Builder, ins: Instruction) -> None:
        if {"proxy", "async"} <= ins.opcode.modifiers:
            b.call("fence", "void", *HERE)

    def wait(self, b: Builder, keep: int) -> None:
        b.call("landed", "void", *HERE)

    def arrives(self, b: Builder, ins: Instruction, number: Operand, opens: Value) -> None:
        """Publish at a cluster's barrier: who waits knows what all warps of this CTA did."""
        which = uniform(b, number, ins)
        if "cluster" not in ins.opcode.modifiers:
            b.call("reuse", "void", which, *at_site(ins))
        b.call("publish_own", "void", *HERE, which)
        with b.when(Value("true", "i1") if "cluster" in ins.opcode.modifiers else opens):
            b.call("promote", "void", "ptr %checks", which)

    def opened(self, b: Builder, ins: Instruction, number: Operand, waits: Value) -> None:
        which = uniform(b, number, ins)
        with b.when(b.invert(waits)):
            b.call("acquire", "void", *HERE, which)

    def mbarrier(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.kind != "wait":
            self._object(b, at.kind, at.address, b.mask(condition))
        return condition

    def changed(self, b: Builder, address: Value, mask: Value) -> None:
        self._object(b, "promote", address, mask)

    def tries(self, b: Builder, ins: Instruction, over: Value) -> Value:
        """A wait may come too early, or give up; where the kernel does not try again, that is a
        race.  In the second run of "order" none gives up."""
        zero = b.constant("i32", 0)
        seen = (
            b.load("i32", 1, *at, 4)
            for at in (("%ctx", WAIT_TRIED), ("%checks", offset("reverse")))
        )
        tried = b.compare("icmp ne", b.op("or", *seen), zero)
        result = b.op("and", over, tried)
        some = b.compare("icmp ne", b.mask(result), zero)
        b.store(b.cast("zext", b.invert(some), "i32"), "%ctx", WAIT_TRIED, 4)
        return result

    def passes(self, b: Builder, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        self._object(b, "acquire", address, passed)
        return over

    @staticmethod
    def _object(b: Builder, kind: str, address: Value, mask: Value) -> None:
        b.call(f"object_{kind}", "void", b.vector(address), mask, *HERE)


def own_clock(c: Code) -> Value:
    """The clock of the warp."""
    number = c.op("mul", c.cast("zext", c.warp(), "i64"), CLOCK_BYTES)
    return c.item("i8", c.field("clocks"), number)


def _clock(c: Code, place: Value, start: int = 0) -> Value:
    """A clock's times."""
    return c.load("i32", AGENTS, place, start, 64)


def _object(c: Code, number: Value) -> Value:
    wide = c.op("mul", c.cast("zext", number, "i64"), OBJECT_BYTES)
    return c.item("i8", c.field("objects"), wide)


def _with(c: Code, times: Value, agent: Value, time: Value) -> Value:
    """A clock with another time for one agent."""
    return Value(c.emit(f"insertelement {times}, {time}, {agent}"), "i32", AGENTS)


def moved_on(c: Code, init: str, planes: bool) -> tuple[Value, Value]:
    """Condition that a CTA begins, and the time that comes next; returns where nothing moves on.

    Before the time would overflow, where a CTA begins, all tags go.  Without "init" every tag is of
    this CTA.
    """
    (c.checks,) = c.takes("ptr")
    moves, fresh = c.takes("i1", "i1")
    c.ret_if(c.invert(moves))
    base, stamp = c.field("base"), c.field("stamp")
    late = c.compare("icmp uge", stamp, LAST_EPOCH)
    with c.when(c.op("and", late, fresh)) as cleared:
        c.clear_bytes(c.field("tags"), c.field("tag_bytes"))
        if planes:
            every = c.cast("zext", c.op("mul", c.of_worker("warps"), 3), "i64")
            c.clear_bytes(c.field("planes"), c.op("mul", every, c.field("plane_bytes")))
        cleared.give(c.constant("i32", 0))
    now = c.op("add", cleared.otherwise(stamp), STEP)
    if init == "1":  # what has the tag `base` is older than all that the CTA does
        c.put("base", c.select(fresh, now, base))
        now = c.op("add", now, c.select(fresh, c.constant("i32", STEP), 0))
    c.put("stamp", now)
    return fresh, now


@code("clocks")
def clocks(c: Code, init: str) -> None:
    fresh, now = moved_on(c, init, planes=True)
    warps, own = c.of_worker("warps"), c.field("clocks")
    with c.when(fresh):
        c.clear_bytes(c.field("objects"), c.constant("i64", OBJECTS * OBJECT_BYTES))
        c.clear_bytes(c.field("latest"), c.constant("i64", 4 * 3 * 32))
    start = c.select(fresh, c.vector(now, AGENTS), 0)

    def place(warp: Value) -> Value:
        return c.item("i8", own, c.op("mul", warp, CLOCK_BYTES))

    # What all warps together know, and what each has done; where a CTA begins, nothing.
    loop = c.loop(c.constant("i32", 0), start)
    with loop as (w, known):
        theirs = _with(c, _clock(c, place(w)), w, now)
        both = c.intrinsic("llvm.umax", known, theirs)
        more = c.op("add", w, 1)
        all_of_it = c.select(fresh, known, both)
        loop.again_if(c.compare("icmp ult", more, warps), more, all_of_it)
    value = loop.results[1]
    loop = c.loop(c.constant("i32", 0))
    with loop as (w,):
        c.store(_with(c, value, w, c.constant("i32", PENDING)), place(w), 0, 64)
        more = c.op("add", w, 1)
        loop.again_if(c.compare("icmp ult", more, warps), more)


@code("publish")
def publish(c: Code, what: str) -> None:
    """Publish the warp's clock, then advance it: later accesses get a later time."""
    c.goes()
    (which,) = c.takes("i32")
    its, warp, now = _object(c, which), c.warp(), c.tick()
    if what == "copies":
        none = Value("zeroinitializer", "i32", AGENTS)
        mine = _with(c, none, c.op("add", warp, COPIES), now)
    else:
        mine = _with(c, _clock(c, own_clock(c)), warp, now)
    after = c.intrinsic("llvm.umax", _clock(c, its, _PUBLISHED), mine)
    c.store(after, its, _PUBLISHED, 64)


@code("landed")
def landed(c: Code) -> None:
    """The warp has waited for its copies: those that have landed come before what it does next."""
    c.goes()
    agent = c.item("i32", own_clock(c), c.op("add", c.warp(), COPIES))
    c.store(c.tick(), agent, 0, 4)


@code("reuse")
def reuse(c: Code) -> None:
    """See that whoever comes to a barrier knows what those knew for whom it has opened last."""
    (which,) = c.takes("i32")
    c.looks()
    own, its = own_clock(c), _object(c, which)
    mine, theirs = c.load("i32", 32, own, 0, 64), c.load("i32", 32, its, _ACQUIRED, 64)
    c.ret_if(c.compare("icmp eq", c.mask(c.compare("icmp ugt", theirs, mine)), 0))
    c.visits()
    c.record("barrier-reuse", c.constant("i32", 0), c.constant("i64", 0), 0)


@code("promote")
def promote(c: Code) -> None:
    c.checks, which = c.takes("ptr", "i32")
    its = _object(c, which)
    c.store(_clock(c, its, _PUBLISHED), its, _ACQUIRED, 64)


@code("acquire")
def acquire(c: Code) -> None:
    c.goes()
    (which,) = c.takes("i32")
    own = own_clock(c)
    after = c.intrinsic("llvm.umax", _clock(c, own), _clock(c, _object(c, which), _ACQUIRED))
    c.store(after, own, 0, 64)


@code("exchange")
def exchange(c: Code) -> None:
    """Publish and acquire, whatever the order and scope: an atomic operation may be a lock."""
    c.goes()
    which = c.constant("i32", ATOMICS)
    c.call("publish_own", "void", c.checks, c.ctx, which)
    c.call("promote", "void", c.checks, which)
    c.call("acquire", "void", c.checks, c.ctx, which)


def find_object(c: Code, objects: Value, nbytes: int, key: Value, first: int, last: int) -> Value:
    """The object of a key, of those numbered from `first` on, or a free one, which becomes its own;
    where there are too many keys, they share the last."""
    loop = c.loop(c.constant("i32", first))
    with loop as (i,):
        its = c.load("i32", 1, c.item("i8", objects, c.op("mul", i, nbytes)), 0, 4)
        ours, free = c.compare("icmp eq", its, key), c.compare("icmp eq", its, 0)
        over = c.compare("icmp eq", i, last)
        loop.leave(c.op("or", c.op("or", ours, free), over), i)
        loop.again(c.op("add", i, 1))
    (number,) = loop.results
    c.store(key, c.item("i8", objects, c.op("mul", number, nbytes)), 0, 4)
    return number


def flips(c: Code, address: Value, its: Value) -> Value:
    """True if an mbarrier's phase has changed since this was asked last."""
    byte = c.item("i8", c.of_worker("shared"), c.op("add", address, 7))
    phase = c.cast("zext", c.op("and", c.load("i8", 1, byte, 0, 1), 32), "i32")
    before = c.load("i32", 1, its, PHASE, 4)
    c.store(phase, its, PHASE, 4)
    return c.compare("icmp ne", phase, before)


@contextmanager
def each_place(c: Code) -> Iterator[tuple[EachLane, Value]]:
    """Take places and lanes; a loop over the places, once for all lanes that name it in a row."""
    address, mask = c.takes(VECTOR, "i32")
    c.goes()
    places = c.spread(address)
    lanes = c.each_lane(mask, c.constant("i32", -1))
    with lanes as (lane, before):
        place = places(lane)
        lanes.next_if(c.compare("icmp eq", place, before), place)
        yield lanes, place
        lanes.next(place)


@code("object")
def each_object(c: Code, what: str) -> None:
    with each_place(c) as (_, place):
        key = c.op("add", place, 1)
        which = find_object(c, c.field("objects"), OBJECT_BYTES, key, MBARRIERS, OBJECTS - 1)
        its = _object(c, which)
        if what == "renew":
            c.store(c.constant("i32", 0), its, PHASE, 4)
            for clock in (_ACQUIRED, _PUBLISHED):
                c.store(Value("zeroinitializer", "i32", AGENTS), its, clock, 64)
        elif what in ("promote", "acquire"):  # the last to arrive may have been of another CTA
            with c.when(flips(c, place, its)):
                c.call("promote", "void", c.checks, which)
            if what == "acquire":
                c.call("acquire", "void", c.checks, c.ctx, which)
        else:
            name = {"publish": "publish_own", "copies": "publish_copies"}.get(what, what)
            c.call(name, "void", c.checks, c.ctx, which)


@code("readers")
def readers(c: Code, nbytes: str, granule: str) -> None:
    """Compare a store with each plane; one whose last load comes before it has nothing to say."""
    address, mask = c.takes(VECTOR, "i32")
    c.looks()
    count, shift = max(int(nbytes) // int(granule), 1), int(granule).bit_length() - 1
    places, seen, planes = c.spread(address), own_clock(c), c.field("planes")
    latest, plane_bytes = c.field("latest"), c.field("plane_bytes")
    warps = c.of_worker("warps")
    every = c.op("mul", warps, 3)
    loop = c.loop(c.constant("i32", 0))
    with loop as (p,):
        loop.leave(c.compare("icmp uge", p, every))
        more = c.op("add", p, 1)
        of_warp, sort = c.op("urem", p, warps), c.op("udiv", p, warps)
        first = [c.constant("i32", n) for n in (0, PRODUCTS, BULKS)]
        agent = c.op("add", of_warp, _one_of(c, sort, first))
        limit = c.load("i32", 1, c.item("i32", seen, agent), 0, 4)
        newest = c.load("i32", 1, c.item("i32", latest, p), 0, 4)
        with c.when(c.compare("icmp ult", newest, limit)):
            loop.again(more)
        plane = c.item("i8", planes, c.op("mul", c.cast("zext", p, "i64"), plane_bytes))
        with c.each_lane(mask) as (lane,):
            place = places(lane)
            times = c.load("i32", count, c.item("i32", plane, c.op("lshr", place, shift)), 0, 4)
            with c.when(any_of(c, c.compare("icmp uge", times, limit))):
                c.visits()
                reader = c.op("shl", of_warp, 1)
                names = ("race", "pending-product", "pending-bulk")
                kind = _one_of(c, sort, [c.constant("i32", number_of(name)) for name in names])
                c.record(kind, lane, place, int(nbytes), c.op("or", reader, STEP))
        loop.again(more)


def _one_of(c: Code, sort: Value, choices: Sequence[Value]) -> Value:
    """The first, second or third for a load of a warp, of its products, of its bulk copies."""
    late = c.select(c.compare("icmp eq", sort, 1), choices[1], choices[2])
    return c.select(c.compare("icmp eq", sort, 0), choices[0], late)


def any_of(c: Code, condition: Value) -> Value:
    """True if a condition holds in any element."""
    if condition.n == 1:
        return condition
    bits = Value(c.emit(f"bitcast {condition} to i{condition.n}"), f"i{condition.n}")
    return c.compare("icmp ne", bits, 0)


# -- the asynchronous proxy -----------------------------------------------------------------------


@code("fence")
def fence(c: Code) -> None:
    c.goes()
    c.store(c.field("stamp"), c.item("i32", c.field("fences"), c.warp()), 0, 4)
    c.tick()


@code("fenced")
def fenced(c: Code, granule: str) -> None:
    """Test each chunk's first granule: stored in the ordinary way, and no fence since?

    The fence of the warp that stored counts, and that of the warp that reads.  cp.async writes in
    the ordinary way, too, and only the reader can fence what an mbarrier waited for.  Behind
    cp.async.wait_group and a barrier no compiler fences; there it is not asked for.
    """
    address, mask = c.takes(VECTOR, "i32")
    c.looks()
    active, fences, zero = c.lanes(mask), c.field("fences"), c.constant("i32", 0)
    index = c.op("lshr", address, int(granule).bit_length() - 1)
    tags = c.gather("i32", c.item("i32", c.field("tags"), index), active, zero, 4)
    kind = c.op("and", tags, LANDED | AWAITED | 1)
    copied = c.compare("icmp eq", kind, LANDED | AWAITED | 1)
    candidate = c.op("or", c.compare("icmp eq", kind, 1), copied)
    of_cta = c.compare("icmp uge", tags, c.field("base"))
    arrived = c.compare("icmp ult", tags, PENDING)
    for condition in (of_cta, arrived, active):
        candidate = c.op("and", candidate, condition)
    writer = c.op("lshr", c.op("and", tags, 63), 1)
    theirs = c.gather("i32", c.item("i32", fences, writer), candidate, zero, 4)
    own = c.load("i32", 1, c.item("i32", fences, c.warp()), 0, 4)
    time = c.op("and", tags, -256)
    late = c.op("or", c.compare("icmp ult", theirs, time), copied)
    late = c.op("and", late, c.compare("icmp ugt", time, own))
    bad = c.mask(c.op("and", late, candidate))
    c.ret_if(c.compare("icmp eq", bad, 0))
    c.visits()
    places, found = c.spread(address), c.spread(tags)
    with c.each_lane(bad) as (lane,):
        c.record("missing-fence", lane, places(lane), 16, found(lane))
