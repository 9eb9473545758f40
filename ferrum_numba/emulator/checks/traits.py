"""What the checks must know of an entry's body."""

from __future__ import annotations

from ..ptx import Body, Instruction


def atomic_in_global(body: Body) -> bool:
    """Whether an entry has atomic operations on global memory."""
    atomics = ("atom", "red")
    instructions = [s for s in body.statements if isinstance(s, Instruction)]
    return any(
        i.opcode.base in atomics and not any(m.startswith("shared") for m in i.opcode.modifiers)
        for i in instructions
    )


def granule_of(body: Body) -> int:
    """The narrowest store to shared memory, at most 4 bytes: what has a tag of its own."""
    narrowest = 4
    for statement in body.statements:
        if isinstance(statement, str):
            continue
        opcode = statement.opcode
        if opcode.base not in ("st", "atom", "red") or not any(
            m.startswith("shared") for m in opcode.modifiers
        ):
            continue
        digits = opcode.type[1:]
        bits = int(digits) if digits.isdecimal() else 32
        count = 4 if "v4" in opcode.modifiers else 2 if "v2" in opcode.modifiers else 1
        narrowest = min(narrowest, max(bits * count // 8, 1))
    return narrowest
