"""The places of an entry that are traced, and the form of what is recorded there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .. import table
from ..flow import analyse
from ..layout import LANES
from ..ptx import Body, Instruction, Register, registers_of

ACCESS = np.dtype(
    [
        ("kind", np.uint32),  # an index into KINDS; nbytes is 0 where there was no access
        ("nbytes", np.uint32),
        ("mask", np.uint32),
        ("rest", np.uint32),
        ("addresses", np.uint64, LANES),
    ]
)
_WAITS = ("poll", "yield")
KINDS = (
    *(("global", kind) for kind in ("load", "store", "atomic")),
    *(("shared", kind) for kind in ("load", "store", "atomic", "ldmatrix", "stmatrix")),
)


@dataclass(frozen=True, eq=False)
class Site:
    """One instruction that is traced.

    reads, writes: registers, each once; a guard counts as read.
    dtype: of the payload: fields r0, r1, …, w0, w1, … of 32 values, a0, a1 of ACCESS.
    """

    number: int
    instruction: Instruction
    reads: tuple[Register, ...]
    writes: tuple[Register, ...]
    dtype: np.dtype[np.void]

    @property
    def accesses(self) -> int:
        return sum(name[0] == "a" for name in self.dtype.names or ())


def find_sites(
    body: Body, threads: int | None, lines: Collection[int], registers: Collection[str]
) -> dict[Key, Site]:
    """The sites on some PTX lines that mention some registers, by name; all where none is given.

    threads: number of threads of a block where the PTX fixes it.
    """
    sites: dict[Key, Site] = {}
    for block in analyse(body, threads, masked=False).blocks:
        # A warp that waits for others looks again and again: that is no instruction of its own.
        last = [block.last] if block.last is not None and block.exit not in _WAITS else []
        for instruction in (*block.instructions, *last):
            reads, writes = _registers(instruction)
            names = {full_name(register) for register in (*reads, *writes)}
            if lines and instruction.line not in lines:
                continue
            if registers and not names & set(registers):
                continue
            dtype = _form(instruction, reads, writes)
            sites[key_of(instruction)] = Site(len(sites), instruction, reads, writes, dtype)
    return sites


Key = tuple[int, str]


def key_of(instruction: Instruction) -> Key:
    """Key of a site; a barrier that reduces is two sites, of one index."""
    return instruction.index, instruction.opcode.base


def _registers(ins: Instruction) -> tuple[tuple[Register, ...], tuple[Register, ...]]:
    row = table.find(ins)
    if row.ends in ("branch", "barrier"):
        return (ins.guard,) if ins.guard is not None else (), ()
    writes = table.written(ins)
    reads = [r for operand in ins.operands[row.writes :] for r in registers_of(operand)]
    if row.accumulates:
        reads += writes
    if ins.guard is not None:
        reads.append(ins.guard)
    return tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes))


def _form(
    ins: Instruction, reads: tuple[Register, ...], writes: tuple[Register, ...]
) -> np.dtype[np.void]:
    fields = [
        (f"{letter}{i}", element_type(register), LANES)
        for letter, registers in (("r", reads), ("w", writes))
        for i, register in enumerate(registers)
    ]
    accesses = [(f"a{i}", ACCESS) for i in range(len(table.find(ins).accesses))]
    packed = np.dtype([*fields, *accesses])
    # Whole cache lines, so that vectors are stored aligned.
    rest = -packed.itemsize % 64 if fields or accesses else 64
    return np.dtype([*fields, *accesses, ("rest", np.uint8, rest)]) if rest else packed


def full_name(register: Register) -> str:
    """A register's name with the % that PTX leaves to the programmer, and inline assembly out."""
    return register.name if register.name.startswith("%") else f"%{register.name}"


def element_type(register: Register) -> type[np.unsignedinteger]:
    """The type in which a lane's bits are recorded; a predicate is a byte."""
    return {1: np.uint8, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}[register.bits]
