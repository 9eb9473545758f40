"""The check "init" of local memory: which bytes of it a lane has written.

    localbegin_<bytes>(checks, ctx): a warp begins a CTA
    localwrites_<nbytes>_<bytes>(offsets, mask, checks, ctx): lanes store there
    localreads_<nbytes>_<element>_<bytes>(offsets, mask, checks, ctx, site): record lanes that read
        an element of which they have written no byte

bytes: of local memory that a lane has.  An element that is written in part passes: compilers copy
structures with the gaps between their fields.
"""

from __future__ import annotations

from typing import ClassVar

from ..builder import Builder
from ..hooks import Access
from ..layout import LANES
from ..routine import VECTOR
from ..values import Value
from .check import HERE, POINTER, Check, Kept, Kind, Room, at_site, is_generic, mask_of, zeros
from .code import Code, code


class Local(Check):
    """Local memory that a lane reads before it has written it."""

    asked = frozenset({"init"})
    kinds = (
        Kind(
            "uninitialised-local",
            "init",
            {
                "local": "reads {place}, which these lanes never wrote; look at the paths that lead"
                " here without a store, and at the index"
            },
        ),
    )
    fields: ClassVar = {"local_written": POINTER}  # of each byte of each lane of each warp

    @property
    def _nbytes(self) -> int:
        return self.subject.flow.local_bytes

    @property
    def active(self) -> bool:
        return super().active and bool(self._nbytes)

    def keep(self, room: Room) -> Kept:
        return {"local_written": zeros(room.warps * LANES * self._nbytes // 4 + 1)}

    def begin(self, b: Builder) -> None:
        b.call(f"localbegin_{self._nbytes}", "void", *HERE)

    def local(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        self._look(b, at, b.mask(condition))
        return condition

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        """A generic access may be one to local memory."""
        if at.space == "global" and is_generic(at.ins):
            offset = b.op("sub", b.vector(at.address), b.local_memory())
            inside = b.mask(b.compare("icmp ult", offset, self._nbytes))
            self._look(b, at, b.op("and", mask_of(b, at.address, condition), inside))
        return condition

    def _look(self, b: Builder, at: Access, mask: Value) -> None:
        offset = b.op("sub", b.vector(at.address), b.local_memory())
        offset = b.cast("trunc", offset, "i32")
        if at.kind != "store":
            digits = at.ins.opcode.type[1:]
            size = min(int(digits) // 8 if digits.isdecimal() else 4, at.nbytes)
            name = f"localreads_{at.nbytes}_{size}_{self._nbytes}"
            b.call(name, "void", offset, mask, *at_site(at.ins))
        if at.kind != "load":
            b.call(f"localwrites_{at.nbytes}_{self._nbytes}", "void", offset, mask, *HERE)


def _written(c: Code, local_bytes: int, lane: Value | int) -> Value:
    """Address of the marks of a lane's local memory."""
    number = c.op("add", c.op("mul", c.warp(), LANES), lane)
    at = c.op("mul", c.cast("zext", number, "i64"), local_bytes)
    return c.item("i8", c.field("local_written"), at)


@code("localbegin")
def begin(c: Code, local_bytes: str) -> None:
    c.goes()
    size = int(local_bytes)
    c.clear_bytes(_written(c, size, 0), c.constant("i64", LANES * size))


@code("localwrites")
def writes(c: Code, nbytes: str, local_bytes: str) -> None:
    offset, mask = c.takes(VECTOR, "i32")
    c.goes()
    places, count = c.spread(offset), int(nbytes)
    with c.each_lane(mask) as (lane,):
        place = c.item("i8", _written(c, int(local_bytes), lane), places(lane))
        c.store(c.vector(c.constant("i8", 1), count), place, 0, 1)


@code("localreads")
def reads(c: Code, nbytes: str, element: str, local_bytes: str) -> None:
    offset, mask = c.takes(VECTOR, "i32")
    c.looks()
    places, size = c.spread(offset), int(element)
    c.visits()
    lanes = c.each_lane(mask)
    with lanes as (lane,):
        place = c.item("i8", _written(c, int(local_bytes), lane), places(lane))
        for first in range(0, int(nbytes), size):
            marks = c.load(f"i{8 * size}", 1, place, first, 1)
            with c.when(c.compare("icmp eq", marks, 0)):
                at = c.cast("zext", c.op("add", places(lane), first), "i64")
                c.record("uninitialised-local", lane, at, size)
                lanes.next()
