"""The statements of an entry, of any compiler's PTX, without a claim to understand them.

Where the CPU device's parser (`emulator.parse`) resolves every operand and refuses what it could
not run, this reads what the driver may read: opcodes, their source lines, and what is declared.

Source: PTX ISA, "Syntax" and "Directives".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...abi.ptx_text import line_of, refuse, without_comments
from ...emulator.ptx import Opcode, read_opcode
from ...errors import PtxError

_ENTRY = r"\.entry\s+{name}(?![\w$])(?:\s*\([^)]*\))?(?P<tail>[^{{;]*)\{{"
_DIRECTIVE = re.compile(
    r"\.(reqntid|maxntid|minnctapersm|maxnreg|reqnctapercluster|maxclusterrank)\s+"
    r"(\d+(?:\s*,\s*\d+)*)"
)
_FILE = re.compile(r"^[^\S\n]*\.file\s+(\d+)\s+\"([^\"\n]*)\"", re.MULTILINE)
_TOKEN = re.compile(
    r"\s+|(?P<brace>[{}])"
    r"|\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)\s+\d+[^\n;]*"
    r"|(?P<label>[A-Za-z_$%.][\w$.]*)\s*:(?!:)"
    r"|(?P<statement>[^;{}]*(?:\{[^{};]*\}[^;{}]*)*;)"
)
_INSTRUCTION = re.compile(
    r"(?:@\s*!?\s*(?P<guard>[\w$%]+)\s+)?(?P<opcode>[a-z][\w.:]*)(?P<operands>.*)", re.DOTALL
)
_NEXT_LINE = re.compile(r"\n\s*(?:@|\.|[a-z][a-z0-9_]*\.\w)")  # a statement within a statement
_SHARED = re.compile(
    r"(?P<extern>\.extern\s+)?\.shared\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>[a-z]+\d+)\s+(?P<name>[\w$]+)\s*(?P<dims>(?:\[\s*\d*\s*\]\s*)*)"
)


@dataclass(frozen=True)
class Statement:
    """One instruction.  loc: (file number, line) of the last `.loc` before it, of its source."""

    line: int
    opcode: Opcode
    operands: str
    guarded: bool
    loc: tuple[int, int] | None


@dataclass(frozen=True)
class Outline:
    """What an entry's text says about itself.

    directives: such as {"reqntid": (128,)}.  static_shared_bytes: of declared shared arrays.
    dynamic_shared: whether it uses shared memory of a size that only the launch states.
    calls: functions that it calls.  files: the numbers of `.file` and their names.
    """

    entry: str
    line: int
    statements: tuple[Statement, ...]
    directives: dict[str, tuple[int, ...]]
    static_shared_bytes: int
    dynamic_shared: bool
    calls: tuple[str, ...]
    files: dict[int, str]


def outline(text: str, entry: str) -> Outline:
    """Read the statements of `entry`.  Raises PtxError, with the line, where it cannot."""
    files = {int(number): name for number, name in _FILE.findall(text)}
    text = without_comments(text)
    match = re.search(_ENTRY.format(name=re.escape(entry)), text)
    if match is None:
        raise PtxError(f"entry {entry!r}: its body is not in the PTX")
    statements, declarations, end = _read_body(text, match.end())
    body = text[match.end() : end]
    module = [
        declaration
        for declaration in _SHARED.finditer(text)
        if _is_outside(text, declaration.start()) and _uses(body, declaration["name"])
    ]
    shared = [*module, *(d for s in declarations if (d := _SHARED.match(s)))]
    return Outline(
        entry=entry,
        line=line_of(text, match.start()),
        statements=tuple(statements),
        directives={
            name: tuple(int(n) for n in numbers.split(","))
            for name, numbers in _DIRECTIVE.findall(match["tail"])
        },
        static_shared_bytes=_static_bytes(shared),
        dynamic_shared=any(_is_dynamic(declaration) for declaration in shared),
        calls=tuple(
            dict.fromkeys(_called(s) for s in statements if s.opcode.text.startswith("call"))
        ),
        files=files,
    )


def _read_body(text: str, start: int) -> tuple[list[Statement], list[str], int]:
    """Instructions and declarations up to the brace that closes the entry, and where that is."""
    statements: list[Statement] = []
    declarations: list[str] = []
    position, depth, loc = start, 1, None
    line, counted = line_of(text, start), start
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unfinished(text, position)
        position = match.end()
        if match["brace"]:
            depth += 1 if match["brace"] == "{" else -1
            if not depth:
                return statements, declarations, match.start()
        elif match["file"]:
            loc = int(match["file"]), int(match["line"])
        elif match["statement"]:
            statement = match["statement"][:-1].strip()
            line += text.count("\n", counted, match.start())
            counted = match.start()
            if statement.startswith("."):
                declarations.append(statement)
            elif statement:
                statements.append(_read_statement(statement, line, loc))


def _unfinished(text: str, position: int) -> PtxError:
    """What to say of text at which no statement can be read."""
    rest = text[position:]
    statement, brace, _ = rest.partition("}")
    if brace and statement.strip() and "{" not in statement:
        line = line_of(text, position + len(rest) - len(rest.lstrip()))
        return refuse(line, statement.strip().splitlines()[0], "the instruction has no semicolon")
    last = rest.strip().splitlines() or text.rstrip().splitlines()[-1:]
    return refuse(line_of(text, len(text.rstrip())), last[-1], "the entry has no end")


def _read_statement(text: str, line: int, loc: tuple[int, int] | None) -> Statement:
    match = _INSTRUCTION.fullmatch(text)
    if match is None:
        raise refuse(line, text, "this is no instruction")
    if _NEXT_LINE.search(match["operands"]):
        raise refuse(line, text.splitlines()[0], "the instruction has no semicolon")
    opcode = read_opcode(match["opcode"])
    return Statement(line, opcode, match["operands"].strip(), match["guard"] is not None, loc)


def _called(statement: Statement) -> str:
    """The callee: the first operand that is no list in parentheses."""
    operands = re.sub(r"\([^)]*\)", "", statement.operands)
    return next((part.strip() for part in operands.split(",") if part.strip()), "?")


def _is_outside(text: str, position: int) -> bool:
    """Whether a position lies in no body: what is declared there is the module's."""
    return text.count("{", 0, position) == text.count("}", 0, position)


def _uses(body: str, name: str) -> bool:
    return re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", body) is not None


def _is_dynamic(declaration: re.Match[str]) -> bool:
    return declaration["extern"] is not None


def _static_bytes(declarations: list[re.Match[str]]) -> int:
    """Bytes of arrays laid out one after the other, each as it is aligned."""
    end = 0
    for declaration in declarations:
        if not _is_dynamic(declaration):
            size = int(declaration["type"].lstrip("busf")) // 8
            align = int(declaration["align"] or size)
            for extent in re.findall(r"\d+", declaration["dims"]):
                size *= int(extent)
            end = -(-end // align) * align + size
    return end
