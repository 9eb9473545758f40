"""Helpers of the check "race" where warps wait for some of the others: each has a vector clock.

    clocks(checks, moves, fresh): a CTA begins (fresh), or all warps passed a barrier (moves)
    publish_<own|copies>(checks, ctx, object): what this warp did, or its copies that have landed,
        comes before what a warp does that acquires the object
    landed(checks, ctx), bulkwait(checks, ctx): this warp has waited for its copies to shared, or to
        global memory
    promote(checks, object), acquire(checks, ctx, object): the barrier opens; this warp goes on
    object_<publish|copies|promote|acquire|renew>(addresses, mask, checks, ctx): that for mbarriers
    exchange(checks, ctx): an atomic operation: it publishes and acquires
    readers_<bytes>_<granule>(addresses, mask, checks, ctx, site): before a store: who still reads

Time is a counter of the whole worker that moves at each event ("stamp" in memory.py).  A clock
holds, for each warp, for its copies and for its products (wgmma), the first time that does not come
before this warp's next instruction; so an access is a race where its tag is at or above that.  Each
warp has a plane of its own with the times of its loads, for many may load one place.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..layout import WAIT_TRIED, WARP, state_offset
from ..library import Helpers, family
from ..opcodes.barrier import uniform
from ..ptx import Instruction, Operand
from ..values import Value
from .check import HERE, LONG, POINTER, Check, Kept, Room, zeros
from .records import ARGUMENTS, visit
from .state import (
    AGENTS,
    ATOMICS,
    CLOCK_BYTES,
    LAST_EPOCH,
    MBARRIERS,
    OBJECT_BYTES,
    OBJECTS,
    PENDING,
    STEP,
    load_field,
    number_of,
)

_V = f"<{AGENTS} x i32>"
_ACQUIRED, _PUBLISHED, _PHASE = 64, 64 + CLOCK_BYTES, 4  # of an object; at 0 is its address + 1


class Clocks(Check):
    """What brings some of the warps into an order."""

    asked = frozenset({"race"})
    # clocks, objects: see state.py.  planes: for each warp, then for the products of each warp,
    # when it last loaded each granule; latest: its last load of all.  fences: of each warp the
    # time of its last proxy fence.
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
            "planes": zeros(2 * room.warps * room.words),
            "plane_bytes": 4 * room.words,
            "latest": zeros(64),
            "fences": zeros(room.warps),
        }

    def round(self, b: Builder) -> str:
        clocks = b.helpers.use(f"clocks_{self.subject.init:d}")
        return f"  call void @{clocks}(ptr %checks, i1 %moves, i1 %fresh)\n"

    def access(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        nbytes: int,
        condition: Value | None,
        kind: str,
    ) -> Value | None:
        """An atomic operation that returns something may be a lock."""
        if kind == "atomic" and table.find(ins).writes:
            b.call("exchange", "void", *HERE)
        return condition

    def fence(self, b: Builder, ins: Instruction) -> None:
        if {"proxy", "async"} <= ins.opcode.modifiers:
            b.call("fence", "void", *HERE)

    def wait(self, b: Builder, keep: int) -> None:
        b.call("landed", "void", *HERE)

    def waited_for_bulk(self, b: Builder) -> None:
        """It counts as for all of them."""
        b.call("bulkwait", "void", *HERE)

    def arrives(self, b: Builder, ins: Instruction, number: Operand, opens: Value) -> None:
        which = uniform(b, number, ins)
        b.call("publish_own", "void", *HERE, which)
        with b.when(opens):
            b.call("promote", "void", "ptr %checks", which)

    def opened(self, b: Builder, ins: Instruction, number: Operand, waits: Value) -> None:
        which = uniform(b, number, ins)
        with b.when(b.invert(waits)):
            b.call("acquire", "void", *HERE, which)

    def mbarrier(
        self, b: Builder, ins: Instruction, address: Value, condition: Value | None, kind: str
    ) -> Value | None:
        if kind != "wait":
            self._object(b, kind, address, b.mask(condition))
        return condition

    def changed(self, b: Builder, address: Value, mask: Value) -> None:
        self._object(b, "promote", address, mask)

    def tries(self, b: Builder, ins: Instruction, over: Value) -> Value:
        """A try_wait may give up; where the kernel does not try again, that is a race."""
        if ins.opcode.base != "mbarrier.try_wait":
            return over
        zero = b.constant("i32", 0)
        tried = b.compare("icmp ne", b.load("i32", 1, "%ctx", WAIT_TRIED, 4), zero)
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


def _splat(name: str, value: str) -> str:
    return (
        f"  %{name}.one = insertelement {_V} poison, i32 {value}, i64 0\n"
        f"  %{name} = shufflevector {_V} %{name}.one, {_V} poison, {_V} zeroinitializer\n"
    )


def own_clock(number: str = "%warp") -> str:
    """Lines that set %seen to the clock of a warp."""
    return f"""{load_field("clocks", "ptr")}  %seen.wide = zext i32 {number} to i64
  %seen.offset = mul i64 %seen.wide, {CLOCK_BYTES}
  %seen = getelementptr i8, ptr %clocks, i64 %seen.offset
"""


def _warp() -> str:
    return f"""  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
"""


def _object(number: str) -> str:
    return f"""{load_field("objects", "ptr")}  %object.wide = zext i32 {number} to i64
  %object.offset = mul i64 %object.wide, {OBJECT_BYTES}
  %object = getelementptr i8, ptr %objects, i64 %object.offset
  %acquired.at = getelementptr i8, ptr %object, i64 {_ACQUIRED}
  %published.at = getelementptr i8, ptr %object, i64 {_PUBLISHED}
"""


def _maximum(helpers: Helpers) -> str:
    name = f"@llvm.umax.v{AGENTS}i32"
    helpers.declare(f"{_V} {name}({_V}, {_V})")
    return name


@family("clocks")
def clocks(helpers: Helpers, name: str, init: str) -> str:
    """Without "init" every tag is of this CTA."""
    helpers.declare("void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    keep = "  store i32 %base.next, ptr %base.at, align 4\n" if init == "1" else ""
    return f"""
define internal void @{name}(ptr %checks, i1 %moves, i1 %fresh) #0 {{
  br i1 %moves, label %move, label %over
over:
  ret void
move:
{load_field("stamp", "i32")}{load_field("base", "i32")}{load_field("worker", "ptr")}\
{load_field("clocks", "ptr")}{load_field("latest", "ptr")}{load_field("objects", "ptr")}\
{load_field("planes", "ptr")}{load_field("plane_bytes", "i64")}\
  %warps.at = getelementptr i8, ptr %worker, i64 {state_offset("warps")}
  %warps = load i32, ptr %warps.at, align 4
  %late = icmp uge i32 %stamp, {LAST_EPOCH}
  %wraps = and i1 %late, %fresh
  br i1 %wraps, label %clear, label %count
clear:
{load_field("tags", "ptr")}{load_field("tag_bytes", "i64")}\
  call void @llvm.memset.p0.i64(ptr %tags, i8 0, i64 %tag_bytes, i1 false)
  %both = shl i32 %warps, 1
  %both.wide = zext i32 %both to i64
  %all.planes = mul i64 %both.wide, %plane_bytes
  call void @llvm.memset.p0.i64(ptr %planes, i8 0, i64 %all.planes, i1 false)
  br label %count
count:
  %from = phi i32 [ %stamp, %move ], [ 0, %clear ]
  %next = add i32 %from, {STEP}
  store i32 %next, ptr %stamp.at, align 4
  %base.next = select i1 %fresh, i32 %next, i32 %base
{keep}{_splat("start", "%next")}  br i1 %fresh, label %forget, label %join
forget:
  call void @llvm.memset.p0.i64(ptr %objects, i8 0, i64 {OBJECTS * OBJECT_BYTES}, i1 false)
  call void @llvm.memset.p0.i64(ptr %latest, i8 0, i64 256, i1 false)
  br label %keep
join:
  %w = phi i32 [ 0, %count ], [ %w.next, %join ]
  %sum = phi {_V} [ zeroinitializer, %count ], [ %sum.next, %join ]
  %w.offset = mul i32 %w, {CLOCK_BYTES}
  %w.at = getelementptr i8, ptr %clocks, i32 %w.offset
  %w.seen = load {_V}, ptr %w.at, align 64
  %w.own = insertelement {_V} %w.seen, i32 %next, i32 %w
  %sum.next = call {_V} {_maximum(helpers)}({_V} %sum, {_V} %w.own)
  %w.next = add i32 %w, 1
  %w.more = icmp ult i32 %w.next, %warps
  br i1 %w.more, label %join, label %keep
keep:
  %value = phi {_V} [ %start, %forget ], [ %sum.next, %join ]
  br label %put
put:
  %k = phi i32 [ 0, %keep ], [ %k.next, %put ]
  %k.offset = mul i32 %k, {CLOCK_BYTES}
  %k.at = getelementptr i8, ptr %clocks, i32 %k.offset
  %k.own = insertelement {_V} %value, i32 {PENDING}, i32 %k
  store {_V} %k.own, ptr %k.at, align 64
  %k.next = add i32 %k, 1
  %k.more = icmp ult i32 %k.next, %warps
  br i1 %k.more, label %put, label %over
}}
"""


@family("publish")
def publish(helpers: Helpers, name: str, what: str) -> str:
    """What comes after this gets a later time."""
    value = f"""  %clock = load {_V}, ptr %seen, align 64
  %mine = insertelement {_V} %clock, i32 %next, i32 %warp
"""
    if what == "copies":
        value = f"""  %number = add i32 %warp, 32
  %mine = insertelement {_V} zeroinitializer, i32 %next, i32 %number
"""
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx, i32 %which) #0 {{
{_warp()}{own_clock()}{_object("%which")}{load_field("stamp", "i32")}\
  %next = add i32 %stamp, {STEP}
  store i32 %next, ptr %stamp.at, align 4
{value}  %before = load {_V}, ptr %published.at, align 64
  %after = call {_V} {_maximum(helpers)}({_V} %before, {_V} %mine)
  store {_V} %after, ptr %published.at, align 64
  ret void
}}
"""


@family("landed")
def landed(helpers: Helpers, name: str) -> str:
    """The warp has waited for its copies: those that have landed come before what it does next."""
    return _reached(name, 32)


@family("bulkwait")
def bulk_wait(helpers: Helpers, name: str) -> str:
    """What bulk copies read counts with products, for it is read in the same way."""
    return _reached(name, 64)


def _reached(name: str, first: int) -> str:
    """A function after which the warp's part of its own clock from `first` on is what is next."""
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_warp()}{own_clock()}{load_field("stamp", "i32")}  %next = add i32 %stamp, {STEP}
  store i32 %next, ptr %stamp.at, align 4
  %own = add i32 %warp, {first}
  %own.at = getelementptr i32, ptr %seen, i32 %own
  store i32 %next, ptr %own.at, align 4
  ret void
}}
"""


@family("promote")
def promote(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, i32 %which) #0 {{
{_object("%which")}  %published = load {_V}, ptr %published.at, align 64
  store {_V} %published, ptr %acquired.at, align 64
  ret void
}}
"""


@family("acquire")
def acquire(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx, i32 %which) #0 {{
{_warp()}{own_clock()}{_object("%which")}  %acquired = load {_V}, ptr %acquired.at, align 64
  %clock = load {_V}, ptr %seen, align 64
  %after = call {_V} {_maximum(helpers)}({_V} %clock, {_V} %acquired)
  store {_V} %after, ptr %seen, align 64
  ret void
}}
"""


@family("exchange")
def exchange(helpers: Helpers, name: str) -> str:
    """Orders and scopes are not told apart: an atomic operation may be a lock."""
    calls = (
        f"  call void @{helpers.use('publish_own')}(ptr %checks, ptr %ctx, i32 {ATOMICS})\n"
        f"  call void @{helpers.use('promote')}(ptr %checks, i32 {ATOMICS})\n"
        f"  call void @{helpers.use('acquire')}(ptr %checks, ptr %ctx, i32 {ATOMICS})\n"
    )
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{calls}  ret void
}}
"""


@family("find")
def find(helpers: Helpers, name: str) -> str:
    """The object of an mbarrier, by its address; where there are too many, they share the last."""
    return f"""
define internal i32 @{name}(ptr %checks, i32 %address) #0 {{
{load_field("objects", "ptr")}  %key = add i32 %address, 1
  br label %look
look:
  %i = phi i32 [ {MBARRIERS}, %0 ], [ %i.next, %on ]
  %offset = mul i32 %i, {OBJECT_BYTES}
  %at = getelementptr i8, ptr %objects, i32 %offset
  %key.is = load i32, ptr %at, align 4
  %ours = icmp eq i32 %key.is, %key
  %free = icmp eq i32 %key.is, 0
  %last = icmp eq i32 %i, {OBJECTS - 1}
  %usable = or i1 %ours, %free
  %found = or i1 %usable, %last
  br i1 %found, label %end, label %on
on:
  %i.next = add i32 %i, 1
  br label %look
end:
  store i32 %key, ptr %at, align 4
  ret i32 %i
}}
"""


def _phase() -> str:
    """Lines that set %flipped: whether the mbarrier's phase has changed, and note it."""
    return f"""{load_field("worker", "ptr")}\
  %shared.at = getelementptr i8, ptr %worker, i64 {state_offset("shared")}
  %shared = load ptr, ptr %shared.at, align 8
  %high = add i32 %place, 7
  %byte.at = getelementptr i8, ptr %shared, i32 %high
  %byte = load i8, ptr %byte.at
  %phase.byte = and i8 %byte, 32
  %phase = zext i8 %phase.byte to i32
  %phase.at = getelementptr i8, ptr %object, i64 {_PHASE}
  %phase.old = load i32, ptr %phase.at, align 4
  store i32 %phase, ptr %phase.at, align 4
  %flipped = icmp ne i32 %phase, %phase.old
"""


@family("object")
def each_object(helpers: Helpers, name: str, what: str) -> str:
    """Once for each place that lanes name one after another."""
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    act = {
        "publish": "  call void @{publish_own}(ptr %checks, ptr %ctx, i32 %which)\n",
        "copies": "  call void @{publish_copies}(ptr %checks, ptr %ctx, i32 %which)\n",
        "acquire": "  call void @{acquire}(ptr %checks, ptr %ctx, i32 %which)\n",
        "renew": f"""  store i32 0, ptr %object.phase, align 4
  store {_V} zeroinitializer, ptr %acquired.at, align 64
  store {_V} zeroinitializer, ptr %published.at, align 64
""",
        "promote": f"""{_phase()}  br i1 %flipped, label %flip, label %next
flip:
  call void @{{promote}}(ptr %checks, i32 %which)
""",
    }[what]
    for used in ("publish_own", "publish_copies", "acquire", "promote"):
        if f"{{{used}}}" in act:
            act = act.replace(f"{{{used}}}", helpers.use(used))
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, ptr %checks, ptr %ctx) #0 {{
  %places = alloca [32 x i32], align 64
  store <32 x i32> %address, ptr %places, align 64
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %before = phi i32 [ -1, %0 ], [ %place, %next ]
  %done = icmp eq i32 %left, 0
  br i1 %done, label %over, label %lane
over:
  ret void
lane:
  %number = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %place.at = getelementptr i32, ptr %places, i32 %number
  %place = load i32, ptr %place.at
  %same = icmp eq i32 %place, %before
  br i1 %same, label %next, label %do
do:
  %which = call i32 @{helpers.use("find")}(ptr %checks, i32 %place)
{_object("%which")}  %object.phase = getelementptr i8, ptr %object, i64 {_PHASE}
{act}  br label %next
next:
  br label %test
}}
"""


@family("readers")
def readers(helpers: Helpers, name: str, nbytes: str, granule: str) -> str:
    """Plane after plane; one whose last load comes before this store has nothing to say."""
    record = helpers.use("record")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    count, shift = max(int(nbytes) // int(granule), 1), int(granule).bit_length() - 1
    v = f"<{count} x i32>"
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i32], align 64
{_warp()}{own_clock()}{load_field("worker", "ptr")}{load_field("planes", "ptr")}\
{load_field("latest", "ptr")}{load_field("plane_bytes", "i64")}\
  %warps.at = getelementptr i8, ptr %worker, i64 {state_offset("warps")}
  %warps = load i32, ptr %warps.at, align 4
  %all = shl i32 %warps, 1
  store <32 x i32> %address, ptr %places, align 64
  br label %plane
plane:
  %p = phi i32 [ 0, %0 ], [ %p.next, %plane_done ]
  %p.over = icmp uge i32 %p, %all
  br i1 %p.over, label %over, label %look
over:
  ret void
plane_done:
  %p.next = add i32 %p, 1
  br label %plane
look:
  %product = icmp uge i32 %p, %warps
  %shifted = sub i32 %p, %warps
  %agent = add i32 %shifted, 64
  %who = select i1 %product, i32 %agent, i32 %p
  %limit.at = getelementptr i32, ptr %seen, i32 %who
  %limit = load i32, ptr %limit.at, align 4
  %newest.at = getelementptr i32, ptr %latest, i32 %p
  %newest = load i32, ptr %newest.at, align 4
  %known = icmp ult i32 %newest, %limit
  br i1 %known, label %plane_done, label %scan
scan:
  %p.wide = zext i32 %p to i64
  %p.offset = mul i64 %p.wide, %plane_bytes
  %p.at = getelementptr i8, ptr %planes, i64 %p.offset
  %limit.one = insertelement {v} poison, i32 %limit, i64 0
  %limits = shufflevector {v} %limit.one, {v} poison, <{count} x i32> zeroinitializer
  br label %lane_test
lane_test:
  %left = phi i32 [ %mask, %scan ], [ %rest, %lane_done ]
  %none = icmp eq i32 %left, 0
  br i1 %none, label %plane_done, label %lane
lane:
  %number = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %place.at = getelementptr i32, ptr %places, i32 %number
  %place = load i32, ptr %place.at
  %index = lshr i32 %place, {shift}
  %at = getelementptr i32, ptr %p.at, i32 %index
  %t = load {v}, ptr %at, align 4
  %late = icmp uge {v} %t, %limits
  %late.bits = bitcast <{count} x i1> %late to i{count}
  %fine = icmp eq i{count} %late.bits, 0
  br i1 %fine, label %lane_done, label %report
lane_done:
  br label %lane_test
report:
{visit()}  %reader.raw = select i1 %product, i32 %shifted, i32 %p
  %reader.two = shl i32 %reader.raw, 1
  %reader = or i32 %reader.two, {STEP}
  %kind = select i1 %product, i32 {number_of("pending-product")}, i32 {number_of("race")}
  %wide = zext i32 %place to i64
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %number, i64 %wide, i32 {nbytes}, i32 %reader)
  br label %lane_done
}}
"""  # noqa: E501
