"""Functions that an entry calls.

The parser reads a function's body in the place of each call, so that nothing behind it knows of
calls: its parameters and its result are pieces of local memory, its `ret` jumps behind the call.
Source: PTX ISA, "Parameter State Space", "call".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .ptx import Address, Instruction, Local, Symbol, read_opcode

_FUNCTION = re.compile(
    r"\.func\b\s*(?:\((?P<result>[^)]*)\))?\s*(?P<name>[\w$]+)\s*"
    r"(?:\((?P<formals>[^)]*)\))?[^{};]*(?P<end>[{;])"
)
_CALL = re.compile(
    r"(?:@\s*(?P<neg>!)?\s*(?P<guard>[\w$%]+)\s+)?call(?:\.uni)?\s+"
    r"(?:\(\s*(?P<result>[\w$%]+)\s*\)\s*,\s*)?(?P<name>[\w$%]+)\s*"
    r"(?:,\s*\((?P<actuals>[^)]*)\)\s*)?"
)
_FORMAL = re.compile(r"\.param\b.*?\.[busf]\d+\s+([\w$%]+)\s*(?:\[[^\]]*\])?", re.DOTALL)

_BODY = re.compile(r"\.(?:entry|func)\b[^{};]*\{")

MOST_STATEMENTS = 1 << 16  # of an entry with all that it calls; the largest kernels have 10^4
ASSERTION = "__assertfail"  # the CUDA runtime's: it ends the launch


@dataclass(frozen=True)
class Function:
    """A function of the module: where its body begins in the text, and its parameters' names."""

    position: int
    result: tuple[str, ...]
    formals: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """What one call says. guard: the predicate, with `!` where it is negated."""

    name: str
    result: tuple[str, ...]
    actuals: tuple[str, ...]
    guard: str | None


def without_bodies(text: str) -> str:
    """The text with blanks where the bodies of entries and functions are."""
    pieces, done = [], 0
    while match := _BODY.search(text, done):
        depth, end = 1, len(text)
        for brace in re.compile(r"[{}]").finditer(text, match.end()):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                end = brace.start()
                break
        blank = re.sub(r"[^\n]", " ", text[match.end() : end])
        pieces += [text[done : match.end()], blank]
        done = end
    return "".join(pieces) + text[done:]


def find_functions(text: str) -> dict[str, Function | None]:
    """The functions that a module names; None for those that have no body here."""
    functions: dict[str, Function | None] = {}
    for match in _FUNCTION.finditer(text):
        if match["end"] == ";":
            functions.setdefault(match["name"], None)
            continue
        names = [tuple(_FORMAL.findall(match[part] or "")) for part in ("result", "formals")]
        functions[match["name"]] = Function(match.end(), *names)
    return functions


def read_call(text: str) -> Call | None:
    """Take a call apart; None for one by a register, or that cannot be read."""
    match = _CALL.fullmatch(text)
    if match is None or match["name"].startswith("%"):
        return None
    actuals = tuple(name.strip() for name in (match["actuals"] or "").split(",") if name.strip())
    guard = f"{match['neg'] or ''}{match['guard']}" if match["guard"] else None
    return Call(match["name"], (match["result"],) if match["result"] else (), actuals, guard)


def passes_parameters(instruction: Instruction) -> bool:
    """Whether ld.param or st.param is about a call, and not about the entry's parameters."""
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
