"""Base class of checks, and the entry as checks see it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import table
from ..builder import Builder
from ..flow import analyse
from ..hooks import Hooks
from ..ptx import Body, Instruction
from ..seat import aligned
from ..values import Text, Value
from . import state

POINTER, WORD, LONG = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64


@dataclass(frozen=True)
class Kind:
    """A kind of findings. check: by what name it is asked for.

    texts: what a finding says where it is of "global", "shared" or "local" memory, or of a
    "register", which has no address; "global load" comes before "global" for a load.  A text may
    name the fields of `Sight` (report.py).  A kind without texts is not found by native code.
    """

    name: str
    check: str
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def spaces(self) -> set[str]:
        """The memory that it may be of."""
        return {space.partition(" ")[0] for space in self.texts} - {"register"}


class Subject:
    """An entry as the checks see it.

    init, race: whether these are asked for; tagged: whether one of them is.
    granule: bytes of shared memory that have a tag of their own.
    talks: whether CTAs talk to each other, through atomic operations or loads and stores that are
    never a race: then they may well share elements, one after the other.
    clustered: whether CTAs of a cluster reach each other's shared memory.
    clocks: whether each warp has a clock, for they wait for some of the others; else stretches of
    time between barriers of all warps are enough.
    """

    def __init__(self, checks: frozenset[str], body: Body, threads: int | None) -> None:
        """threads: number of threads of a block where the PTX fixes it."""
        self.checks, self.body = checks, body
        self.init, self.race = "init" in checks, "race" in checks
        self.tagged = self.init or self.race
        self.flow = analyse(body, threads, masked=False)
        self.instructions = [i for block in self.flow.blocks for i in block.instructions]
        self.granule = _granule_of(body)
        self.talks = any(table.talks(i) for i in self.instructions)
        self.clustered = any(
            i.opcode.base == "mapa" or "multicast::cluster" in i.opcode.modifiers
            for i in self.instructions
        )
        orders = any(
            table.find(i).orders or table.accesses(i, "atomic", shared=True)
            for i in self.instructions
        )
        self.clocks = self.race and (self.talks or orders)

    @property
    def mode(self) -> str:
        """The last word of functions that there are for both clocks and epochs."""
        return "clocks" if self.clocks else "epochs"


def _granule_of(body: Body) -> int:
    """Bytes of the narrowest store to shared memory, at most 4."""
    narrowest = 4
    for statement in body.statements:
        if isinstance(statement, str) or "global" in statement.opcode.modifiers:
            continue
        if not (table.accesses(statement, "store") or table.accesses(statement, "atomic")):
            continue
        opcode = statement.opcode
        digits = opcode.type[1:]
        bits = int(digits) if digits.isdecimal() else 32
        count = 4 if "v4" in opcode.modifiers else 2 if "v2" in opcode.modifiers else 1
        narrowest = min(narrowest, max(bits * count // 8, 1))
    return narrowest


@dataclass(frozen=True)
class Room:
    """Sizes that decide how much a check has to keep. ctas: of the launch; warps: of a CTA.

    nbytes: of shared memory; words: tags for them.  statements: of the entry.
    """

    ctas: int
    warps: int
    nbytes: int
    words: int
    statements: int


Kept = Mapping[str, NDArray[Any] | int]  # fields of CheckState: arrays, or numbers


class Check(Hooks[Builder]):
    """One thing that is looked at: hooks, the kinds of its findings, and what it keeps.

    asked: names of checks that it serves.  usual: whether these are made unless others are named.
    kinds: of findings.  fields: of CheckState, with their types.
    """

    asked: ClassVar[frozenset[str]] = frozenset()
    usual: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ()
    fields: ClassVar[Mapping[str, type]] = {}

    def __init_subclass__(cls) -> None:
        state.add([kind.name for kind in cls.kinds if kind.texts], cls.fields)

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @property
    def active(self) -> bool:
        """True if it has anything to look at in this entry."""
        return bool(self.asked & self.subject.checks)

    def keep(self, room: Room) -> Kept:
        """Memory that each worker keeps for it."""
        return {}

    def advance(self, b: Text, checks: Value, passed: Value, fresh: Value) -> None:
        """A round begins: all warps passed a barrier, or (fresh) begin a CTA."""

    def sight(self, ins: Instruction, kept: Kept, record: np.void) -> Mapping[str, object]:
        """Further names that its texts may use; kept: memory of the worker that recorded."""
        return {}

    def share(self, room: Room) -> Kept:
        """Memory that all workers of a launch share for it."""
        return {}


def at_site(ins: Instruction) -> tuple[str, str, str]:
    """The last arguments of functions that may record something."""
    return "ptr %checks", "ptr %ctx", f"i32 {ins.index}"


HERE = ("ptr %checks", "ptr %ctx")
"""The last arguments of functions that record nothing."""


_PLAIN = ("ld", "st", "atom", "red")


def is_generic(ins: Instruction) -> bool:
    """True for a plain access to memory of any kind."""
    spaces = {"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param"}
    return ins.opcode.base in _PLAIN and not spaces & ins.opcode.modifiers


def is_uniform(address: Value, condition: Value | None) -> bool:
    """True if an access is one for the whole warp."""
    return address.n == 1 and (condition is None or condition.n == 1)


def mask_of(b: Builder, address: Value, condition: Value | None) -> Value:
    """The lanes of an access; of one for the whole warp, lane 0."""
    if not is_uniform(address, condition):
        return b.mask(condition)
    return b.constant("i32", 1) if condition is None else b.cast("zext", condition, "i32")


def word(text: str) -> Value:
    return Value(text, "i32")


def invert(b: Builder, mask: Value) -> Value:
    return b.op("xor", mask, -1)


def zeros(count: int, dtype: Any = np.uint32) -> NDArray[Any]:
    """Memory for so many numbers, where vectors are aligned."""
    return aligned(count * np.dtype(dtype).itemsize, 64).view(dtype)
