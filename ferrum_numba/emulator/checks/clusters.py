"""The checks "init" and "race" of shared memory that the CTAs of a cluster reach.

    clusterround_<init>(checks, passed, fresh): a CTA begins (fresh)
    clusterend(mask, checks, ctx, site): lanes end
    clusteruse_<load|store|atomic>_<bytes>_<granule>_<race>(addresses, mask, checks, ctx, site)
    clusterrun_<load|store>_<granule>_<race>(addresses, sizes, mask, checks, ctx, site): of runs
    clusterobject_<renew|publish|promote|acquire>(addresses, mask, checks, ctx): of an mbarrier
    clusterbarrier_<begun|publish|promote|acquire>(checks, ctx): of the cluster's barrier

A place is the CTA's rank, times `CLUSTER_STRIDE`, plus the offset in its memory.  Each granule has
four words: who stored last, who of its own CTA and who of others loaded last, each as time << 5 |
16 for an atomic operation | rank; and where it was stored, plus 1.  A CTA has a clock: for each CTA
the last time of which it knows, through the cluster's barrier or mbarriers.  Warps of a CTA are not
told apart here.  What CTAs wait for has two clocks: of those that have come, and of those that had
come when it opened last.  A CTA may use the memory of one of whose beginning it knows, and ends
only where it knows of all uses of its own.  What another CTA has stored counts as written, and as
old, for the CTA whose memory it is.  All CTAs of a cluster run in one thread of the host.
Source: PTX ISA, "barrier.cluster", "mbarrier.arrive", "Data Movement: .multicast::cluster".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..builder import Builder
from ..hooks import Access, Copy, Run
from ..layout import CLUSTER_STRIDE, state_offset
from ..ptx import Instruction, Operand
from ..routine import VECTOR
from ..runtime.wgmma import addresses_of
from ..values import Text, Value
from .check import HERE, LONG, POINTER, Check, Kept, Kind, Room, at_site, mask_of, zeros
from .clocks import PHASE, each_place, find_object, flips
from .code import Code, code
from .runs import pieces

_MOST_CTAS, _OBJECTS, _OBJECT_BYTES = 16, 64, 192
_PUBLISHED, _ACQUIRED = 64, 128  # of an object; at 0 is its key
_LOG2 = CLUSTER_STRIDE.bit_length() - 1
_RECORD_BYTES = 16
_ATOMIC, _SHIFT = 16, 5  # of a word of a record
# Of a CTA: i64 its tags, i32 its base (tags.py), i32 1 + the number of its cluster while it runs,
# i32 how many of its threads have ended, i32 when it began.
# From byte 64 on: of each CTA when it used this one's memory last.
_TAGS, _BASE, _ALIVE, _ENDED, _BEGUN, _USED, _CTA_BYTES = 0, 8, 12, 16, 20, 64, 128
_BARRIER = 0x7FFFFFFF  # the key of the cluster's barrier


class Clusters(Check):
    """Order of the CTAs of a cluster that use each other's shared memory."""

    asked = frozenset({"init", "race"})
    kinds = (
        Kind(
            "cluster-race",
            "race",
            {
                "shared": "{place}, of the CTA of rank {rank}: the CTA of rank {other_rank} of this"
                " cluster {deed} there{there}, and nothing orders the two; look for a missing"
                " barrier.cluster, or an arrival and a wait at an mbarrier, between them"
            },
        ),
        Kind(
            "absent-cta",
            "race",
            {
                "shared": "{place}, of the CTA of rank {rank}, which may not have begun, or has"
                " ended; look for a missing barrier.cluster at the start, or at the end of the"
                " kernel",
                "register": "ends while the CTA of rank {other_rank} of this cluster may still use"
                " its shared memory; look for a missing barrier.cluster at the end of the kernel",
            },
        ),
    )
    # See above; cluster_time: a word.  cluster_words: granules of a CTA.
    fields: ClassVar = {
        "cluster_records": POINTER,
        "cluster_clocks": POINTER,
        "cluster_ctas": POINTER,
        "cluster_objects": POINTER,
        "cluster_time": POINTER,
        "cluster_words": LONG,
    }

    @property
    def active(self) -> bool:
        return super().active and self.subject.clustered

    def share(self, room: Room) -> Kept:
        return {
            "cluster_records": zeros(_MOST_CTAS * room.words * _RECORD_BYTES // 4),
            "cluster_clocks": zeros(_MOST_CTAS * _MOST_CTAS),
            "cluster_ctas": zeros(_MOST_CTAS * _CTA_BYTES // 4),
            "cluster_objects": zeros(_OBJECTS * _OBJECT_BYTES // 4),
            "cluster_time": zeros(1),
            "cluster_words": room.words,
        }

    def sight(self, ins: Instruction, kept: Kept, record: np.void) -> dict[str, object]:
        other = int(record["other"])
        return {
            "rank": other >> 8 & 255,
            "other_rank": other & 255,
            "deed": "loads" if other >> 16 & 1 else "stores",
        }

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        b.call("clusterround", "void", checks, passed, fresh)

    def decides(self, b: Builder, branch: Instruction) -> None:
        if branch.opcode.base in ("ret", "exit"):
            b.call("clusterend", "void", b.mask(b.condition(branch)), *at_site(branch))

    # -- accesses -------------------------------------------------------------------------------

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        lanes, address = mask_of(b, at.address, condition), at.address
        if at.space == "global":
            if "global" in at.ins.opcode.modifiers:
                return condition
            # A generic address may be of shared memory of any of the CTAs.
            start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
            offset = b.op("sub", at.address, start)
            low, span = -_MOST_CTAS * CLUSTER_STRIDE, 2 * _MOST_CTAS * CLUSTER_STRIDE
            near = b.compare("icmp ult", b.op("sub", offset, low), span)
            other = b.op("lshr", offset, _LOG2)  # its own CTA's is looked at as shared memory
            far = b.op("and", near, b.compare("icmp ne", other, 0))
            lanes, address = b.op("and", lanes, b.mask(far)), b.cast("trunc", offset, "i32")
        self._use(b, at.ins, at.kind, at.nbytes, address, lanes)
        return condition

    def _use(
        self, b: Builder, ins: Instruction, kind: str, nbytes: int, address: Value, lanes: Value
    ) -> None:
        name = f"clusteruse_{kind}_{nbytes}_{self.subject.granule}_{self.subject.race:d}"
        b.call(name, "void", b.vector(address), lanes, *at_site(ins))

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        self._use(b, at.ins, "store", at.nbytes, at.to, mask)
        return mask

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        name = f"clusterrun_{run.kind}_{self.subject.granule}_{self.subject.race:d}"
        b.call(name, "void", run.address, run.sizes, mask, *at_site(run.ins))
        return mask

    def descriptor(
        self, b: Builder, ins: Instruction, value: Value, form: str, rows: int, row: Value
    ) -> Value:
        name = f"clusterproduct_{form}_{rows}_{self.subject.granule}_{self.subject.race:d}"
        b.call(name, "void", value, row, *at_site(ins))
        return value

    # -- orders ---------------------------------------------------------------------------------

    def mbarrier(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.kind != "wait":
            what = "renew" if at.kind == "renew" else "publish"
            self._object(b, what, at.address, b.mask(condition))
        return condition

    def changed(self, b: Builder, address: Value, mask: Value) -> None:
        self._object(b, "promote", address, mask)

    def passes(self, b: Builder, address: Value, over: Value, acts: Value, passed: Value) -> Value:
        self._object(b, "acquire", address, passed)
        return over

    @staticmethod
    def _object(b: Builder, what: str, address: Value, mask: Value) -> None:
        b.call(f"clusterobject_{what}", "void", b.vector(address), mask, *HERE)

    def arrives(self, b: Builder, ins: Instruction, number: Operand, opens: Value) -> None:
        """A relaxed arrival tells that the CTA has begun, and more only behind a fence."""
        fences = any("acq_rel" in i.opcode.modifiers for i in self.subject.instructions)
        strong = fences or "relaxed" not in ins.opcode.modifiers
        if "cluster" in ins.opcode.modifiers:
            b.call(f"clusterbarrier_{'publish' if strong else 'begun'}", "void", *HERE)
            with b.when(opens):
                b.call("clusterbarrier_promote", "void", *HERE)

    def opened(self, b: Builder, ins: Instruction, number: Operand, waits: Value) -> None:
        if "cluster" in ins.opcode.modifiers:
            with b.when(b.invert(waits)):
                b.call("clusterbarrier_acquire", "void", *HERE)


# -- CTAs and their clocks ------------------------------------------------------------------------


def _rank(c: Code) -> Value:
    return c.of_worker("cluster_rank")


def _cta(c: Code, rank: Value) -> Value:
    """Place of the facts about a CTA."""
    return c.item("i8", c.field("cluster_ctas"), c.op("mul", rank, _CTA_BYTES))


def _clock(c: Code, rank: Value) -> Value:
    """Address of a CTA's clock."""
    return c.item("i8", c.field("cluster_clocks"), c.op("mul", rank, 4 * _MOST_CTAS))


def _time(c: Code) -> Value:
    return c.load("i32", 1, c.field("cluster_time"), 0, 4)


@code("clusterround")
def begin(c: Code) -> None:
    c.checks, _, fresh = c.takes("ptr", "i1", "i1")
    c.ret_if(c.invert(fresh))
    rank = _rank(c)
    its, number = _cta(c, rank), c.constant("i32", 0)
    for axis in (2, 1, 0):
        at, extent, clusters = (_axis(c, n, axis) for n in ("ctaid", "cluster", "nctaid"))
        number = c.op(
            "add", c.op("mul", number, c.op("udiv", clusters, extent)), c.op("udiv", at, extent)
        )
    c.store(c.field("tags"), its, _TAGS, 8)
    c.store(c.field("base"), its, _BASE, 4)
    c.store(c.op("add", number, 1), its, _ALIVE, 4)
    c.store(c.constant("i32", 0), its, _ENDED, 4)
    c.store(Value("zeroinitializer", "i32", _MOST_CTAS), _clock(c, rank), 0, 4)
    nbytes = c.op("mul", c.field("cluster_words"), _RECORD_BYTES)
    first = c.op("mul", c.cast("zext", rank, "i64"), nbytes)
    c.clear_bytes(c.item("i8", c.field("cluster_records"), first), nbytes)
    now = c.op("add", _time(c), 1)
    c.store(now, its, _BEGUN, 4)
    c.store(Value("zeroinitializer", "i32", _MOST_CTAS), its, _USED, 4)
    c.store(c.op("add", now, 1), c.field("cluster_time"), 0, 4)


def _axis(c: Code, name: str, axis: int) -> Value:
    """One of the three words of a field of the worker's State."""
    return c.load("i32", 1, c.field("worker"), state_offset(name) + 4 * axis, 4)


@code("clusterend")
def end(c: Code) -> None:
    """End a CTA with its last lanes; uses of its memory have to come before that."""
    (mask,) = c.takes("i32")
    c.looks()
    its = _cta(c, _rank(c))
    ended = c.op("add", c.load("i32", 1, its, _ENDED, 4), c.intrinsic("llvm.ctpop", mask))
    c.store(ended, its, _ENDED, 4)
    threads = c.constant("i32", 1)
    for axis in range(3):
        threads = c.op("mul", threads, _axis(c, "ntid", axis))
    c.ret_if(c.compare("icmp ult", ended, threads))
    c.store(c.constant("i32", 0), its, _ALIVE, 4)
    known = c.load("i32", _MOST_CTAS, _clock(c, _rank(c)), 0, 4)
    used = c.load("i32", _MOST_CTAS, its, _USED, 4)
    late = Value(c.emit(f"bitcast {c.compare('icmp ugt', used, known)} to i16"), "i16")
    c.ret_if(c.compare("icmp eq", late, 0))
    c.visits()
    other = c.intrinsic("llvm.cttz", c.cast("zext", late, "i32"), extra="i1 false")
    lane = c.intrinsic("llvm.cttz", mask, extra="i1 false")
    c.record("absent-cta", lane, c.constant("i64", 0), 0, other)


def _find(c: Code, key: Value) -> Value:
    """Clocks of what CTAs wait for."""
    objects = c.field("cluster_objects")
    number = find_object(c, objects, _OBJECT_BYTES, key, 0, _OBJECTS - 1)
    return c.item("i8", objects, c.op("mul", number, _OBJECT_BYTES))


def _meet(c: Code, what: str, its: Value) -> None:
    """Publish what this CTA knows and has done, or rely on what others have published."""
    rank = _rank(c)
    own = _clock(c, rank)
    mine = c.load("i32", _MOST_CTAS, own, 0, 4)
    published, acquired = (c.load("i32", _MOST_CTAS, its, p, 4) for p in (_PUBLISHED, _ACQUIRED))
    if what == "publish":
        now = _time(c)
        known = Value(c.emit(f"insertelement {mine}, {now}, {rank}"), "i32", _MOST_CTAS)
        c.store(c.intrinsic("llvm.umax", known, published), its, _PUBLISHED, 4)
        c.store(c.op("add", now, 1), c.field("cluster_time"), 0, 4)
    elif what == "begun":
        zero, when = (
            f"<{_MOST_CTAS} x i32> zeroinitializer",
            c.load("i32", 1, _cta(c, rank), _BEGUN, 4),
        )
        known = Value(c.emit(f"insertelement {zero}, {when}, {rank}"), "i32", _MOST_CTAS)
        c.store(c.intrinsic("llvm.umax", known, published), its, _PUBLISHED, 4)
    elif what == "promote":
        c.store(published, its, _ACQUIRED, 4)
    elif what == "acquire":
        c.store(c.intrinsic("llvm.umax", mine, acquired), own, 0, 4)
    else:
        c.store(c.constant("i32", 0), its, PHASE, 4)
        for clock in (_PUBLISHED, _ACQUIRED):
            c.store(Value("zeroinitializer", "i32", _MOST_CTAS), its, clock, 4)


def _place(c: Code, address: Value) -> Value:
    return c.op("add", address, c.op("shl", _rank(c), _LOG2))


@code("clusterobject")
def each_object(c: Code, what: str) -> None:
    with each_place(c) as (lanes, place):
        its = _find(c, c.op("add", _place(c, place), 1))
        if what == "promote":
            lanes.next_if(c.invert(flips(c, place, its)), place)
        _meet(c, what, its)


@code("clusterbarrier")
def barrier(c: Code, what: str) -> None:
    c.goes()
    _meet(c, what, _find(c, c.constant("i32", _BARRIER)))


# -- accesses -------------------------------------------------------------------------------------


@code("clusteruse")
def use(c: Code, kind: str, nbytes: str, granule: str, race: str) -> None:
    """Look at uses; memory of a CTA that has not begun is cleared when it does."""
    address, mask = c.takes(VECTOR, "i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    shift, count = int(granule).bit_length() - 1, max(int(nbytes) // int(granule), 1)
    rank, places = _rank(c), c.spread(address)
    own_alive = c.load("i32", 1, _cta(c, rank), _ALIVE, 4)
    c.visits()
    lanes = c.each_lane(mask)
    with lanes as (lane,):
        place = _place(c, places(lane))
        target, inner = c.op("lshr", place, _LOG2), c.op("and", place, CLUSTER_STRIDE - 1)
        far, its = c.compare("icmp ne", target, rank), _cta(c, target)
        sight = c.op("shl", target, 8)
        if race == "1":
            absent = c.compare("icmp ne", c.load("i32", 1, its, _ALIVE, 4), own_alive)
            known = c.load("i32", 1, c.item("i32", _clock(c, rank), target), 0, 4)
            absent = c.op("or", absent, c.compare("icmp eq", known, 0))
            with c.when(c.op("and", far, absent)):
                c.record("absent-cta", lane, inner, int(nbytes), sight)
                lanes.next()
            with c.when(far):
                c.store(_time(c), c.item("i32", Value(c.at(its, _USED), "ptr"), rank), 0, 4)
        first = c.op("lshr", inner, shift)
        with c.when(c.compare("icmp uge", c.cast("zext", first, "i64"), c.field("cluster_words"))):
            lanes.next()
        if kind != "load":
            with c.when(far):  # counts as written, and as old
                tags = c.item("i32", c.load("ptr", 1, its, _TAGS, 8), first)
                base = c.load("i32", 1, its, _BASE, 4)
                for i in range(count):
                    c.store(base, tags, 4 * i, 4)
        if race == "1":
            for i in range(count):
                _judge(c, kind, lane, (rank, target, inner), c.op("add", first, i), int(nbytes))


def _judge(
    c: Code, kind: str, lane: Value, at: tuple[Value, Value, Value], granule: Value, nbytes: int
) -> None:
    """Compare an access with what is known of a granule, and leave a note of it."""
    rank, target, inner = at
    number = c.op("mul", c.cast("zext", target, "i64"), c.field("cluster_words"))
    number = c.op("add", number, c.cast("zext", granule, "i64"))
    its = c.item("i8", c.field("cluster_records"), c.op("mul", number, _RECORD_BYTES))
    stored, inside, outside, site = (c.load("i32", 1, its, 4 * i, 4) for i in range(4))
    clock = _clock(c, rank)
    for word, loads in ((stored, 0), (inside, 1), (outside, 1))[: 1 if kind == "load" else 3]:
        who, then = c.op("and", word, _ATOMIC - 1), c.op("lshr", word, _SHIFT)
        known = c.load("i32", 1, c.item("i32", clock, who), 0, 4)
        clash = c.op("and", c.compare("icmp ne", word, 0), c.compare("icmp ne", who, rank))
        clash = c.op("and", clash, c.compare("icmp ugt", then, known))
        if kind == "atomic":
            plain = c.compare("icmp eq", c.op("and", word, _ATOMIC), 0)
            clash = c.op("and", clash, plain)
        with c.when(clash):
            sight = c.op("or", c.op("shl", target, 8), c.op("or", who, loads << 16))
            by = c.constant("i32", 0) if loads else site
            c.record("cluster-race", lane, inner, nbytes, sight, by)
    mine = c.op("or", c.op("shl", _time(c), _SHIFT), rank)
    if kind == "load":
        far = c.compare("icmp ne", target, rank)
        c.store(c.select(far, inside, mine), its, 4, 4)
        c.store(c.select(far, mine, outside), its, 8, 4)
    else:
        c.store(c.op("or", mine, _ATOMIC) if kind == "atomic" else mine, its, 0, 4)
        c.store(c.op("add", c.site, 1), its, 12, 4)


@code("clusterrun")
def run(c: Code, kind: str, granule: str, race: str) -> None:
    """Look at a bulk copy, 512 bytes at a time."""
    with pieces(c, "shared") as (at, chunks):
        c.call(f"clusteruse_{kind}_16_{granule}_{race}", "void", at, chunks, *c.here)


@code("clusterproduct")
def product(c: Code, operand: str, major: str, rows: str, granule: str, race: str) -> None:
    """Sixteen rows of A, or columns of B, at a time."""
    value, row = c.takes("i64", "i32")
    c.looks()
    count = int(rows) // 8 * 8
    loop = c.loop(c.constant("i32", 0))
    with loop as (i,):
        at = addresses_of(c, value, major, operand, c.op("add", row, i))
        odd = c.compare("icmp ult", c.op("sub", c.constant("i32", count), i), 16)
        mask = c.select(odd, c.constant("i32", 65535), -1)
        c.call(f"clusteruse_load_16_{granule}_{race}", "void", at, mask, *c.here)
        more = c.op("add", i, 16)
        loop.again_if(c.compare("icmp ult", more, count), more)
