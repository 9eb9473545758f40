"""The check "race" of warps and lanes of one CTA that hand over data through global memory.

    handround(checks, passed, fresh): a CTA begins (fresh)
    handfence_<release|acquire|both>(mask, checks, ctx): a fence, or an access that is one
    handwrite_<mode>(hand, lane, address, bytes, tag, checks, ctx, site): a store of this warp,
        which leaves that tag
    handlane(hand, lane, checks, ctx): by which lane
    handread_<mode>(hand, lane, address, bytes, checks, ctx, site): a load of this warp
    handlanes(hand, lane, others, address, bytes, checks, ctx, site): of a lane, where `others` are
        those that load the same element at once
    handwrite_<mode>_asks(…), handread_<mode>_asks(…) -> i1: whether that would be a finding

Each element that an entry may both read and write has a record, a hand (`HAND_BYTES`), which Marks
and Readers find: who wrote it last and who read it last, by tags as shared memory has them
(state.py).  Compilers have all warps load what one of them needs, and then store by that one: what
its writer has itself loaded at the same place in the code, since the two met last, is left out.
Fences, and accesses with .release and .acquire, order two warps whatever the variable.
"""

from __future__ import annotations

from typing import ClassVar

from ..builder import Builder
from ..ptx import Instruction
from ..values import Text, Value
from .check import HERE, POINTER, Check, Kept, Room, zeros
from .code import Code, code
from .state import HAND_LANE, PENDING, READ, WARPS, number_of
from .tags import Marker
from .talks import ACQUIRES, RELEASES, cta_of

# Of a hand: the CTA's mark, tag and site + 1 of the last store, and by which lane; what its warp
# had read before, as bits, and the tag of that; then of the last load the CTA's mark, tag and sites
# as bits, and the last site + 1.
_WRITER, _TAG, _SITE = range(0, HAND_LANE, 4)
_KNEW, _KNEW_TAG = range(HAND_LANE + 4, 24, 4)
_READER, _READ_TAG, _READ_SITES, _READ_SITE = range(24, 40, 4)


class Handovers(Check):
    """Elements of global memory that one warp, or lane, of a CTA writes and another reads."""

    asked = frozenset({"race"})
    # handed: of each warp the first tag that it has not released; then for each warp what of these
    # it has acquired.
    fields: ClassVar = {"handed": POINTER}

    def keep(self, room: Room) -> Kept:
        return {"handed": zeros(32 * (1 + room.warps))}

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        if self._fences:
            b.call("handround", "void", checks, passed, fresh)

    @property
    def _fences(self) -> bool:
        return any(
            i.opcode.base in ("fence", "membar") or i.opcode.modifiers & (RELEASES | ACQUIRES)
            for i in self.subject.instructions
        )

    def releases(self, b: Builder, ins: Instruction) -> None:
        if RELEASES & ins.opcode.modifiers:
            self._fence(b, ins, "release")

    def acquires(self, b: Builder, ins: Instruction) -> None:
        if ACQUIRES & ins.opcode.modifiers:
            self._fence(b, ins, "acquire")

    def fence(self, b: Builder, ins: Instruction) -> None:
        if "proxy" not in ins.opcode.modifiers:
            self._fence(b, ins, "both")

    @staticmethod
    def _fence(b: Builder, ins: Instruction, what: str) -> None:
        b.call(f"handfence_{what}", "void", b.mask(b.condition(ins)), *HERE)


@code("handround")
def begin(c: Code) -> None:
    c.checks, _, fresh = c.takes("ptr", "i1", "i1")
    c.ret_if(c.invert(fresh))
    rows = c.cast("zext", c.op("add", c.of_worker("warps"), 1), "i64")
    c.clear_bytes(c.field("handed"), c.op("shl", rows, 7))


def _acquired(c: Code) -> Value:
    """Address of what this warp has acquired of the others."""
    return c.item("i32", c.field("handed"), c.op("shl", c.op("add", c.warp(), 1), 5))


@code("handfence")
def fence(c: Code, what: str) -> None:
    (mask,) = c.takes("i32")
    c.goes()
    c.ret_if(c.compare("icmp eq", mask, 0))
    if what != "acquire":
        c.store(c.tick(), c.item("i32", c.field("handed"), c.warp()), 0, 4)
    if what != "release":
        c.copy_bytes(_acquired(c), c.field("handed"), c.constant("i64", 128))


class _Hand:
    """A hand, and how this warp stands to it."""

    def __init__(self, c: Code, mode: str, hand: Value) -> None:
        self._c, self._hand = c, hand
        self.its, self.own = Marker(c, mode), c.op("add", cta_of(c), 1)

    def word(self, offset: int) -> Value:
        return self._c.load("i32", 1, self._hand, offset, 4)

    def put(self, offset: int, value: Value | int) -> None:
        value = self._c.constant("i32", value) if isinstance(value, int) else value
        self._c.store(value, self._hand, offset, 4)

    def races(self, owner: int, tag: Value) -> Value:
        """True if another warp of this CTA left a tag, and nothing orders the two."""
        c = self._c
        ours = c.compare("icmp eq", self.word(owner), self.own)
        acquired = c.load("i32", 1, c.item("i32", _acquired(c), _warp_of(c, tag)), 0, 4)
        apart = c.op("and", self.its.clash(c, tag), c.compare("icmp uge", tag, acquired))
        return c.op("and", ours, apart)


def _warp_of(c: Code, tag: Value) -> Value:
    return c.op("and", c.op("lshr", tag, 1), 31)


def _bit(c: Code) -> Value:
    """A bit for this place in the code, which few others share."""
    return c.op("shl", c.constant("i32", 1), c.op("and", c.site, 31))


@code("handwrite")
def write(c: Code, mode: str, asks: str = "") -> None:
    hand, lane, address, nbytes, tag = c.takes("ptr", "i32", "i64", "i32", "i32")
    c.looks()
    its = _Hand(c, mode, hand)
    read = its.word(_READ_TAG)
    races = its.races(_READER, read)
    if asks:
        return c.ret(races)
    with c.when(races):
        other = c.op("or", _warp_of(c, read), c.constant("i32", READ | WARPS))
        c.record("warp-race", lane, address, nbytes, other, its.word(_READ_SITE))
    same = c.compare("icmp eq", _warp_of(c, read), c.warp())
    same = c.op("and", same, c.compare("icmp eq", its.word(_READER), its.own))
    its.put(_KNEW, c.select(same, its.word(_READ_SITES), 0))
    its.put(_KNEW_TAG, read)
    for offset, value in ((_WRITER, its.own), (_TAG, tag), (_SITE, c.op("add", c.site, 1))):
        its.put(offset, value)
    return None


@code("handlane")
def write_of_lane(c: Code) -> None:
    hand, lane = c.takes("ptr", "i32")
    c.goes()
    count = c.load("i32", 1, c.item("i32", c.field("meetings"), c.warp()), 0, 4)
    c.store(c.op("or", count, lane), hand, HAND_LANE, 4)


@code("handread")
def read(c: Code, mode: str, asks: str = "") -> None:
    hand, lane, address, nbytes = c.takes("ptr", "i32", "i64", "i32")
    c.looks()
    its = _Hand(c, mode, hand)
    tag, knew = its.word(_TAG), its.word(_KNEW_TAG)
    pending = c.compare("icmp uge", tag, PENDING)
    loaded = c.compare("icmp ne", c.op("and", its.word(_KNEW), _bit(c)), 0)
    alike = c.op("and", loaded, c.op("and", its.its.clash(c, knew), c.invert(pending)))
    races = c.op("and", its.races(_WRITER, tag), c.invert(alike))
    if asks:
        return c.ret(races)
    with c.when(races):
        numbers = [c.constant("i32", number_of(k)) for k in ("unfinished-bulk", "warp-race")]
        kind, other = c.select(pending, *numbers), c.op("or", _warp_of(c, tag), WARPS)
        c.record(kind, lane, address, nbytes, other, its.word(_SITE))
    before = its.word(_READ_TAG)
    same = c.compare("icmp eq", _warp_of(c, before), c.warp())
    same = c.op("and", same, c.compare("icmp eq", its.word(_READER), its.own))
    its.put(_READ_SITES, c.op("or", c.select(same, its.word(_READ_SITES), 0), _bit(c)))
    its.put(_READER, its.own)
    its.put(_READ_TAG, its.its.reads)
    its.put(_READ_SITE, c.op("add", c.site, 1))
    return None


def stored_by(c: Code, hand: Value, lane: Value) -> tuple[Value, Value]:
    """Conditions that a lane of this warp stored last, and they have not come together since; and
    that it was another than this one."""
    ours = c.compare("icmp eq", c.load("i32", 1, hand, _WRITER, 4), c.op("add", cta_of(c), 1))
    count = c.load("i32", 1, c.item("i32", c.field("meetings"), c.warp()), 0, 4)
    writer = c.load("i32", 1, hand, HAND_LANE, 4)
    differs = c.op("xor", writer, c.op("or", count, lane))
    recent = c.op("and", ours, c.compare("icmp ult", differs, 32))
    return recent, c.compare("icmp ne", differs, 0)


@code("handlanes")
def read_of_lane(c: Code) -> None:
    hand, lane, others, address, nbytes = c.takes("ptr", "i32", "i32", "i64", "i32")
    c.looks()
    its = c.op("and", c.load("i32", 1, hand, HAND_LANE, 4), 31)
    joins = c.compare("icmp ne", c.op("and", c.op("lshr", others, its), 1), 0)
    with c.when(c.op("and", c.op("and", *stored_by(c, hand, lane)), c.invert(joins))):
        c.record("lane-race", lane, address, nbytes, its, c.load("i32", 1, hand, _SITE, 4))
