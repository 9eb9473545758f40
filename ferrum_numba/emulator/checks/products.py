"""Helpers for wgmma, which is asynchronous: what it reads, and the registers that it works on.

    productbegin(checks, ctx): at the start of a CTA
    productfence(checks, ctx), productcommit(checks, ctx), productwait(keep, checks, ctx)
    productuse(set, checks, ctx, site): a product works on a set of registers
    producttouch(set, writes, judges, checks, ctx, site): another instruction reads or writes one of
        them; judges: and may not do so while the product is under way

The products of a warp are done in order, group after group, so a group's number and its time tell
what has been waited for.  A warp has a block of memory: i32 how many groups were committed, i32 how
many of them are over; from byte 32 the times of the last eight; from byte 64 for each set the group
that used it last (its number + 1), and whether it was written in another way since the last fence.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .. import table
from ..builder import Builder
from ..layout import WARP
from ..library import Helpers, family
from ..ptx import Immediate, Instruction, registers_of
from .check import HERE, POINTER, WORD, Check, Kept, Kind, Room, Subject, place, zeros
from .clocks import own_clock
from .records import ARGUMENTS, visit
from .state import PRODUCT_HEAD, STEP, load_field, number_of


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
        nbytes = PRODUCT_HEAD + 8 * len(self._sets)
        return {"products": zeros(room.warps * nbytes, np.uint8), "product_bytes": nbytes}

    def begin(self, b: Builder) -> None:
        b.call("productbegin", "void", *HERE)

    def begins_block(self) -> None:
        self._looked = set()

    def product(self, b: Builder, ins: Instruction) -> None:
        for registers in _sets(ins):
            number = b.constant("i32", self._sets.index(registers))
            b.call("productuse", "void", number, *place(ins))
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

        Compilers copy results before they are there, and write A's registers anew while they are
        read; the assembler makes both right.  What else is done with a result, or with its copy,
        comes too early.
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
        flags = (writes, self._sets[number][0])
        words = [f"i1 {'true' if flag else 'false'}" for flag in flags]
        b.call("producttouch", "void", b.constant("i32", number), *words, *place(ins))


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


def _block() -> str:
    return f"""  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
{load_field("products", "ptr")}{load_field("product_bytes", "i32")}\
  %block.offset = mul i32 %warp, %product_bytes
  %block = getelementptr i8, ptr %products, i32 %block.offset
  %over.at = getelementptr i8, ptr %block, i64 4
"""


def _set() -> str:
    return f"""{_block()}  %set.bytes = shl i32 %set, 3
  %set.offset = add i32 %set.bytes, {PRODUCT_HEAD}
  %set.at = getelementptr i8, ptr %block, i32 %set.offset
  %dirty.at = getelementptr i8, ptr %set.at, i64 4
"""


def _for_each_set(first: int, stored: int) -> str:
    return f"""  br label %each
each:
  %at = phi i32 [ {PRODUCT_HEAD}, %0 ], [ %at.next, %put ]
  %more = icmp ult i32 %at, %product_bytes
  br i1 %more, label %put, label %end
put:
  %word = add i32 %at, {first}
  %word.at = getelementptr i8, ptr %block, i32 %word
  store i32 {stored}, ptr %word.at, align 4
  %at.next = add i32 %at, 8
  br label %each
end:
  ret void
}}
"""


@family("productbegin")
def begin(helpers: Helpers, name: str) -> str:
    """Nothing is under way, and no fence has come: each set counts as written."""
    again = helpers.use("productforget")
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_block()}  store <2 x i32> zeroinitializer, ptr %block, align 8
  call void @{again}(ptr %checks, ptr %ctx)
{_for_each_set(4, 1)}"""


@family("productforget")
def forget(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_block()}{_for_each_set(0, 0)}"""


@family("productfence")
def fence(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_block()}{_for_each_set(4, 0)}"""


@family("productcommit")
def commit(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(ptr %checks, ptr %ctx) #0 {{
{_block()}{load_field("stamp", "i32")}  %count = load i32, ptr %block, align 4
  %slot = and i32 %count, 7
  %slot.bytes = shl i32 %slot, 2
  %slot.offset = add i32 %slot.bytes, 32
  %time.at = getelementptr i8, ptr %block, i32 %slot.offset
  %next = add i32 %stamp, {STEP}
  store i32 %next, ptr %time.at, align 4
  store i32 %next, ptr %stamp.at, align 4
  %count.next = add i32 %count, 1
  store i32 %count.next, ptr %block, align 4
  ret void
}}
"""


@family("productwait")
def wait(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(i32 %keep, ptr %checks, ptr %ctx) #0 {{
{_block()}{own_clock()}  %count = load i32, ptr %block, align 4
  %over = load i32, ptr %over.at, align 4
  %due = sub i32 %count, %keep
  %more = icmp sgt i32 %due, %over
  br i1 %more, label %go, label %end
go:
  store i32 %due, ptr %over.at, align 4
  %last = add i32 %due, 7
  %slot = and i32 %last, 7
  %slot.bytes = shl i32 %slot, 2
  %slot.offset = add i32 %slot.bytes, 32
  %time.at = getelementptr i8, ptr %block, i32 %slot.offset
  %time = load i32, ptr %time.at, align 4
  %own = add i32 %warp, 64
  %own.at = getelementptr i32, ptr %seen, i32 %own
  store i32 %time, ptr %own.at, align 4
  br label %end
end:
  ret void
}}
"""


def _record(helpers: Helpers, kind: str) -> str:
    record = helpers.use("record")
    return (
        f"{visit()}  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 {number_of(kind)},"
        " i32 0, i64 0, i32 0, i32 0)\n"
    )


@family("productuse")
def use(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(i32 %set, {ARGUMENTS}) #0 {{
{_set()}  %count = load i32, ptr %block, align 4
  %number = add i32 %count, 1
  store i32 %number, ptr %set.at, align 4
  %dirty = load i32, ptr %dirty.at, align 4
  %clean = icmp eq i32 %dirty, 0
  br i1 %clean, label %end, label %report
report:
{_record(helpers, "missing-fence")}  br label %end
end:
  ret void
}}
"""


@family("producttouch")
def touch(helpers: Helpers, name: str) -> str:
    return f"""
define internal void @{name}(i32 %set, i1 %writes, i1 %judges, {ARGUMENTS}) #0 {{
{_set()}  %over = load i32, ptr %over.at, align 4
  %group = load i32, ptr %set.at, align 4
  %dirty = load i32, ptr %dirty.at, align 4
  %more = zext i1 %writes to i32
  %dirty.next = or i32 %dirty, %more
  store i32 %dirty.next, ptr %dirty.at, align 4
  %late = icmp ugt i32 %group, %over
  %pending = and i1 %late, %judges
  br i1 %pending, label %report, label %end
report:
{_record(helpers, "pending-product")}  br label %end
end:
  ret void
}}
"""
