"""The statements of an entry, of any compiler's PTX, without a claim to understand them.

Where the CPU device's parser (`emulator.parse`) resolves every operand and refuses what it could
not run, this reads what the driver may read: opcodes, their source lines, and what is declared.

Source: PTX ISA, "Syntax" and "Directives".
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import PtxError
from ...ptx_text import (
    Statement,
    Variable,
    called,
    read_body,
    read_module,
    read_statement,
    read_variable,
)


@dataclass(frozen=True)
class Outline:
    """Outline of an entry, as its text gives it.

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
    module = read_module(text)
    head = module.entries.get(entry)
    if head is None or head.body is None:
        raise PtxError(f"entry {entry!r}", "its body is not in the PTX")
    statements: list[Statement] = []
    declarations: list[str] = []
    for kind, piece, position, loc in read_body(module, head.body):
        if kind == ";" and piece.startswith("."):
            declarations.append(piece)
        elif kind == ";" and piece:
            statements.append(read_statement(piece, module.line(position), loc))
    declarations = [declaration for declaration, _ in module.shared(head)] + declarations
    variables = [v for v in map(read_variable, declarations) if v and v.space == "shared"]
    calls = (called(s) or "?" for s in statements if s.opcode.base == "call")
    return Outline(
        entry=entry,
        line=module.line(head.position),
        statements=tuple(statements),
        directives=head.directives,
        static_shared_bytes=_static_bytes(variables),
        dynamic_shared=any(variable.extern for variable in variables),
        calls=tuple(dict.fromkeys(calls)),
        files=module.files,
    )


def _static_bytes(variables: list[Variable]) -> int:
    """Bytes of arrays laid out one after the other, each as it is aligned."""
    end = 0
    for variable in variables:
        if not variable.extern:
            end = variable.place(end) + variable.nbytes
    return end
