"""The table of opcodes: for each base and type, the function that lowers it, and what it does.

A module of opcodes adds rows by decorating functions with its `lowers`.  Whatever else must know
something about an opcode (the flow analysis, checks, traces, reports) reads it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..ptx_text import Opcode
from .ptx import Instruction, Register, registers_of

Lowering = Callable[..., None]  # of a Builder and an Instruction
Access = Literal["load", "store", "atomic", "ldmatrix", "stmatrix"]

INTEGERS = tuple(f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64))
FLOATS = ("f32", "f64")
HALVES = ("f16", "f16x2", "bf16", "bf16x2")


@dataclass(frozen=True)
class Row:
    """One opcode of one type: its lowering, and the facts about it.

    family: what reports count it with.
    modifiers: those it knows; an instruction with another one is refused.
    writes: number of leading operands that are destinations.
    varying: the result differs between lanes even where all sources agree.
    accumulates: the destinations are also read.
    accesses: those to memory that each lane makes by itself.
    ends: how it ends a block: "branch"; "barrier" of the CTA; "wait": it may have to come again.
    orders: it may bring some warps into an order, and not all of a CTA.
    operands: their types, separated by blanks, the last for all that follow: "first" and "last" of
        the opcode's types, or others; or a function that tells them.
    fault: what has gone wrong where it stops a launch; may name {cta}, {warp}, {place} and
        {failure}.
    """

    lower: Lowering
    family: str
    modifiers: frozenset[str]
    writes: int = 1
    varying: bool = False
    accumulates: bool = False
    accesses: tuple[Access, ...] = ()
    ends: Literal["", "branch", "barrier", "wait"] = ""
    orders: bool = False
    operands: str | Callable[[Opcode], list[str]] = "last"
    fault: str = (
        "not all lanes that it names came to it together, or one came that it does not name; the"
        " CPU device runs lanes that took different ways one after another"
    )

    def operand_types(self, opcode: Opcode) -> list[str]:
        """The type of each operand in order; the last stands for all that follow."""
        if not isinstance(self.operands, str):
            return self.operands(opcode)
        types = opcode.types or ("b32",)
        named = {"first": types[0], "last": types[-1]}
        return [named.get(word, word) for word in self.operands.split()]


_TABLE: dict[tuple[str, str], Row] = {}


def rows_of(family: str) -> Callable[..., Callable[[Lowering], Lowering]]:
    """The decorator `lowers` for opcodes of a family."""

    def lowers(
        *bases: str, types: Iterable[str] = ("*",), modifiers: str = "", **columns: Any
    ) -> Callable[[Lowering], Lowering]:
        """Add the decorated function for every base and type.

        types: the values of `Opcode.type` that it takes, "*" for any.
        modifiers: separated by blanks.  columns: others of Row.
        """

        def add(function: Lowering) -> Lowering:
            row = Row(function, family, frozenset(modifiers.split()), **columns)
            for key in ((base, ptx_type) for base in bases for ptx_type in types):
                if key in _TABLE:
                    raise ValueError(f"{'.'.join(key)} is in the table already")
                _TABLE[key] = row
            return function

        return add

    return lowers


def lookup(opcode: Opcode) -> Row | None:
    """The row of an opcode, whatever its modifiers are; None where there is none."""
    return _TABLE.get((opcode.base, opcode.type)) or _TABLE.get((opcode.base, "*"))


def families(stem: str) -> set[str]:
    """The families of the opcodes whose first word this is."""
    return {row.family for (base, _), row in _TABLE.items() if base.partition(".")[0] == stem}


def find(instruction: Instruction) -> Row:
    """The row of an instruction. Raises PtxError where there is none."""
    opcode = instruction.opcode
    row = lookup(opcode)
    if row is None and opcode.base.startswith("tcgen05"):
        raise instruction.refuse(
            "the CPU device has no tensor memory and none of the tcgen05 instructions of sm_100 and"
            " its kind; compile the kernel for sm_90, or launch it on such a GPU"
        )
    if row is None:
        raise instruction.refuse("the CPU device does not have this instruction")
    unknown = opcode.modifiers - row.modifiers
    # Cache and eviction hints change no result.
    strange = sorted(m for m in unknown if not m.startswith(("L1::", "L2::")))
    if strange:
        names = ", ".join(f".{name}" for name in strange)
        raise instruction.refuse(f"the CPU device does not have {names} on this instruction")
    return row


def accesses(instruction: Instruction, *kinds: Access, shared: bool | None = None) -> bool:
    """True if an instruction makes accesses of just these kinds; shared: to which memory."""
    row = lookup(instruction.opcode)
    if row is None or row.accesses != kinds:
        return False
    return shared is None or shared == in_shared(instruction)


def in_shared(instruction: Instruction) -> bool:
    """True if an instruction names shared memory."""
    return any(modifier.startswith("shared") for modifier in instruction.opcode.modifiers)


def is_strong(instruction: Instruction) -> bool:
    """True if an access is atomic, or never is a race."""
    strong = {"relaxed", "acquire", "release", "volatile", "mmio"}
    return accesses(instruction, "atomic") or bool(strong & instruction.opcode.modifiers)


def talks(instruction: Instruction) -> bool:
    """True if CTAs may talk to each other by an access, which others may make at the same time."""
    if accesses(instruction, "load") or accesses(instruction, "store"):
        return is_strong(instruction) and not in_shared(instruction)
    return accesses(instruction, "atomic", shared=False)


def written(instruction: Instruction) -> list[Register]:
    """The registers that an instruction writes."""
    operands = instruction.operands[: find(instruction).writes]
    return [register for operand in operands for register in registers_of(operand)]


def read(instruction: Instruction) -> list[Register]:
    """The registers that an instruction reads; under a guard also those it may leave alone."""
    row = find(instruction)
    operands = instruction.operands[row.writes :]
    registers = [register for operand in operands for register in registers_of(operand)]
    if instruction.guard is not None:
        registers.append(instruction.guard)
    if instruction.guard is not None or row.accumulates:
        registers += written(instruction)
    return registers
