"""The check "race" of wgmma, which is asynchronous: what it reads and the registers it works on.

    productbegin(checks, ctx): at the start of a CTA
    productfence(checks, ctx), productcommit(checks, ctx), productwait(keep, checks, ctx)
    productuse(set, checks, ctx, site): a product works on a set of registers
    producttouch(set, writes, checks, ctx, site): another instruction reads or writes one of them

A warp has a block of groups (groups.py), and behind it for each set the group that used it last
(its number + 1), and whether it was written in another way since the last fence.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..ptx import Immediate, Instruction, registers_of
from ..values import Value
from . import groups
from .check import HERE, POINTER, WORD, Check, Kept, Kind, Room, Subject, at_site, zeros
from .clocks import own_clock
from .code import Code, code
from .state import PRODUCTS


class Products(Check):
    """Registers and shared memory that products of warp groups (wgmma) still need."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "missing-fence",
            "race",
            {
                "shared": "{place} was written by ordinary stores or cp.async{by}, and is read"
                " through the asynchronous proxy; look for a missing fence.proxy.async",
                "register": "works on registers that were written in another way since the last"
                " wgmma.fence; look for one that is missing before this product",
            },
        ),
        Kind(
            "pending-product",
            "race",
            {
                "shared": "writes {place}, which a wgmma{by} may still read; look for a"
                " wgmma.wait_group that is missing, leaves too many groups, or comes after the"
                " arrival that gives the place free",
                "register": "reads or writes a register that a wgmma still works on; look for a"
                " wgmma.wait_group that is missing, comes too late, or leaves too many groups",
            },
        ),
    )
    fields: ClassVar = {"products": POINTER, "product_bytes": WORD}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        instructions = subject.instructions if subject.clocks else []
        products = [i for i in instructions if _is_product(i)]
        # The registers that products work on, and whether they are their results.
        self._sets = list(dict.fromkeys(s for i in products for s in _sets(i)))
        self._sets_of: dict[str, list[int]] = {}
        self._copies_of: dict[str, list[int]] = {}
        for number, (is_result, names) in enumerate(self._sets):
            for name in names:
                self._sets_of.setdefault(name, []).append(number)
            for name in _copies(instructions, names) if is_result else ():
                self._copies_of.setdefault(name, []).append(number)
        # Of the block that is lowered: what was looked at since the last product or fence.
        self._looked: set[tuple[int, bool]] = set()

    @property
    def active(self) -> bool:
        return super().active and bool(self._sets)

    def keep(self, room: Room) -> Kept:
        nbytes = groups.BLOCK_BYTES + 8 * len(self._sets)
        return {"products": zeros(room.warps * nbytes, np.uint8), "product_bytes": nbytes}

    def begin(self, b: Builder) -> None:
        b.call("productbegin", "void", *HERE)

    def begins_block(self) -> None:
        self._looked = set()

    def product(self, b: Builder, ins: Instruction) -> None:
        for registers in _sets(ins):
            number = b.constant("i32", self._sets.index(registers))
            b.call("productuse", "void", number, *at_site(ins))
        self._looked = set()

    def orders_products(self, b: Builder, ins: Instruction) -> None:
        self._looked = set()
        modifiers = ins.opcode.modifiers
        if "fence" in modifiers:
            b.call("productfence", "void", *HERE)
        elif "commit_group" in modifiers:
            b.call("productcommit", "void", *HERE)
        else:
            match ins.operands:
                case (Immediate(bits=keep),):
                    b.call("productwait", "void", b.constant("i32", keep), *HERE)

    def reads(self, b: Builder, ins: Instruction) -> None:
        """Registers that an instruction reads and writes, which products may still need.

        Compilers copy results before they are there, and the assembler makes that right.  What else
        is done with a result, or with its copy, comes too early, and so does whatever writes A's
        registers anew while they are read: the product takes the new ones.
        """
        if ins.opcode.base == "wgmma":
            return
        if ins.opcode.base != "mov":
            sources = ins.operands[table.find(ins).writes :]
            for register in (r for operand in sources for r in registers_of(operand)):
                for number in self._copies_of.get(register.name, ()):
                    self._touch(b, ins, number, writes=False)
        for register in table.written(ins):
            for number in self._sets_of.get(register.name, ()):
                self._touch(b, ins, number, writes=True)

    def _touch(self, b: Builder, ins: Instruction, number: int, writes: bool) -> None:
        if {(number, writes), (number, True)} & self._looked:
            return
        self._looked.add((number, writes))
        flag = f"i1 {'true' if writes else 'false'}"
        b.call("producttouch", "void", b.constant("i32", number), flag, *at_site(ins))


def _is_product(ins: Instruction) -> bool:
    return ins.opcode.base == "wgmma" and "mma_async" in ins.opcode.modifiers


def _sets(ins: Instruction) -> list[tuple[bool, tuple[str, ...]]]:
    """The registers of the result, and of A. By name: the body is read for each translation."""
    names = [
        tuple(dict.fromkeys(register.name for register in registers_of(operand)))
        for operand in ins.operands[:2]
    ]
    return [(True, names[0]), *([(False, names[1])] if len(names[1]) > 1 else [])]


def _copies(instructions: list[Instruction], names: tuple[str, ...]) -> set[str]:
    """Registers, and those that mov copies them to."""
    moves = [
        (
            {r.name for r in registers_of(i.operands[1])},
            {r.name for r in registers_of(i.operands[0])},
        )
        for i in instructions
        if i.opcode.base == "mov" and len(i.operands) == 2
    ]
    found, before = set(names), 0
    while len(found) > before:
        before = len(found)
        for sources, targets in moves:
            if sources & found:
                found |= targets
    return found


def _block(c: Code) -> Value:
    """The warp's memory."""
    return c.item("i8", c.field("products"), c.op("mul", c.warp(), c.field("product_bytes")))


def _fill(c: Code, block: Value, place: int, word: int) -> None:
    """Store a word for each set."""
    nbytes = c.field("product_bytes")
    loop = c.loop(c.constant("i32", groups.BLOCK_BYTES))
    with loop as (at,):
        loop.leave(c.compare("icmp uge", at, nbytes))
        c.store(c.constant("i32", word), c.item("i8", block, c.op("add", at, place)), 0, 4)
        loop.again(c.op("add", at, 8))


@code("productbegin")
def begin(c: Code) -> None:
    """State at the start: nothing is under way, no fence has come, each set counts as written."""
    c.goes()
    block = _block(c)
    c.store(Value("zeroinitializer", "i32", 2), block, 0, 8)
    _fill(c, block, 0, 0)
    _fill(c, block, 4, 1)


@code("productfence")
def fence(c: Code) -> None:
    c.goes()
    _fill(c, _block(c), 4, 0)


@code("productcommit")
def commit(c: Code) -> None:
    c.goes()
    groups.commit(c, _block(c))


@code("productwait")
def wait(c: Code) -> None:
    (keep,) = c.takes("i32")
    c.goes()
    agent = c.item("i32", own_clock(c), c.op("add", c.warp(), PRODUCTS))
    groups.wait(c, _block(c), keep, agent)


def _set(c: Code, block: Value, number: Value) -> Value:
    return c.item("i8", block, c.op("add", c.op("shl", number, 3), groups.BLOCK_BYTES))


def _record(c: Code, kind: str) -> None:
    c.visits()
    c.record(kind, c.constant("i32", 0), c.constant("i64", 0), 0)


@code("productuse")
def use(c: Code) -> None:
    (number,) = c.takes("i32")
    c.looks()
    block = _block(c)
    its = _set(c, block, number)
    c.store(c.op("add", c.load("i32", 1, block, 0, 4), 1), its, 0, 4)
    with c.when(c.compare("icmp ne", c.load("i32", 1, its, 4, 4), 0)):
        _record(c, "missing-fence")


@code("producttouch")
def touch(c: Code) -> None:
    number, writes = c.takes("i32", "i1")
    c.looks()
    block = _block(c)
    its = _set(c, block, number)
    over, group, dirty = (c.load("i32", 1, *at, 4) for at in ((block, 4), (its, 0), (its, 4)))
    c.store(c.op("or", dirty, c.cast("zext", writes, "i32")), its, 4, 4)
    late = c.compare("icmp ugt", group, over)
    with c.when(late):
        _record(c, "pending-product")
