"""What the checks must know of an entry's body."""

from __future__ import annotations

from .. import table
from ..ptx import Body, Instruction


def atomic_in_global(body: Body) -> bool:
    """Whether an entry has atomic operations on global memory."""
    instructions = [s for s in body.statements if isinstance(s, Instruction)]
    return any(table.accesses(i, "atomic", shared=False) for i in instructions)


def granule_of(body: Body) -> int:
    """The narrowest store to shared memory, at most 4 bytes: what has a tag of its own."""
    narrowest = 4
    for statement in body.statements:
        if isinstance(statement, str):
            continue
        if not table.accesses(statement, "store", shared=True) and not table.accesses(
            statement, "atomic", shared=True
        ):
            continue
        opcode = statement.opcode
        digits = opcode.type[1:]
        bits = int(digits) if digits.isdecimal() else 32
        count = 4 if "v4" in opcode.modifiers else 2 if "v2" in opcode.modifiers else 1
        narrowest = min(narrowest, max(bits * count // 8, 1))
    return narrowest
