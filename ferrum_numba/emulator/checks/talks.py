"""The check "race" of CTAs that talk to each other: what one wrote, and who may rely on it.

    talkround(checks, passed, fresh): a CTA begins (fresh), or all warps passed a barrier
    talk_<release|acquire|both>(checks, ctx, mask): an atomic operation or a fence that makes known
        what this warp knows, or lets it rely on what others have made known

A store to global memory leaves the tag that it would leave in shared memory, and a time that all
CTAs share.  Another CTA may use it where its own CTA has made that tag known, and where this warp,
or one that comes before it, has acquired something after that time.  Which atomic variable it was
is not looked at.  Another warp of the same CTA may store there where the tag is before its clock;
its loads are not looked at, for compilers have all warps load what one of them needs.
Source: PTX ISA, "Memory Consistency Model".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..builder import Builder
from ..ptx import Instruction
from ..values import Text, Value
from .check import HERE, POINTER, Check, Kept, Room, zeros
from .clocks import own_clock
from .code import Code, code
from .state import AWAITED

RELEASES, ACQUIRES = frozenset({"release", "acq_rel"}), frozenset({"acquire", "acq_rel"})


class Talks(Check):
    """Order of CTAs that communicate through atomic operations."""

    asked = frozenset({"race"})
    # time: counts, over all workers, how CTAs talk to each other.  released: of each CTA and warp
    # the first tag that is not known to others.  acquired: of each warp of this CTA when it last
    # acquired something: the time, and its tag; then the same as it was at the last barrier of all
    # warps, for a warp may have gone on from there before others do.
    fields: ClassVar = {"time": POINTER, "released": POINTER, "acquired": POINTER}

    @property
    def active(self) -> bool:
        return super().active and self.subject.talks

    def keep(self, room: Room) -> Kept:
        return {"acquired": zeros(2 * 64)}

    def share(self, room: Room) -> Kept:
        return {"time": zeros(1), "released": zeros(room.ctas * room.warps)}

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        b.call("talkround", "void", checks, passed, fresh)

    def releases(self, b: Builder, ins: Instruction) -> None:
        if RELEASES & ins.opcode.modifiers:
            self._talk(b, ins, "release")

    def acquires(self, b: Builder, ins: Instruction) -> None:
        if ACQUIRES & ins.opcode.modifiers:
            self._talk(b, ins, "acquire")

    def fence(self, b: Builder, ins: Instruction) -> None:
        if "proxy" not in ins.opcode.modifiers:
            self._talk(b, ins, "both")

    @staticmethod
    def _talk(b: Builder, ins: Instruction, what: str) -> None:
        if not ins.opcode.modifiers & {"cta", "shared", "shared::cta"}:  # it reaches others
            b.call(f"talk_{what}", "void", *HERE, b.mask(b.condition(ins)))


@code("talkround")
def begin(c: Code) -> None:
    c.checks, passed, fresh = c.takes("ptr", "i1", "i1")
    c.ret_if(c.invert(passed))
    now, nbytes = c.field("acquired"), c.constant("i64", 256)
    with c.when(fresh):
        c.clear_bytes(now, nbytes)
    c.copy_bytes(Value(c.at(now, 256), "ptr"), now, nbytes)


def cta_of(c: Code) -> Value:
    """The CTA's number."""
    return c.cast("trunc", c.of_worker("cta"), "i32")


def _released(c: Code, cta: Value, warp: Value) -> Value:
    """Address of the first tag that a warp of a CTA has not published."""
    row = c.op("mul", cta, c.of_worker("warps"))
    return c.item("i32", c.field("released"), c.cast("zext", c.op("add", row, warp), "i64"))


@code("talk")
def talk(c: Code, what: str) -> None:
    """A table has for each CTA and warp the first tag that is not known."""
    c.goes()
    (mask,) = c.takes("i32")
    c.ret_if(c.compare("icmp eq", mask, 0))
    stamp, warp = c.field("stamp"), c.warp()
    before = c.emit(f"atomicrmw add {c.field('time')}, i32 1 seq_cst")
    time, after = c.op("add", Value(before, "i32"), 1), c.tick()
    if what in ("acquire", "both"):
        pair = c.item("i32", c.field("acquired"), c.op("shl", warp, 1))
        c.store(time, pair, 0, 4)
        c.store(stamp, pair, 4, 4)
    if what in ("release", "both"):
        seen, cta, warps = own_clock(c), cta_of(c), c.of_worker("warps")
        loop = c.loop(c.constant("i32", 0))
        with loop as (w,):
            known = c.load("i32", 1, c.item("i32", seen, w), 0, 4)
            limit = c.select(c.compare("icmp eq", w, warp), after, known)
            c.store(limit, _released(c, cta, w), 0, 4)
            more = c.op("add", w, 1)
            loop.again_if(c.compare("icmp ult", more, warps), more)


def is_plain(c: Code, tag: Value) -> Value:
    """True for the tag of a store that is no atomic operation."""
    return c.compare("icmp eq", c.op("and", tag, AWAITED | 1), 1)


@dataclass(frozen=True)
class Talk:
    """CTAs that this warp may rely on. cta: the CTA's mark; seen: the warp's clock."""

    cta: Value
    warp: Value
    warps: Value
    seen: Value
    acquired: Value

    @staticmethod
    def read(c: Code) -> Talk:
        cta = c.op("add", cta_of(c), 1)
        return Talk(cta, c.warp(), c.of_worker("warps"), own_clock(c), c.field("acquired"))

    def known(self, c: Code, number: Value) -> Value:
        """The first time of a warp of this CTA that this warp does not know."""
        return c.load("i32", 1, c.item("i32", self.seen, number), 0, 4)

    def tag(self, c: Code, access: str = "load") -> Value:
        """Tag that an access of this warp leaves. access: "load", "store" or "atomic"."""
        low = AWAITED | 1 if access == "atomic" else 1
        return c.op("or", c.op("or", c.field("stamp"), c.op("shl", self.warp, 1)), low)

    def hides(self, c: Code, mark: Value, tag: Value) -> Value:
        """True if an atomic operation follows a store of its own CTA that no other knows of."""
        ours = c.op("and", c.compare("icmp eq", mark, self.cta), is_plain(c, tag))
        writer = c.op("and", c.op("lshr", tag, 1), 31)
        known = c.load("i32", 1, _released(c, c.op("sub", self.cta, 1), writer), 0, 4)
        return c.op("and", ours, c.compare("icmp uge", tag, known))

    def unordered(
        self, c: Code, looks: Value, mark: Value, pair: Value, access: str = "store"
    ) -> Value:
        """True if this warp looks at another CTA's access, which may come after its own.

        mark: of that CTA, if there is one.  pair: the access's tag and time.  access: this warp's;
        atomic operations do not race with each other.
        """
        tag, then = (c.load("i32", 1, pair, 4 * i, 4) for i in range(2))
        if access == "atomic":
            looks = c.op("and", looks, is_plain(c, tag))
        for nobody in (c.constant("i32", 0), self.cta):
            looks = c.op("and", looks, c.compare("icmp ne", mark, nobody))
        with c.when(looks) as judged:
            judged.give(c.invert(self.relies(c, mark, tag, then)))
        return judged.otherwise(Value("false", "i1"))

    def relies(self, c: Code, mark: Value, tag: Value, written: Value) -> Value:
        """True if this warp may rely on what another CTA wrote, whose mark that is."""
        writer = c.op("and", c.op("lshr", tag, 1), 31)
        place = _released(c, c.op("sub", mark, 1), writer)
        told = c.compare("icmp ult", tag, c.load("i32", 1, place, 0, 4))
        with c.when(told) as acquired:
            loop = c.loop(c.constant("i32", 0))
            with loop as (w,):
                pair = c.item("i32", self.acquired, c.op("shl", w, 1))
                own, known = c.compare("icmp eq", w, self.warp), self.known(c, w)
                for offset in (0, 256):
                    time, its = (c.load("i32", 1, pair, offset + 4 * i, 4) for i in range(2))
                    reaches = c.op("or", own, c.compare("icmp ult", its, known))
                    fine = c.op("and", c.compare("icmp ugt", time, written), reaches)
                    loop.leave(fine, Value("true", "i1"))
                more = c.op("add", w, 1)
                loop.leave(c.compare("icmp uge", more, self.warps), Value("false", "i1"))
                loop.again(more)
            acquired.give(loop.results[0])
        return acquired.otherwise(Value("false", "i1"))
