"""The hooks of a trace: after each instruction that is traced, code that records it.

They are the hooks of the checks (checks/watch.py), whose bounds also keep a traced run safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from ..builder import Builder
from ..checks.state import offset
from ..checks.watch import Watch, lanes_of_rows
from ..hooks import Access, Copy
from ..ptx import Body, Instruction, Register, registers_of
from ..values import Value
from . import tape as tape  # its function goes into the library
from .sites import ACCESS, KINDS, Site, find_sites, key_of

_Access = tuple[Value, Value, Value, Value]  # fields of ACCESS


class Tap(Watch):
    """Records the instructions on some lines, those that mention some registers, or all."""

    stepwise = True

    def __init__(
        self,
        checks: frozenset[str],
        body: Body,
        threads: int | None,
        lines: Collection[int] = (),
        registers: Collection[str] = (),
    ) -> None:
        super().__init__(checks, body, threads)
        self._sites = find_sites(body, threads, lines, registers)
        self.sites = list(self._sites.values())
        # Of the instruction that is being lowered: what there is to record so far.
        self._site: Site | None = None
        self._values: list[tuple[str, Value]] = []
        self._accesses: list[_Access] = []
        self._own: dict[str, Register] = {}
        self._mask = self._active = Value("-1", "i32")

    def __repr__(self) -> str:
        sites = repr(sorted(self._sites))
        return f"{super().__repr__()}, tap {hashlib.sha256(sites.encode()).hexdigest()}"

    @property
    def widest(self) -> int:
        """Bytes that the largest event takes."""
        return max((site.dtype.itemsize for site in self.sites), default=0)

    def preamble(self) -> list[str]:
        return [
            *super().preamble(),
            f"  %tape.at = getelementptr i8, ptr %checks, i64 {offset('tape')}",
            "  %tape = load ptr, ptr %tape.at, align 8",
        ]

    # -- instructions ---------------------------------------------------------------------------

    def reads(self, b: Builder, ins: Instruction) -> None:
        super().reads(b, ins)
        self._begin(b, ins)

    def writes(self, b: Builder, ins: Instruction) -> None:
        super().writes(b, ins)
        self._end(b, ins)

    def decides(self, b: Builder, branch: Instruction) -> None:
        super().decides(b, branch)
        self._begin(b, branch)
        self._end(b, branch)

    def _begin(self, b: Builder, ins: Instruction) -> None:
        """Record operands before their instruction, which may overwrite them."""
        self._site = site = self._sites.get(key_of(ins))
        if site is None:
            return
        own = {register.name: register for o in ins.operands for register in registers_of(o)}
        if ins.guard is not None:
            own[ins.guard.name] = ins.guard
        self._own, self._accesses = own, []
        self._values = [(f"r{i}", _bits(b, own[r.name])) for i, r in enumerate(site.reads)]
        self._mask, self._active = b.mask(b.condition(ins)), b.mask(b.active)

    def _end(self, b: Builder, ins: Instruction) -> None:
        """Record all that is known after it."""
        site, self._site = self._site, None
        if site is None:
            return
        values = [(f"w{i}", _bits(b, self._own[r.name])) for i, r in enumerate(site.writes)]
        numbers = (f"i32 {site.number}", f"i64 {site.dtype.itemsize}")
        pointers = ("ptr %tape", "ptr %ctx", "ptr %state")
        place = b.call("tape", "ptr", *pointers, *numbers, self._mask, self._active)
        for name, value in [*self._values, *values]:
            b.store(b.vector(value), place, _start(site.dtype, name), 1)
        for i, access in enumerate(self._accesses):
            start = _start(site.dtype, f"a{i}")
            for name, value in zip(("kind", "nbytes", "mask", "addresses"), access, strict=True):
                b.store(value, place, start + _start(ACCESS, name), 1)

    # -- accesses -------------------------------------------------------------------------------

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        self._touch(b, at, b.mask(condition))
        return super().access(b, at, condition)

    def rows(self, b: Builder, ins: Instruction, address: Value, count: int, kind: str) -> Value:
        name, lanes = ("ldmatrix" if kind == "load" else "stmatrix"), lanes_of_rows(b, count)
        self._touch(b, Access(ins, "shared", address, 16, name), lanes)
        return super().rows(b, ins, address, count, kind)

    def copy(self, b: Builder, at: Copy, mask: Value) -> Value | None:
        some = b.mask(b.compare("icmp ne", at.sizes, 0))
        load = Access(at.ins, "global", at.source, at.nbytes, "load")
        self._touch(b, load, b.op("and", mask, some))
        self._touch(b, Access(at.ins, "shared", at.to, at.nbytes, "store"), mask)
        return super().copy(b, at, mask)

    def _touch(self, b: Builder, at: Access, mask: Value) -> None:
        if self._site is None or len(self._accesses) == self._site.accesses:
            return
        number = b.constant("i32", KINDS.index((at.space, at.kind)))
        addresses = b.vector(b.cast("zext", at.address, "i64"))
        self._accesses.append((number, b.constant("i32", at.nbytes), mask, addresses))


def _bits(b: Builder, register: Register) -> Value:
    """A register as it is recorded: the bits of each lane, a predicate as a byte."""
    value = b.read(register, f"i{register.bits}")
    return b.cast("zext", value, "i8") if value.type == "i1" else value


def _start(dtype: np.dtype[np.void], name: str) -> int:
    """Offset of a field, in bytes."""
    assert dtype.fields is not None
    return int(dtype.fields[name][1])
