"""Functions that an entry calls.

The parser reads a function's body in the place of each call, so that nothing behind it knows of
calls: its parameters and its result are pieces of local memory, its `ret` jumps behind the call.
Source: PTX ISA, "Parameter State Space", "call".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..ptx_text import PtxModule, Statement, read_opcode, read_variable
from .ptx import Address, Instruction, Local, Symbol

_CALL = re.compile(
    r"(?:\(\s*(?P<result>[\w$%]+)\s*\)\s*,\s*)?(?P<name>[\w$%]+)\s*"
    r"(?:,\s*\((?P<actuals>[^)]*)\)\s*)?"
)
MOST_CALLS = 100  # that are within each other
MOST_STATEMENTS = 1 << 16  # of an entry with all that it calls; the largest kernels have 10^4
# Functions of the CUDA runtime, which the host carries out (host_calls.py), and how many parameters
# they have: format, values; message, file, line, function, size of a character.
PRINT, ASSERTION = "vprintf", "__assertfail"
PARAMETERS = {PRINT: 2, ASSERTION: 5}


@dataclass(frozen=True)
class Function:
    """A function of the module: where its body begins in the text, and its parameters' names."""

    position: int
    result: tuple[str, ...]
    formals: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """One call instruction. guard: the predicate, with `!` where it is negated."""

    name: str
    result: tuple[str, ...]
    actuals: tuple[str, ...]
    guard: str | None


def find_functions(module: PtxModule) -> dict[str, Function | None]:
    """The functions that a module names; None for those that have no body here."""
    return {
        head.name: None
        if head.body is None
        else Function(head.body, _formals(head.result), _formals(head.params))
        for head in module.functions.values()
    }


def _formals(declarations: str | None) -> tuple[str, ...]:
    found = (read_variable(text) for text in (declarations or "").split(","))
    return tuple(variable.name for variable in found if variable is not None)


def read_call(statement: Statement) -> Call | None:
    """Take a call apart; None for one by a register, or that cannot be read."""
    match = _CALL.fullmatch(" ".join(statement.operands.split()))
    if match is None or statement.opcode.text not in ("call", "call.uni"):
        return None
    actuals = tuple(name.strip() for name in (match["actuals"] or "").split(",") if name.strip())
    guard = f"{'!' * statement.negated}{statement.guard}" if statement.guard else None
    return Call(match["name"], (match["result"],) if match["result"] else (), actuals, guard)


def passes_parameters(instruction: Instruction) -> bool:
    """True if ld.param or st.param is about a call, and not about the entry's parameters."""
    return bool({"param", "param::func"} & instruction.opcode.modifiers) and any(
        isinstance(o, Address) and isinstance(o.base, Local) for o in instruction.operands
    )


def in_place(instruction: Instruction, label: str | None) -> Instruction:
    """An instruction as it is where calls are read in place. label: behind this one, or None."""
    opcode = instruction.opcode
    if label is not None and opcode.base == "ret":
        instruction.opcode, instruction.operands = read_opcode("bra"), (Symbol(label),)
    elif passes_parameters(instruction):
        kind = opcode.text.replace("param::func", "local").replace("param", "local")
        instruction.opcode = read_opcode(kind)
    return instruction
