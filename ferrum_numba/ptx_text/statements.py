"""The statements of a body: braces, labels, declarations and instructions, operands as text.

Source: PTX ISA, "Syntax", "Instruction Statements".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..errors import PtxError
from .module import PtxModule
from .text import refuse

_TYPE = re.compile(
    r"[busf](?:8|16|32|64)|b128|[us]16x2|f16x2|f32x2|bf16|bf16x2|tf32|pred|e4m3|e5m2"
    r"|e4m3x2|e5m2x2|[us][24]|b1"
)
_PIECE = re.compile(
    r"\s*(?!\s)(?:(?P<brace>[{}])"
    r"|\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)\s+\d+[^\n;]*"
    r"|(?P<label>[A-Za-z_$%.][\w$.]*)\s*:(?!:)"
    r"|(?P<statement>[^;{}]*(?:\{[^{};]*\}[^;{}]*)*);)"
)
_INSTRUCTION = re.compile(
    r"(?:@\s*(?:(?P<not>!)\s*)?(?P<guard>[\w$%]+)\s+)?(?P<opcode>[a-z][\w.:]*)(?P<operands>.*)",
    re.DOTALL,
)
_NEXT_LINE = re.compile(r"\n[^\S\n]*(?:@|\.|[a-z][a-z0-9_]*\.\w)")  # a statement within a statement
_LIST = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class Opcode:
    """`mul.wide.u32`, taken apart: base "mul", types ("u32",), modifiers {"wide"}.

    The operations of an mbarrier, and those on a tensor map, have little in common: there the
    base is two words, such as "mbarrier.init" or "wmma.load"; and bulk copies are "cp.async.bulk",
    those of tensors "cp.async.bulk.tensor".
    """

    text: str
    base: str
    types: tuple[str, ...]
    modifiers: frozenset[str]

    @property
    def type(self) -> str:
        """The last type: the one that an opcode with one type works on; "" where there is none."""
        return self.types[-1] if self.types else ""


@lru_cache(maxsize=4096)
def read_opcode(text: str) -> Opcode:
    """Take an opcode apart at its dots."""
    base, *rest = text.split(".")
    if base in ("mbarrier", "tensormap", "wmma") and rest:
        base = f"{base}.{rest.pop(0)}"
    elif "bulk" in rest[:3]:  # cp.async.bulk, cp.reduce.async.bulk
        count = rest.index("bulk") + 1
        base, rest = ".".join([base, *rest[:count]]), rest[count:]
        if "tensor" in rest[:2]:  # or .prefetch.tensor
            base = f"{base}.tensor"
            rest.remove("tensor")
    types = tuple(part for part in rest if _TYPE.fullmatch(part))
    return Opcode(text, base, types, frozenset(rest) - set(types))


@dataclass(frozen=True)
class Statement:
    """One instruction.  guard: the predicate's name.  loc: (file number, line) of the last `.loc`
    before it, of its source."""

    line: int
    text: str
    opcode: Opcode
    operands: str
    guard: str | None
    negated: bool
    loc: tuple[int, int] | None


class Piece(NamedTuple):
    """A piece of a body: kind "{", "}", ":" (a label) or ";" (a statement, which may be empty)."""

    kind: str
    text: str
    position: int
    loc: tuple[int, int] | None


def read_body(module: PtxModule, body: int) -> Iterator[Piece]:
    """The pieces of the body that begins there, up to the brace that closes it.

    Raises PtxError, with the line, where it cannot be taken apart.
    """
    text, depth = module.text, 1
    loc: tuple[int, int] | None = None
    read = _PIECE.scanner(text, body).match  # type: ignore[attr-defined]
    done = body
    while match := read():
        done = match.end()
        kind = match.lastgroup
        if kind == "statement":
            start = match.start("statement")
            yield Piece(";", match["statement"].strip(), start, loc)
        elif kind == "line":
            loc = int(match["file"]), int(match["line"])
        elif kind == "label":
            yield Piece(":", match["label"], match.start("label"), loc)
        else:
            yield Piece(match["brace"], "", match.start("brace"), loc)
            depth += 1 if match["brace"] == "{" else -1
            if not depth:
                return
    raise _unfinished(module, done)


def _unfinished(module: PtxModule, position: int) -> PtxError:
    """The error about text at which no piece of a body can be read."""
    text = module.text
    rest = text[position:]
    statement, brace, _ = rest.partition("}")
    if brace and statement.strip() and "{" not in statement:
        line = module.line(position + len(rest) - len(rest.lstrip()))
        return refuse(line, statement.strip().splitlines()[0], "the instruction has no semicolon")
    last = rest.strip().splitlines() or text.rstrip().splitlines()[-1:]
    return refuse(module.line(len(text.rstrip())), last[-1], "the entry has no end")


def read_statement(text: str, line: int, loc: tuple[int, int] | None) -> Statement:
    """Take an instruction apart.  Raises PtxError, with the line, for one that cannot be."""
    match = _INSTRUCTION.fullmatch(text)
    if match is None:
        raise refuse(line, text, "not an instruction")
    if "\n" in text and _NEXT_LINE.search(match["operands"]):
        raise refuse(line, text.splitlines()[0], "the instruction has no semicolon")
    opcode = read_opcode(match["opcode"])
    operands, negated = match["operands"].strip(), match["not"] is not None
    return Statement(line, text, opcode, operands, match["guard"], negated, loc)


def called(statement: Statement) -> str | None:
    """The function that a call names: its first operand that is no list in parentheses."""
    names = (part.strip() for part in _LIST.sub("", statement.operands).split(","))
    return next((name for name in names if name), None)
