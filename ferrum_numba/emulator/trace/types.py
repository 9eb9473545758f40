"""As what an instruction takes the bits of its registers. Source: PTX ISA, each instruction.

PTX registers are often plain bits (`.b32`); what they hold is said by the opcodes that use them.
"address" is a type of its own here: what stands in [ ].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from .. import table
from ..ptx import Address, Instruction, Register, registers_of

ADDRESS = "address"
_BITS = {"f16x2": 32, "bf16x2": 32, "bf16": 16, "pred": 1, "tf32": 32}


def uses(ins: Instruction) -> list[tuple[Register, str, bool]]:
    """(register, type, whether it is written) of all operands; the guard is left out."""
    row = table.find(ins)
    if row.ends in ("branch", "barrier"):
        return []
    found = []
    types = row.operand_types(ins.opcode)
    for place, operand in enumerate(ins.operands):
        ptx_type = ADDRESS if isinstance(operand, Address) else types[min(place, len(types) - 1)]
        for register in registers_of(operand):
            found.append((register, _fitting(ptx_type, register), place < row.writes))
    return found


def held_types(instructions: Iterable[Instruction]) -> Mapping[Register, str]:
    """What each register holds, where those who use it agree on more than its bits."""
    said: dict[Register, set[str]] = defaultdict(set)
    for instruction in instructions:
        for register, ptx_type, _ in uses(instruction):
            if not ptx_type.startswith("b") or ptx_type.startswith("bf"):
                said[register].add(ptx_type)
    held = {}
    for register, types in said.items():
        if ADDRESS in types:
            held[register] = ADDRESS
        elif len(types) == 1:
            held[register] = min(types)
        elif all(ptx_type[0] in "su" for ptx_type in types):
            # LLVM has sums signed and comparisons often not: small numbers read best as signed.
            held[register] = f"s{register.bits}"
    return held


def bits_of_type(ptx_type: str) -> int:
    """Width of a type of this module's; 0 for an address, which has the register's."""
    if ptx_type == ADDRESS:
        return 0
    return _BITS.get(ptx_type) or int(ptx_type.lstrip("busf"))


def _fitting(ptx_type: str, register: Register) -> str:
    """The type, where a register of this width can hold it."""
    if register.bits == 1:
        return "pred"
    if ptx_type == ADDRESS:
        return ADDRESS
    digits = ptx_type.lstrip("busf")
    known = ptx_type in _BITS or (ptx_type[:1] in tuple("busf") and digits.isdecimal())
    if known and bits_of_type(ptx_type) == register.bits:
        return ptx_type
    if known and ptx_type[0] in "su" and bits_of_type(ptx_type) < register.bits:
        return f"{ptx_type[0]}{register.bits}"  # a load into a wider register extends
    return f"b{register.bits}"
