"""The checks "init" and "race" of shared memory: a tag for each granule.

    tags_<access>_<bytes>_<granule>_<epochs|clocks>(addresses, mask, checks, ctx, site)
    land_<bytes>_<granule>[_awaited](addresses, mask, checks, ctx): a copy arrived
    bulktags_<store|load|bulk>_<granule>_<epochs|clocks>(addresses, sizes, mask, checks, ctx, site)
    judgetags_<access>_<granule>_<epochs|clocks>(addresses, mask, tags a lane, checks, ctx, site)
    epoch_<init>_<race>(checks, passed, fresh): a CTA begins (fresh), or all warps passed a barrier

access: load, product and bulk (loads by wgmma and by bulk copies), store, copy; with clocks also
atomic, and strong (a load that may meet atomic operations).

A tag is described in state.py.  With epochs an access is a race where the tag is of this epoch and
another warp's, and one of the two wrote.  With clocks (clocks.py) tags are only of those who wrote,
and an access is a race where the tag is at or above what this warp's clock says of them.  Whoever
comes second sees it, so it does not matter that warps really run one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import ClassVar

from .. import table
from ..builder import Builder
from ..hooks import Access, Copy, Run
from ..layout import LANES
from ..routine import VECTOR
from ..runtime.access import in_runs
from ..values import Text, Value
from .check import LONG, POINTER, WORD, Check, Kept, Kind, Room, at_site, mask_of, zeros
from .clocks import any_of, moved_on, own_clock
from .code import Code, code
from .runs import pieces
from .state import AWAITED, LANDED, MANY, PENDING, number_of

_LOADS = ("load", "product", "bulk")  # in the order of their planes (clocks.py)


class Tags(Check):
    """Shared memory that a CTA reads before it has written it, and warps that race for it."""

    asked = frozenset({"init", "race"})
    kinds = (
        Kind(
            "uninitialised-shared",
            "init",
            {
                "shared": "reads {place}, which this CTA has not written; look for a store that is"
                " missing or masked, or a copy that nobody waited for"
            },
        ),
        Kind(
            "race",
            "race",
            {
                "shared": "{place}: {user} used it, one of the two wrote, and nothing brings them"
                " into an order; look for a missing bar.sync, or arrival and wait, between the two"
            },
        ),
    )
    # tags: one for each granule.  now: a tag at or above it is of this epoch; base: a tag below it
    # was not written by this CTA.
    fields: ClassVar = {"tags": POINTER, "tag_bytes": LONG, "now": WORD, "base": WORD}

    def keep(self, room: Room) -> Kept:
        tags = zeros(room.words)
        return {"tags": tags, "tag_bytes": tags.nbytes, "now": 0xFFFFFFFF}

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        if not self.subject.clocks:
            name = f"epoch_{self.subject.init:d}_{self.subject.race:d}"
            b.call(name, "void", checks, passed, fresh)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        """An atomic operation also reads, so its memory must have been written."""
        if at.space == "shared":
            kind = at.kind
            if kind != "store" and table.is_strong(at.ins):
                strong = kind if kind == "atomic" else "strong"
                kind = strong if self.subject.clocks else "load"
            self._look(b, at._replace(kind=kind), mask_of(b, at.address, condition))
        return condition

    def mbarrier(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        kind = "store" if at.kind == "renew" else "load"
        self._look(b, at._replace(kind=kind), b.mask(condition))
        return condition

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        kind = "copy" if self.subject.race else "store"
        self._look(b, Access(at.ins, "shared", at.to, at.nbytes, kind), mask)
        return mask

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        in_group = "bulk_group" in run.ins.opcode.modifiers
        kind = "bulk" if run.kind == "load" and in_group and self.subject.clocks else run.kind
        name = f"bulktags_{kind}_{self.subject.granule}_{self.subject.mode}"
        b.call(name, "void", run.address, run.sizes, mask, *at_site(run.ins))
        return mask

    def _look(self, b: Builder, at: Access, mask: Value) -> None:
        """Look at the tags, and leave this access's own."""
        granule, clocks = self.subject.granule, self.subject.clocks
        given = (b.vector(at.address), mask, *at_site(at.ins))
        b.call(f"tags_{at.kind}_{at.nbytes}_{granule}_{self.subject.mode}", "void", *given)
        if clocks and at.kind not in ("load", "strong"):
            b.call(f"readers_{at.nbytes}_{granule}", "void", *given)


class Marker:
    """State that this warp compares tags with, and the tags that it leaves.

    reads, mine: of a load and a store; many: of several warps that read; pending: of a copy that is
    under way, landed: of one that has landed; atomic: of an atomic operation.
    """

    def __init__(self, c: Code, order: str) -> None:
        self.tags, self.warp, stamp = c.field("tags"), c.warp(), c.field("stamp")
        self.now, self.base = c.field("now"), c.field("base")
        self.clocks = order == "clocks"
        self._seen = own_clock(c) if self.clocks else None
        twice = c.op("shl", self.warp, 1)
        self.reads = c.op("or", stamp, twice)
        self.mine = c.op("or", self.reads, 1)
        self.many = c.op("or", stamp, MANY)
        self.pending = c.op("or", twice, PENDING | 1)
        self.landed = c.op("or", self.mine, LANDED)
        self.atomic = c.op("or", self.mine, AWAITED)

    def limit(self, c: Code, tag: Value) -> Value:
        """Time up to which this warp's clock orders the warps that left tags."""
        assert self._seen is not None
        who = c.op("and", c.op("lshr", tag, 1), 63)
        place = c.item("i32", self._seen, who)
        if tag.n == 1:
            return c.load("i32", 1, place, 0, 4)
        return c.gather("i32", place, Value("true", "i1"), Value("poison", "i32", tag.n), 4)

    def clash(self, c: Code, tag: Value) -> Value:
        """True if tags are another's and nothing orders the two."""
        if self.clocks:
            return c.compare("icmp uge", tag, self.limit(c, tag))
        recent = c.compare("icmp uge", tag, self.now)
        others = c.compare("icmp ne", c.op("or", tag, LANDED | 1), self.landed)
        return c.op("and", recent, others)

    def look(self, c: Code, access: str, tag: Value) -> tuple[Value, Value]:
        """Compare tags: a condition that holds where something is wrong, and their new values."""
        clash = self.clash(c, tag)
        if access in ("store", "copy"):
            return clash, c.vector(self.mine if access == "store" else self.pending, tag.n)
        void = c.compare("icmp ult", tag, self.base)
        if access in ("atomic", "strong"):
            by = c.op("and", tag, LANDED | AWAITED | 1)
            race = c.op("and", clash, c.compare("icmp ne", by, AWAITED | 1))
            new = tag
            if access == "atomic":  # over a store of its own that nobody can know of yet
                own = c.compare("icmp eq", tag, self.mine)
                new = c.select(own, tag, self.atomic)
            return c.op("or", race, void), new
        if self.clocks:
            return c.op("or", clash, void), c.vector(self.reads, tag.n)
        race = c.op("and", clash, c.cast("trunc", tag, "i1"))
        held = c.select(c.compare("icmp uge", tag, self.now), tag, self.reads)
        return c.op("or", race, void), c.select(clash, self.many, held)


@code("tags")
def tags(c: Code, access: str, nbytes: str, granule: str, order: str) -> None:
    address, mask = c.takes(VECTOR, "i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    count, its = max(int(nbytes) // int(granule), 1), Marker(c, order)
    kept = _plane(c, its, access) if its.clocks and access in _LOADS else its.tags
    index = c.op("lshr", address, int(granule).bit_length() - 1)
    judge = f"judgetags_{access}_{granule}_{order}"

    def report(bad: Sequence[Value], lanes: Value) -> None:
        """Have the lanes judged where something is wrong."""
        with c.when(any_of(c, reduce(lambda x, y: c.op("or", x, y), bad))):
            c.call(judge, "void", address, lanes, c.constant("i32", count), *c.here)

    def look(places: Sequence[Value], n: int) -> None:
        """Look at n tags from each place on, and leave others."""
        found = []
        for place in places:
            tag = c.load("i32", n, c.item("i32", its.tags, place), 0, 4)
            found.append(its.look(c, access, tag))
        report([bad for bad, _ in found], mask)
        for place, (_, new) in zip(places, found, strict=True):
            c.store(new, c.item("i32", kept, place), 0, 4)

    expected = c.op("add", c.vector(c.element(index, 0)), c.iota("i32", count))
    absent = c.op("xor", mask, -1)
    strays = c.op("or", c.mask(c.compare("icmp ne", index, expected)), absent)
    with c.when(c.compare("icmp eq", strays, 0)):  # 32 at a time
        first = c.element(index, 0)
        look([c.op("add", first, LANES * i) for i in range(count)], LANES)
        c.ret()
    if count <= 2:
        # Every eight lie one after another where lanes store whole 16-byte chunks.
        lanes = 8 // count
        strays = c.op("or", in_runs(c, index, lanes, count), absent)
        with c.when(c.compare("icmp eq", strays, 0)):
            look([c.element(index, lane) for lane in range(0, LANES, lanes)], 8)
            c.ret()
        return _gathered(c, its, access, count, index, c.lanes(mask), kept, report, mask)
    if access in _LOADS:
        with c.when(c.compare("icmp eq", absent, 0)):
            if its.clocks:
                _known_rows(c, its, count, index, kept)
            else:
                _read_rows(c, its, count, index)
    places = c.spread(index)
    with c.each_lane(mask) as (lane,):
        place = places(lane)
        tag = c.load("i32", count, c.item("i32", its.tags, place), 0, 4)
        bad, new = its.look(c, access, tag)
        report([bad], c.op("shl", c.constant("i32", 1), lane))
        c.store(new, c.item("i32", kept, place), 0, 4)
    return None


def _plane(c: Code, its: Marker, access: str) -> Value:
    """Address of the notes of this warp's loads; those of products and bulk copies are apart."""
    number = its.warp
    for _ in range(_LOADS.index(access)):
        number = c.op("add", number, c.of_worker("warps"))
    c.store(its.reads, c.item("i32", c.field("latest"), number), 0, 4)
    start = c.op("mul", c.cast("zext", number, "i64"), c.field("plane_bytes"))
    return c.item("i8", c.field("planes"), start)


def _gathered(
    c: Code,
    its: Marker,
    access: str,
    count: int,
    index: Value,
    active: Value,
    kept: Value,
    report: Callable[[Sequence[Value], Value], None],
    mask: Value,
) -> None:
    """Tags of lanes that lie anywhere."""
    places = [c.op("add", index, i) for i in range(count)]
    found = []
    for place in places:
        tag = c.gather("i32", c.item("i32", its.tags, place), active, c.constant("i32", 0), 4)
        bad, new = its.look(c, access, tag)
        found.append((c.op("and", bad, active), new))
    report([bad for bad, _ in found], mask)
    for place, (_, new) in zip(places, found, strict=True):
        c.scatter(new, c.item("i32", kept, place), active, 4)


def _known_rows(c: Code, its: Marker, count: int, index: Value, kept: Value) -> None:
    """Leave tags and return where all that a load finds come before it.

    That is how a tile is read that others wrote before a barrier.  One comparison for both: a tag
    below the base becomes huge.
    """
    places = [c.element(index, lane) for lane in range(LANES)]
    bad = []
    for place in places:
        tag = c.load("i32", count, c.item("i32", its.tags, place), 0, 4)
        age = c.op("sub", tag, its.base)
        bad.append(c.compare("icmp uge", age, c.op("sub", its.limit(c, tag), its.base)))
    odd = any_of(c, reduce(lambda x, y: c.op("or", x, y), bad))
    with c.when(c.invert(odd)):
        for place in places:
            c.store(c.vector(its.reads, count), c.item("i32", kept, place), 0, 4)
        c.ret()


def _read_rows(c: Code, its: Marker, count: int, index: Value) -> None:
    """The same with epochs, and where several warps read in this one.

    All tags have one limit, so that maxima are enough; turned by a bit, those of stores are above
    all others.
    """
    places = [c.item("i32", its.tags, c.element(index, lane)) for lane in range(LANES)]
    most = wrote = c.vector(c.constant("i32", 0), count)
    least = c.vector(c.constant("i32", -1), count)
    one = c.vector(c.constant("i32", 1), count)
    for place in places:
        tag = c.load("i32", count, place, 0, 4)
        most, least = (
            c.intrinsic(f"llvm.u{m}", v, tag) for m, v in (("max", most), ("min", least))
        )
        wrote = c.intrinsic("llvm.umax", wrote, c.intrinsic("llvm.fshr", tag, tag, one))
    void = any_of(c, c.compare("icmp ult", least, its.base))
    recent = c.op("or", c.op("lshr", its.now, 1), -(1 << 31))
    with c.when(c.invert(c.op("or", void, any_of(c, c.compare("icmp uge", wrote, recent))))):
        with c.when(any_of(c, c.compare("icmp uge", most, its.now))):
            for place in places:
                tag = c.load("i32", count, place, 0, 4)
                others = (c.compare("icmp uge", tag, its.now), c.compare("icmp ne", tag, its.reads))
                new = c.select(c.op("and", *others), c.vector(its.many, count), its.reads)
                c.store(new, place, 0, 4)
            c.ret()
        for place in places:
            c.store(c.vector(its.reads, count), place, 0, 4)
        c.ret()


@code("land")
def land(c: Code, nbytes: str, granule: str, how: str = "") -> None:
    """Mark a landed copy's bytes as written by the warp that began it. how: "awaited" or ""."""
    address, mask = c.takes(VECTOR, "i32")
    c.goes()
    its = Marker(c, "epochs")
    count, new = int(nbytes) // int(granule), its.landed
    if how == "awaited":
        new = c.op("or", new, AWAITED)
    places = c.spread(c.op("lshr", address, int(granule).bit_length() - 1))
    with c.each_lane(mask) as (lane,):
        c.store(c.vector(new, count), c.item("i32", its.tags, places(lane)), 0, 4)


@code("bulktags")
def bulk_tags(c: Code, access: str, granule: str, order: str) -> None:
    """Tag what a bulk copy accesses, 512 bytes at a time.

    To shared memory it is a store, and counts as landed for who waits at the mbarrier.
    """
    clocks = order == "clocks"
    names = [f"tags_{access}_16_{granule}_{order}"]
    if clocks:
        names.append(f"readers_16_{granule}" if access == "store" else f"fenced_{granule}")
    with pieces(c, "shared") as (at, chunks):
        for name in names:
            c.call(name, "void", at, chunks, *c.here)
        if clocks and access == "store":
            c.call(f"land_16_{granule}", "void", at, chunks, c.checks, c.ctx)


@code("judgetags")
def judge(c: Code, access: str, granule: str, order: str) -> None:
    """Record each lane's first problem."""
    address, mask, count = c.takes(VECTOR, "i32", "i32")
    c.looks()
    its, shift = Marker(c, order), int(granule).bit_length() - 1
    places = c.spread(address)
    c.visits()
    lanes = c.each_lane(mask)
    with lanes as (lane,):
        place = places(lane)
        loop = c.loop(c.op("lshr", place, shift), c.constant("i32", 0))
        with loop as (number, i):
            loop.leave(c.compare("icmp uge", i, count))
            tag = c.load("i32", 1, c.item("i32", its.tags, number), 0, 4)
            bad, _ = its.look(c, access, tag)
            with c.when(bad):
                waits, width = c.compare("icmp uge", tag, PENDING), c.op("shl", count, shift)
                if access == "store":  # of what another has written: the same value is no race
                    written = c.op("and", tag, 1 if its.clocks else AWAITED | 1)
                    doubtful = c.op("and", c.compare("icmp eq", written, 1), c.invert(waits))
                    with c.when(doubtful):
                        wide = c.cast("zext", place, "i64")
                        by = c.constant("i32", 0)
                        c.call("doubt_shared", "void", c.checks, lane, wide, width, tag, by)
                        lanes.next()
                kinds = [c.constant("i32", number_of(k)) for k in ("pending-copy", "race")]
                kind = c.select(waits, *kinds)
                if access not in ("store", "copy"):
                    void = c.compare("icmp ult", tag, its.base)
                    unwritten = c.constant("i32", number_of("uninitialised-shared"))
                    kind = c.select(void, unwritten, kind)
                c.record(kind, lane, c.op("shl", number, shift), width, tag)
                lanes.next()
            loop.again(c.op("add", number, 1), c.op("add", i, 1))


@code("epoch")
def epoch(c: Code, init: str, race: str) -> None:
    """Begin an epoch; without "race" no tag is of it."""
    _, now = moved_on(c, init, planes=False)
    if race == "1":
        c.put("now", now)
