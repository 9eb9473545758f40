"""The table of opcodes: for each base and type, the function that lowers it.

A family module adds a row by decorating a function with `lowers`.  The row also says what the
flow analysis must know: how many leading operands are written, and whether the result differs
between lanes even where all sources agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .ptx import Instruction, Register, registers_of

Lowering = Callable[..., None]  # of a Builder and an Instruction

INTEGERS = tuple(f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64))
FLOATS = ("f32", "f64")
HALVES = ("f16", "f16x2", "bf16", "bf16x2")


@dataclass(frozen=True)
class Row:
    """How one opcode of one type is lowered."""

    lower: Lowering
    writes: int
    varying: bool
    modifiers: frozenset[str]
    accumulates: bool


_TABLE: dict[tuple[str, str], Row] = {}


def lowers(
    *bases: str,
    types: Iterable[str] = ("*",),
    modifiers: str = "",
    writes: int = 1,
    varying: bool = False,
    accumulates: bool = False,
) -> Callable[[Lowering], Lowering]:
    """Add the decorated function for every base and type.

    types: the values of `Opcode.type` that it takes, "*" for any.
    modifiers: those it knows, separated by blanks; an instruction with another one is refused.
    writes: number of leading operands that are destinations.
    varying: the result differs between lanes even where all sources agree.
    accumulates: the destinations are also read.
    """

    def add(function: Lowering) -> Lowering:
        row = Row(function, writes, varying, frozenset(modifiers.split()), accumulates)
        for base in bases:
            for ptx_type in types:
                if (base, ptx_type) in _TABLE:
                    raise ValueError(f"{base}.{ptx_type} is in the table already")
                _TABLE[base, ptx_type] = row
        return function

    return add


def find(instruction: Instruction) -> Row:
    """The row of an instruction. Raises PtxError where there is none."""
    opcode = instruction.opcode
    row = _TABLE.get((opcode.base, opcode.type)) or _TABLE.get((opcode.base, "*"))
    if row is None:
        raise instruction.refuse("the CPU device does not have this instruction")
    unknown = opcode.modifiers - row.modifiers
    # Cache and eviction hints change no result.
    strange = sorted(m for m in unknown if not m.startswith(("L1::", "L2::")))
    if strange:
        names = ", ".join(f".{name}" for name in strange)
        raise instruction.refuse(f"the CPU device does not have {names} on this instruction")
    return row


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
