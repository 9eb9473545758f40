"""The check "race" between CTAs: who reads an element of global memory that another CTA writes.

reads_<bytes>_<mode>[_talks][_nc][_lanes](addresses, mask, checks, ctx, site): this CTA reads here;
    _talks: where CTAs talk to each other; _nc: through a cache that is not kept coherent; _lanes:
    where lanes may rely on each other (neighbours.py)
rowreads_<mode>[_talks][_nc][_lanes](address, lane, lanes, checks, ctx, site) -> i1: the same of a
    row, if it has one record (rows.py)
bulkreads_<mode>[_talks](addresses, sizes, mask, checks, ctx, site): the same of runs of bytes

Each element that a launch both reads and writes has two slots: of the first CTA that read it, and
of the last other one.  So whoever writes it finds a reader that it is not, if there is any.  A
reader leaves its mark before it looks for a writer's, and a writer before it looks for readers': of
two threads of the host one sees the other.  Accesses to parts of an element are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import table
from ..builder import Builder
from ..hooks import Access, Copy, Run
from ..ptx import Address
from ..runtime.access import ADDRESSES
from ..values import Value
from .areas import Hint, Marked
from .check import LONG, Check, Kind, Subject, at_site, mask_of
from .code import Code, code
from .handovers import stored_by
from .neighbours import handed_over
from .rows import Row, by_rows, bytes_of
from .runs import pieces
from .state import READ, SLOT_BYTES
from .talks import Talk, cta_of


class Readers(Check):
    """Elements that one CTA reads and another writes: Marks has the texts of what is found."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "stale-load",
            "race",
            {
                "global load": "reads {place} through the cache that is not kept coherent (.nc),"
                " where this launch has stored{there}, so that it may find what was there before;"
                " leave out .nc"
            },
        ),
    )
    # Between these addresses lie all arrays that have slots.
    fields: ClassVar = {"slotted": LONG, "slotted_end": LONG}

    @property
    def _told(self) -> str:
        return f"_{self.subject.mode}{'_talks' if self.subject.talks else ''}"

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        swaps = [i for i in subject.instructions if "cas" in i.opcode.modifiers]
        self._handed = handed_over(subject.flow, shared=False)
        self._swapped = {o for i in swaps for o in i.operands if isinstance(o, Address)}

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        """A loop around atom.cas may begin with any value, and so with that of a plain load."""
        strong = table.is_strong(at.ins) and "cta" not in at.ins.opcode.modifiers
        is_plain = not strong and not self._swapped & {*at.ins.operands}
        if at.space == "global" and at.kind == "load" and is_plain:
            mask, name = mask_of(b, at.address, condition), f"reads_{at.nbytes}{self._told}"
            if "nc" in at.ins.opcode.modifiers:
                name += "_nc"
            if at.ins.index in self._handed:
                name += "_lanes"
            b.call(name, "void", b.vector(at.address), mask, *at_site(at.ins))
        return condition

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value:
        whole = b.op("and", mask, b.mask(b.compare("icmp uge", at.sizes, at.nbytes)))
        name = f"reads_{at.nbytes}{self._told}"
        b.call(name, "void", b.vector(at.source), whole, *at_site(at.ins))
        return mask

    def far(self, b: Builder, run: Run, mask: Value) -> Value:
        if run.kind == "load":
            here = at_site(run.ins)
            b.call(f"bulkreads{self._told}", "void", run.address, run.sizes, mask, *here)
        return mask


@code("reads")
def reads(c: Code, nbytes: str, mode: str, *how: str) -> None:
    address, mask = c.takes(ADDRESSES["global"], "i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", c.field("slotted_end"), 0))
    acts = c.lanes(mask)
    ends = (c.reduce(f"u{least}", c.select(acts, address, other)) for least, other in _ENDS)
    least, most = ends
    below = c.compare("icmp uge", least, c.field("slotted_end"))
    c.ret_if(c.op("or", below, c.compare("icmp ult", most, c.field("slotted"))))
    area, known = Hint(c).search(c, least)
    without = c.compare("icmp eq", c.of_area(area, "slots"), Value("null", "ptr"))
    without = c.op("and", without, c.compare("icmp ult", most, c.of_area(area, "end")))
    c.ret_if(c.op("and", known, without))
    left = by_rows(c, address, mask, int(nbytes), "_".join(["rowreads", mode, *how]))
    c.ret_if(c.compare("icmp eq", left, 0))
    places, hint, size = c.spread(address), Hint(c), c.constant("i64", int(nbytes))
    own, talk = c.op("add", cta_of(c), 1), Talk.read(c) if "talks" in how else None
    c.visits()
    lanes = c.each_lane(left)
    with lanes as (lane,):
        marked = hint.find(c, lanes, places(lane), size, "slots")
        lanes.next_if(marked.is_part(c, size))
        if "lanes" in how:
            alike = c.op("and", c.mask(c.compare("icmp eq", address, places(lane))), mask)
        loop = c.loop(marked.first)
        with loop as (e,):
            hand, here = marked.hand(c, e), (marked.address(c, e), c.constant("i32", int(nbytes)))
            c.call(f"handread_{mode}", "void", hand, lane, *here, *c.here)
            if "lanes" in how:
                c.call("handlanes", "void", hand, lane, alike, *here, *c.here)
            if talk is None:
                _enter(c, marked, e, own, talk)
                mark = c.load("i32", 1, c.item("i32", c.of_area(marked.area, "shadow"), e), 0, 4)
            else:
                mark = marked.hold(c, e)
                _enter(c, marked, e, own, talk)
            races = _races(c, marked, e, own, talk, mark)
            site = c.load("i32", 1, c.item("i32", c.of_area(marked.area, "sites"), e), 0, 4)
            if talk is not None:
                marked.give(c, e, mark)
            found = {"stale-load": c.compare("icmp ne", mark, 0)} if "nc" in how else {}
            for kind, wrong in (found | {"cta-race": races}).items():
                with c.when(wrong):
                    c.record(kind, lane, marked.address(c, e), int(nbytes), mark, site)
                    lanes.next()
            more = c.op("add", e, 1)
            loop.again_if(c.compare("icmp ule", more, marked.last), more)


_ENDS = (("min", -1), ("max", 0))


@code("rowreads")
def row_reads(c: Code, mode: str, *how: str) -> None:
    """The same of a row."""
    address, lane, lanes = c.takes("i64", "i32", "i32")
    c.looks()
    row = Row.hold(c, address, lanes, "slots")
    marked, e = row.marked, row.marked.first
    own, talk = c.op("add", cta_of(c), 1), Talk.read(c) if "talks" in how else None
    hand, none = marked.hand(c, e), c.compare("icmp eq", row.was, 0)
    its = (hand, lane, address, bytes_of(c, lanes), *c.here)
    row.part_if(c, Value(c.call(f"handread_{mode}_asks", "i1", *its), "i1"))
    if "lanes" in how:
        its_lanes = c.compare("icmp eq", row.was, lanes)
        recent, others = stored_by(c, hand, lane)
        row.part_if(c, c.op("and", recent, c.op("or", others, c.invert(its_lanes))))
    mark = c.load("i32", 1, c.item("i32", c.of_area(marked.area, "shadow"), e), 0, 4)
    if "nc" in how:
        row.part_if(c, c.compare("icmp ne", mark, 0))
    row.part_if(c, _races(c, marked, e, own, talk, mark))
    c.call(f"handread_{mode}", "void", *its)
    _enter(c, marked, e, own, talk)
    row.give(c, c.select(none, lanes, row.was))
    c.ret(Value("true", "i1"))


def _races(
    c: Code, marked: Marked, element: Value, own: Value, talk: Talk | None, mark: Value
) -> Value:
    """True if another CTA, whose mark that is, wrote an element, with nothing to order the two."""
    if talk is None:
        zero = c.constant("i32", 0)
        return c.op("and", *(c.compare("icmp ne", mark, m) for m in (zero, own)))
    pair = c.item("<2 x i32>", c.of_area(marked.area, "times"), element)
    return talk.unordered(c, Value("true", "i1"), mark, pair)


def _slot(c: Code, marked: Marked, element: Value, number: int) -> Value:
    """One of an element's slots: mark, site, tag and time of a reader."""
    place = c.item("i8", c.of_area(marked.area, "slots"), c.op("mul", element, 2 * SLOT_BYTES))
    return Value(c.at(place, number * SLOT_BYTES), "ptr") if number else place


def _enter(c: Code, marked: Marked, element: Value, own: Value, talk: Talk | None) -> None:
    """Leave this CTA's mark in a slot."""
    first, second = (_slot(c, marked, element, number) for number in (0, 1))
    there = c.load("i32", 1, first, 0, 4)
    with c.when(c.compare("icmp eq", there, 0)) as free:
        order = "seq_cst seq_cst, align 4"
        pair = c.emit(f"cmpxchg {first}, i32 0, {own} {order}")
        free.give(Value(c.emit(f"extractvalue {{ i32, i1 }} {pair}, 0"), "i32"))
    was = free.otherwise(there)
    ours = c.op("or", c.compare("icmp eq", was, 0), c.compare("icmp eq", was, own))
    new = c.compare("icmp ne", c.load("i32", 1, second, 0, 4), own)
    with c.when(c.op("and", new, c.invert(ours))):
        c.emit(f"atomicrmw xchg {second}, {own} seq_cst, align 4")
    slot = c.select(ours, first, second)
    c.store(c.op("add", c.site, 1), slot, 4, 4)
    if talk is not None:
        c.store(talk.tag(c), slot, 8, 4)
        c.store(c.load("i32", 1, c.field("time"), 0, 4), slot, 12, 4)


@dataclass(frozen=True)
class Reader:
    """Another CTA that read an element. mark: with READ; 0: there is none.  site: where, plus 1."""

    mark: Value
    site: Value


def find_reader(
    c: Code, marked: Marked, element: Value, own: Value, talk: Talk | None, asks: bool = False
) -> Reader:
    """A CTA that read an element which this one writes, with nothing that orders the two.

    asks: nothing is noted.
    """
    found = [c.constant("i32", 0)] * 2
    for number in (0, 1):
        slot = _slot(c, marked, element, number)
        mark, site = (c.load("i32", 1, slot, 4 * i, 4) for i in range(2))
        if talk is None:
            some = (c.compare("icmp ne", mark, m) for m in (c.constant("i32", 0), own))
            other = c.op("and", *some)
        else:
            other = talk.unordered(c, Value("true", "i1"), mark, Value(c.at(slot, 8), "ptr"))
        pairs = zip((c.op("or", mark, READ), site), found, strict=True)
        found = [c.select(other, its, before) for its, before in pairs]
        if talk is not None and not asks:  # what comes later need not be compared with it
            c.store(c.constant("i32", 0), slot, 0, 4)
    return Reader(*found)


@code("bulkreads")
def bulk_reads(c: Code, *told: str) -> None:
    """Look at what a bulk copy reads, 512 bytes at a time."""
    with pieces(c, "global") as (at, chunks):
        c.call("_".join(["reads_16", *told]), "void", at, chunks, *c.here)
