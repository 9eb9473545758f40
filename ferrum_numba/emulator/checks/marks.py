"""The checks "init" and "race" of global memory: who wrote an element, and lanes that disagree.

marks_<access>_<bytes>_<mode>[_talks](addresses, mask, checks, ctx, site): this CTA wrote here;
    access: "store", "bulk" (by a bulk copy), "atomic", or "narrow" for an atomic operation that is
    one for this CTA only; _talks: where CTAs talk to each other
rowmarks_<mode>[_talks](address, lane, lanes, checks, ctx, site) -> i1: a store to a row, if it has
    one record (rows.py)
bulkmarks_<store|atomic>_<mode>[_talks](addresses, sizes, mask, checks, ctx, site): the same of runs
    of bytes
confirm_<space>_<bits>(base, addresses, values, mask, checks, ctx, site): after a store, every
    lane finds what it stored, or another lane stored something else in its place
doubt_<space>(checks, lane, address, bytes, other, by), settle_<space>_<bytes>(addresses, checks,
    ctx, site): keep what is there before a store, and record what it has changed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..hooks import Access, Run
from ..layout import LANES
from ..ptx import Instruction
from ..runtime.access import ADDRESSES, in_a_row
from ..values import Value
from .areas import Hint, Marked
from .check import POINTER, WORD, Check, Kept, Kind, Room, at_site, mask_of, zeros
from .code import Code, code
from .readers import find_reader
from .rows import Row, by_rows, bytes_of
from .runs import has_blanks, pieces
from .state import DOUBT_BYTES, DOUBTS, IN_SHARED, READ, ROW_BYTES, WARPS, number_of
from .tags import Marker
from .talks import Talk, cta_of, is_plain

_TALKS = (
    "look for a missing barrier before or after the atomic operation by which the CTAs talk to each"
    " other, and at its .release and .acquire"
)
_SEPARATE = (
    "CTAs of one launch run in any order: split the launch in two between the accesses, write to"
    " another array, or let the CTAs wait for each other (atomic operations with .release and"
    " .acquire, or a grid's barrier in a cooperative launch)"
)


class Marks(Check):
    """Elements of global memory: who wrote them, and did another store something else there?"""

    asked = frozenset({"init", "race"})
    kinds = (
        Kind(
            "uninitialised-global",
            "init",
            {
                "global": "reads {nbytes} bytes of {place} that nobody has written; look for a"
                " store that is missing or masked, or fill the array before the launch"
            },
        ),
        Kind("unwritten-output", "init"),
        Kind(
            "lane-conflict",
            "race",
            dict.fromkeys(
                ("shared", "global"),
                "{place}: another lane stores something else there in the same instruction",
            ),
        ),
        Kind(
            "cta-race",
            "race",
            {
                "global load": "reads {place}, which CTA number {cta} writes{there}, and nothing"
                " orders the two; {advice}",
                "global": "writes {place}, which CTA number {cta} {deed}{there}{advice}",
            },
        ),
        Kind(
            "warp-race",
            "race",
            {
                "global load": "reads {place}, which warp {other_warp} of this CTA writes{there},"
                " and nothing brings the two into an order; look for a missing bar.sync",
                "global": "writes {place}, which warp {other_warp} of this CTA {deed}{there}, and"
                " nothing brings the two into an order; look at the masks and the strides, and for"
                " a missing bar.sync",
            },
        ),
    )
    # doubted: lanes whose store may be a race; doubts: what was there before (`DOUBT_BYTES` each),
    # and who wrote it.
    fields: ClassVar = {"doubts": POINTER, "doubted": WORD}

    def keep(self, room: Room) -> Kept:
        return {"doubts": zeros(DOUBTS, np.uint8)}

    @property
    def _told(self) -> str:
        """The end of the names of functions: how accesses are ordered."""
        talks = "_talks" if self.subject.race and self.subject.talks else ""
        return f"_{self.subject.mode}{talks}"

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if at.space == "global" and at.kind != "load":
            kind = at.kind
            if table.is_strong(at.ins):
                kind = "narrow" if "cta" in at.ins.opcode.modifiers else "atomic"
            mask, name = mask_of(b, at.address, condition), f"marks_{kind}_{at.nbytes}{self._told}"
            b.call(name, "void", b.vector(at.address), mask, *at_site(at.ins))
        return condition

    def sight(self, ins: Instruction, kept: Kept, record: np.void) -> Mapping[str, object]:
        """The other CTA's access, and what would order the two."""
        reads, loads = bool(int(record["other"]) & READ), table.accesses(ins, "load")
        if not reads and not loads:
            advice = ", and nothing orders the two; look at the mask, the grid and the strides"
            if table.is_strong(ins):
                advice = f", not atomically for both, and nothing orders the two; {_TALKS}"
            return {"deed": "also writes", "advice": advice}
        advice = _TALKS if self.subject.talks else _SEPARATE
        return {
            "deed": "reads",
            "advice": advice if loads else f", and nothing orders the two; {advice}",
        }

    def stored(
        self, b: Builder, at: Access, value: Value | None = None, condition: Value | None = None
    ) -> None:
        """Did it change what another lane, warp or CTA had written?"""
        if not self.subject.race:
            return
        if value is None:
            b.call(f"settle_{at.space}_16", "void", b.vector(at.address), *at_site(at.ins))
        else:
            values = (b.vector(at.address), b.vector(value), b.mask(condition))
            name = f"confirm_{at.space}_{value.type[1:]}"
            b.call(name, "void", "ptr %shared", *values, *at_site(at.ins))

    def far(self, b: Builder, run: Run, mask: Value) -> Value:
        if run.kind != "load":
            name, here = f"bulkmarks_{run.kind}{self._told}", at_site(run.ins)
            b.call(name, "void", run.address, run.sizes, mask, *here)
        return mask

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        return ("", ()) if inward else (f"_marks{self._told}", at_site(ins))


@code("marks")
def marks(c: Code, access: str, nbytes: str, mode: str, talks: str = "") -> None:
    """A mark is the CTA's number + 1; plain stores of two CTAs to one element may be a race.

    Where CTAs talk to each other (talks.py) they may come after one another, and warps of this CTA
    may race.  Those that write parts of an element are left out, for these have no marks.
    """
    address, mask = c.takes(ADDRESSES["global"], "i32")
    c.looks()
    if access == "store":
        name = "_".join(["rowmarks", mode, *([talks] if talks else [])])
        mask = by_rows(c, address, mask, int(nbytes), name)
        c.ret_if(c.compare("icmp eq", mask, 0))
    places, hint, size = c.spread(address), Hint(c), c.constant("i64", int(nbytes))
    own = c.op("add", cta_of(c), 1)
    talk, its = Talk.read(c) if talks else None, Marker(c, mode)
    c.visits()
    lanes = c.each_lane(mask)
    with lanes as (lane,):
        place = places(lane)
        marked = hint.find(c, lanes, place, size, "shadow")
        shadow, sites, slots = (
            c.of_area(marked.area, name) for name in ("shadow", "sites", "slots")
        )
        slotted = c.compare("icmp ne", slots, Value("null", "ptr"))
        with c.when(has_blanks(c, marked.area)):
            marked.fill(c, place, size)
        loop = c.loop(marked.first)
        with loop as (e,):
            by, part = c.item("i32", sites, e), marked.is_part(c, size)
            if talk is None:
                mark = c.load("i32", 1, c.item("i32", shadow, e), 0, 4)
            else:
                mark = marked.hold(c, e)
                pair = c.item("<2 x i32>", c.of_area(marked.area, "times"), e)
            its_site, here = c.load("i32", 1, by, 0, 4), c.op("add", c.site, 1)
            tag = its.atomic if access == "atomic" else its.mine
            if access == "bulk" and mode == "clocks":  # nothing comes behind it yet
                noted = c.call("bulklog", "i1", marked.area, e, c.checks, c.ctx)
                tag = c.select(Value(noted, "i1"), its.pending, tag)
            if access in ("store", "bulk"):
                doubtful, culprit = _doubt(c, talk, marked, e, size, mark, own)
                with c.when(doubtful):
                    told = (c.constant("i32", int(nbytes)), culprit, its_site)
                    c.call("doubt_global", "void", c.checks, lane, place, *told)
            elif talk is not None:
                with c.when(talk.unordered(c, c.invert(part), mark, pair, access)):
                    c.record("cta-race", lane, marked.address(c, e), int(nbytes), mark, its_site)
            if talk is not None:
                now = [tag, c.load("i32", 1, c.field("time"), 0, 4), here]
                if access not in ("store", "bulk"):
                    was = [c.load("i32", 1, pair, 4 * i, 4) for i in range(2)] + [its_site]
                    hides = talk.hides(c, mark, was[0])
                    now = [c.select(hides, *both) for both in zip(was, now, strict=True)]
                for i in range(2):
                    c.store(now[i], pair, 4 * i, 4)
                here = now[2]
            c.store(here, by, 0, 4)
            if talk is None:
                c.store(own, c.item("i32", shadow, e), 0, 4)
            if access in ("store", "bulk"):
                with c.when(c.op("and", slotted, c.invert(part))):
                    _hand_over(c, marked, e, lane, c.cast("trunc", size, "i32"), tag, mode)
            if access in ("store", "bulk") or talk is not None:
                with c.when(c.op("and", slotted, c.invert(part))):
                    c.line("fence seq_cst")
                    reader = find_reader(c, marked, e, own, talk)
                    with c.when(c.compare("icmp ne", reader.mark, 0)):
                        where = (marked.address(c, e), int(nbytes))
                        c.record("cta-race", lane, *where, reader.mark, reader.site)
            if talk is not None:
                marked.give(c, e, own)
            more = c.op("add", e, 1)
            loop.again_if(c.compare("icmp ule", more, marked.last), more)


@code("rowmarks")
def row_marks(c: Code, mode: str, talks: str = "") -> None:
    """The same of a row that is stored."""
    address, lane, lanes = c.takes("i64", "i32", "i32")
    c.looks()
    row = Row.hold(c, address, lanes, "shadow")
    marked, e = row.marked, row.marked.first
    own, its = c.op("add", cta_of(c), 1), Marker(c, mode)
    talk, size = Talk.read(c) if talks else None, c.constant("i64", ROW_BYTES)
    shadow, sites, slots = (c.of_area(marked.area, name) for name in ("shadow", "sites", "slots"))
    mark = c.load("i32", 1, c.item("i32", shadow, e), 0, 4)
    row.part_if(c, _doubt(c, talk, marked, e, size, mark, own)[0])
    slotted = c.compare("icmp ne", slots, Value("null", "ptr"))
    with c.when(slotted):
        given = (marked.hand(c, e), lane, address, bytes_of(c, lanes), its.mine, *c.here)
        row.part_if(c, Value(c.call(f"handwrite_{mode}_asks", "i1", *given), "i1"))
        reader = find_reader(c, marked, e, own, talk, asks=True)
        row.part_if(c, c.compare("icmp ne", reader.mark, 0))
    with c.when(has_blanks(c, row.area)):
        Marked(row.area, e, e).fill(c, address, size)
    if talk is not None:
        pair = c.item("<2 x i32>", c.of_area(marked.area, "times"), e)
        c.store(its.mine, pair, 0, 4)
        c.store(c.load("i32", 1, c.field("time"), 0, 4), pair, 4, 4)
    c.store(c.op("add", c.site, 1), c.item("i32", sites, e), 0, 4)
    c.store(own, c.item("i32", shadow, e), 0, 4)
    with c.when(slotted):
        _hand_over(c, marked, e, lane, bytes_of(c, lanes), its.mine, mode)
        find_reader(c, marked, e, own, talk)
    row.give(c, lanes)
    c.ret(Value("true", "i1"))


def _doubt(
    c: Code, talk: Talk | None, marked: Marked, element: Value, size: Value, mark: Value, own: Value
) -> tuple[Value, Value]:
    """Condition that a store may race with that of another CTA or warp, and who that is."""
    if talk is None:
        fresh, ours = (c.compare("icmp eq", mark, m) for m in (c.constant("i32", 0), own))
        return c.invert(c.op("or", fresh, ours)), mark
    pair = c.item("<2 x i32>", c.of_area(marked.area, "times"), element)
    return _unordered(c, talk, marked, size, mark, pair)


def _hand_over(
    c: Code, marked: Marked, element: Value, lane: Value, nbytes: Value, tag: Value, mode: str
) -> None:
    """Leave note of a store, for the other warps and lanes of this CTA."""
    hand = marked.hand(c, element)
    where = (lane, marked.address(c, element), nbytes)
    c.call(f"handwrite_{mode}", "void", hand, *where, tag, *c.here)
    with c.when(c.compare("icmp ne", c.field("meetings"), Value("null", "ptr"))):
        c.call("handlane", "void", hand, lane, c.checks, c.ctx)


def _unordered(
    c: Code, talk: Talk, marked: Marked, nbytes: Value, mark: Value, pair: Value
) -> tuple[Value, Value]:
    """Condition that an element is another's on which this warp may not rely, and its owner: the
    CTA's mark, or the warp's number + `WARPS`."""
    tag, written = (c.load("i32", 1, pair, 4 * i, 4) for i in range(2))
    writer = c.op("and", c.op("lshr", tag, 1), 31)
    same_cta = c.compare("icmp eq", mark, talk.cta)
    part = marked.is_part(c, nbytes)
    knows = c.compare("icmp ult", tag, talk.known(c, writer))
    knows = c.op("or", knows, c.compare("icmp eq", writer, talk.warp))
    knows = c.op("or", knows, c.invert(is_plain(c, tag)))
    ours = c.op("and", same_cta, c.op("or", knows, part))
    free = c.compare("icmp eq", mark, 0)
    culprit = c.select(same_cta, c.op("or", writer, WARPS), mark)
    with c.when(c.invert(c.op("or", ours, free))) as judged:
        judged.give(c.invert(talk.relies(c, mark, tag, written)))
    return judged.otherwise(Value("false", "i1")), culprit


@code("bulkmarks")
def bulk_marks(c: Code, access: str, *told: str) -> None:
    """Mark what a bulk copy accesses, 512 bytes at a time."""
    kind = "bulk" if access == "store" else access
    with pieces(c, "global") as (at, chunks):
        c.call("_".join(["marks", kind, "16", *told]), "void", at, chunks, *c.here)


@code("confirm")
def confirm(c: Code, space: str, bits: str) -> None:
    """Lanes that store to neighbouring places, or to whole 16-byte chunks, cannot disagree."""
    vector, nbytes = f"<32 x i{bits}>", int(bits) // 8
    base, address, value, mask = c.takes("ptr", ADDRESSES[space], vector, "i32")
    c.looks()
    with c.when(c.compare("icmp ne", c.field("doubted"), 0)):
        c.call(f"settle_{space}_{nbytes}", "void", address, *c.here)
    c.ret_if(in_a_row(c, address, mask, nbytes))
    if nbytes <= 2:
        c.ret_if(_fill_chunks(c, address, nbytes))
    found = Value(
        c.call(f"load_{space}_{bits}", vector, base, address, mask, value), value.type, 32
    )
    others = c.mask(c.compare("icmp ne", found, value))
    c.ret_if(c.compare("icmp eq", others, 0))
    c.visits()
    places = c.spread(address)
    with c.each_lane(others) as (lane,):
        near = IN_SHARED if space == "shared" else 0
        c.record("lane-conflict", lane, places(lane), nbytes, near)


def _fill_chunks(c: Code, address: Value, nbytes: int) -> Value:
    """True if every 16 bytes' worth of lanes fill a chunk of their own."""
    lanes = 16 // nbytes
    heads = c.shuffle(address, None, [lane // lanes * lanes for lane in range(LANES)])
    steps = c.numbers(address.type, (lane % lanes * nbytes for lane in range(LANES)))
    wrong = c.compare("icmp ne", address, c.op("add", heads, steps))
    wrong = c.op("or", wrong, c.compare("icmp ne", c.op("and", heads, 15), 0))
    for i in range(1, LANES // lanes):
        turned = c.shuffle(heads, None, [(lane + i * lanes) % LANES for lane in range(LANES)])
        wrong = c.op("or", wrong, c.compare("icmp eq", turned, heads))
    return c.compare("icmp eq", c.mask(wrong), 0)


# -- doubts: does a store change what another warp, or another CTA, has written? ------------------
#
# Warps that all store one value to one place are no mistake, and compilers make them.


def _there(c: Code, space: str, address: Value) -> Value:
    return c.pointer(address) if space == "global" else c.item("i8", c.of_worker("shared"), address)


def _culprit(c: Code, lane: Value) -> Value:
    """Writer of the value that a lane doubts, and its site plus 1."""
    culprits = Value(c.at(c.field("doubts"), LANES * DOUBT_BYTES), "ptr")
    return c.item("<2 x i32>", culprits, lane)


@code("doubt")
def doubt(c: Code, space: str) -> None:
    """Keep what is there before the store."""
    c.checks, lane, address, nbytes, other, by = c.takes("ptr", "i32", "i64", "i32", "i32", "i32")
    doubts, bit = c.field("doubts"), c.op("shl", c.constant("i32", 1), lane)
    c.put("doubted", c.op("or", c.field("doubted"), bit))
    before = c.item("i8", doubts, c.op("mul", lane, DOUBT_BYTES))
    c.copy_bytes(before, _there(c, space, address), c.cast("zext", nbytes, "i64"))
    for i, value in enumerate((other, by)):
        c.store(value, _culprit(c, lane), 4 * i, 4)


@code("settle")
def settle(c: Code, space: str, nbytes: str) -> None:
    """Record what has changed by the store."""
    (address,) = c.takes(ADDRESSES[space])
    c.looks()
    doubted, item = c.field("doubted"), f"i{8 * int(nbytes)}"
    c.ret_if(c.compare("icmp eq", doubted, 0))
    c.put("doubted", c.constant("i32", 0))
    places, doubts = c.spread(address), c.field("doubts")
    c.visits()
    lanes = c.each_lane(doubted)
    with lanes as (lane,):
        place = c.cast("zext", places(lane), "i64")
        kept = c.item("i8", doubts, c.op("mul", lane, DOUBT_BYTES))
        before, after = (c.load(item, 1, p, 0, 1) for p in (kept, _there(c, space, place)))
        lanes.next_if(c.compare("icmp eq", before, after))
        other, by = (c.load("i32", 1, _culprit(c, lane), 4 * i, 4) for i in range(2))
        kind: str | Value = "race"
        if space == "global":
            of_warp = c.compare("icmp ne", c.op("and", other, WARPS), 0)
            numbers = [c.constant("i32", number_of(k)) for k in ("warp-race", "cta-race")]
            kind = c.select(of_warp, *numbers)
        c.record(kind, lane, place, int(nbytes), other, by)
