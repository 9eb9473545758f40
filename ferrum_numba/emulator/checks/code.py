"""Functions that look at what a kernel does, written line by line; and how a finding is kept.

record(checks, ctx, site, kind, lane, address, bytes, other, by): a count, and the first example
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from ..layout import WARP, State, state_offset
from ..routine import Routine, routine
from ..values import Value
from .state import RECORD, STEP, Area, check_state, kinds, number_of, record_offset

_TYPES = {
    ctypes.c_void_p: "ptr",
    ctypes.c_uint32: "i32",
    ctypes.c_int32: "i32",
    ctypes.c_uint64: "i64",
    ctypes.c_int64: "i64",
}


class Code(Routine):
    """A function of the checks. checks, ctx, site: its last arguments, once they are taken."""

    checks: Value
    ctx: Value
    site: Value

    def looks(self) -> None:
        """Take the last arguments of a function that may record something."""
        self.checks, self.ctx, self.site = self.takes("ptr", "ptr", "i32")

    def goes(self) -> None:
        """Take the last arguments of a function that records nothing."""
        self.checks, self.ctx = self.takes("ptr", "ptr")

    @property
    def here(self) -> Sequence[Value]:
        """The last arguments, to hand on."""
        return self.checks, self.ctx, self.site

    # -- structures -----------------------------------------------------------------------------

    def _place(self, kind: type[ctypes.Structure], pointer: Value, name: str) -> tuple[str, str]:
        """The type of a field and where it lies."""
        field = getattr(kind, name)
        types = {name: its for name, its, *_ in kind._fields_}
        return _TYPES[types[name]], self.at(pointer, field.offset)

    def _load(self, kind: type[ctypes.Structure], pointer: Value, name: str) -> Value:
        llvm_type, where = self._place(kind, pointer, name)
        return self.load(llvm_type, 1, where, 0, 4 if llvm_type == "i32" else 8)

    def field(self, name: str) -> Value:
        """A field of the worker's CheckState."""
        return self._load(check_state(), self.checks, name)

    def put(self, name: str, value: Value) -> None:
        """Store a field of the worker's CheckState."""
        _, where = self._place(check_state(), self.checks, name)
        self.store(value, where, 0, 4)

    def of_area(self, area: Value, name: str) -> Value:
        """A field of an array."""
        return self._load(Area, area, name)

    def of_worker(self, name: str) -> Value:
        """A field of the worker's State."""
        return self._load(State, self.field("worker"), name)

    def warp(self) -> Value:
        """The warp's number."""
        return self.load("i32", 1, self.ctx, WARP, 4)

    def tick(self) -> Value:
        """Advance the time; return the new one."""
        now = self.op("add", self.field("stamp"), STEP)
        self.put("stamp", now)
        return now

    # -- findings -------------------------------------------------------------------------------

    def visits(self) -> None:
        """Begin to record: lanes of one visit go together."""
        self.put("visit", self.op("add", self.field("visit"), 1))

    def record(
        self,
        kind: str | Value,
        lane: Value,
        address: Value,
        nbytes: Value | int,
        other: Value | int = 0,
        by: Value | int = 0,
    ) -> None:
        """Record a finding. other: who else; by: the site plus 1 of what that did."""
        number = self.constant("i32", number_of(kind)) if isinstance(kind, str) else kind
        wide = self.cast("zext", address, "i64")
        words = [self.constant("i32", w) if isinstance(w, int) else w for w in (nbytes, other, by)]
        self.call("record", "void", *self.here, number, lane, wide, *words)


def code(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the decorated writer of a function of the checks to the library."""
    return routine(name, Code)


@code("record")
def record(c: Code) -> None:
    c.looks()
    kind, lane, address, nbytes, other, by = c.takes("i32", "i32", "i64", "i32", "i32", "i32")
    number = c.op("add", c.op("mul", c.site, len(kinds())), kind)
    place = c.op("mul", c.cast("zext", number, "i64"), RECORD.itemsize)
    its = c.item("i8", c.field("records"), place)
    visit, count = c.field("visit"), c.load("i64", 1, its, 0, 8)
    c.store(c.constant("i32", 1), c.field("found"), 0, 4)
    with c.when(c.compare("icmp eq", count, 0)):
        cta = c.load("i32", 3, c.field("worker"), state_offset("ctaid"), 4)
        words: dict[str, Value] = {"address": address, "warp": c.warp(), "cta": cta}
        words |= {"visit": visit, "nbytes": nbytes, "other": other, "by": by}
        for name, value in words.items():
            c.store(value, its, record_offset(name), 4)
    same = c.compare("icmp eq", c.load("i32", 1, its, record_offset("visit"), 4), visit)
    lanes = c.load("i32", 1, its, record_offset("lanes"), 4)
    bit = c.op("shl", c.constant("i32", 1), lane)
    c.store(c.select(same, c.op("or", lanes, bit), lanes), its, record_offset("lanes"), 4)
    c.store(c.op("add", count, 1), its, 0, 8)
