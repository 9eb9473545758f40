"""Census of an entry's instructions: by family, by memory space and width, by tensor shape.

All counts are of instructions in the text, not of how often they run.
Source: PTX ISA, "Instruction Set".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...emulator import opcodes as opcodes  # fills the table
from ...emulator import table
from ...ptx_text import Opcode, Statement
from .outline import Outline

# Opcodes that the CPU device does not have; those that it has are in its table.
_OTHERS = {
    "tensor": "wmma tcgen05 movmatrix",
    "memory": "applypriority",
    "barrier": "clusterlaunchcontrol",
    "convert": "mapa getctarank istypep",
    "control": "brx call brkpt alloca",
    "texture": "tex tld4 txq suld sust sured suq",
}
_FAMILY = {base: family for family, bases in _OTHERS.items() for base in bases.split()}
FAMILIES = (
    *("tensor", "memory", "async copy", "atomic", "barrier", "lanes", "float", "half", "integer"),
    *("logic", "compare", "convert", "move", "control", "texture", "other"),
)
_SPACES = ("global", "shared", "local", "const", "param", "tex")
_SHAPE = re.compile(r"m\d+n\d+(?:k\d+)?")
_VECTOR = {"v2": 2, "v4": 4, "v8": 8}
_PARTS = {"f16x2": 32, "bf16x2": 32, "bf16": 16, "tf32": 32, "pred": 1}
_FIRST_NUMBER = re.compile(r",\s*(0[xX][0-9a-fA-F]+|\d+)\s*(?:,|$)")


@dataclass(frozen=True)
class Family:
    """Instructions of one kind.  opcodes: how many of each base and type, the most first."""

    name: str
    count: int
    opcodes: dict[str, int]


@dataclass(frozen=True)
class Access:
    """Instructions that move data: operation, space, bytes a thread (None: not in the text)."""

    operation: str
    space: str
    width: int | None
    count: int


@dataclass(frozen=True)
class TensorUse:
    """Instructions on tiles: operation, shape such as m16n8k16 or x4, types of the operands."""

    operation: str
    shape: str
    types: str
    count: int


@dataclass(frozen=True)
class SourceFile:
    """A file that `.loc` names.  lines: instructions of each line; "" as name: without a `.loc`."""

    name: str
    count: int
    lines: dict[int, int]


@dataclass(frozen=True)
class Census:
    """All counts of one entry."""

    instructions: int
    families: tuple[Family, ...]
    accesses: tuple[Access, ...]
    tensor: tuple[TensorUse, ...]
    files: tuple[SourceFile, ...]


def take_census(found: Outline) -> Census:
    """Count an entry's instructions."""
    return Census(
        instructions=len(found.statements),
        families=tuple(_families(found.statements)),
        accesses=tuple(
            Access(*key, count)
            for key, count in sorted(
                Counter(filter(None, map(_access, found.statements))).items(), key=_by_access
            )
        ),
        tensor=tuple(
            TensorUse(*key, count)
            for key, count in sorted(Counter(filter(None, map(_tensor, found.statements))).items())
        ),
        files=tuple(_files(found)),
    )


def _stem(opcode: Opcode) -> str:
    """The first word, which the ISA's tables go by."""
    return opcode.text.partition(".")[0]


def family(opcode: Opcode) -> str:
    """The family of an opcode; "other" for one that is not in the tables."""
    row = table.lookup(opcode)
    if row is not None:
        return row.family
    if "f32x2" in opcode.modifiers:
        return "float"
    families = table.families(_stem(opcode)) or {_FAMILY.get(_stem(opcode), "other")}
    return families.pop() if len(families) == 1 else "other"


def _families(statements: Sequence[Statement]) -> Iterator[Family]:
    for name in FAMILIES:
        opcodes = Counter(
            _short(statement.opcode) for statement in statements if family(statement.opcode) == name
        )
        if opcodes:
            yield Family(name, opcodes.total(), dict(opcodes.most_common()))


def _short(opcode: Opcode) -> str:
    """Base and types: what tells opcodes of a family apart at a glance."""
    stem = _stem(opcode)
    if stem in ("cp", "wgmma", "tcgen05", "mbarrier", "griddepcontrol", "cvta"):
        return ".".join(opcode.text.split(".")[: 3 if stem == "cp" else 2])
    return ".".join((stem, *opcode.types))


def _access(statement: Statement) -> tuple[str, str, int | None] | None:
    opcode, parts = statement.opcode, statement.opcode.text.split(".")
    stem = parts[0]
    if stem in ("ldmatrix", "stmatrix"):
        return stem, "shared", _matrix_width(parts)
    if stem == "cp":
        return _copy(statement, parts)
    if stem in ("ld", "ldu", "st", "atom", "red", "prefetch"):
        space = next((p.partition("::")[0] for p in parts if p.partition("::")[0] in _SPACES), "")
        return stem, space or "generic", _width(opcode)
    return None


def _copy(statement: Statement, parts: list[str]) -> tuple[str, str, int | None] | None:
    """cp.async of a width that its text gives, and bulk copies of one that it does not."""
    spaces = [p.partition("::")[0] for p in parts if p.partition("::")[0] in _SPACES]
    if len(spaces) < 2:  # commit_group, wait_group, mbarrier
        return None
    bulk = ["bulk"] * ("bulk" in parts) + ["tensor"] * ("tensor" in parts)
    operation = ".".join(["cp.async" if "async" in parts else "cp", *bulk])
    width = None
    if not bulk and (number := _FIRST_NUMBER.search(statement.operands)):
        width = int(number[1], 0)
    return operation, f"{spaces[1]} to {spaces[0]}", width


def _width(opcode: Opcode) -> int | None:
    """Bytes a thread, by the last type and the vector in front of it."""
    if not opcode.type:
        return None
    digits = re.search(r"\d+", opcode.type)
    bits = _PARTS.get(opcode.type) or (int(digits[0]) if digits else 0)
    lanes = next((n for name, n in _VECTOR.items() if name in opcode.modifiers), 1)
    return bits * lanes // 8


def _matrix_width(parts: list[str]) -> int | None:
    """An m8n8 matrix of 16-bit elements is one 4-byte register a thread."""
    return next((4 * int(p[1:]) for p in parts if p in ("x1", "x2", "x4")), None)


def _tensor(statement: Statement) -> tuple[str, str, str] | None:
    opcode, parts = statement.opcode, statement.opcode.text.split(".")
    if family(opcode) != "tensor":
        return None
    stem, types = parts[0], ".".join(opcode.types)
    shape = next((p for p in parts if _SHAPE.fullmatch(p)), "")
    if stem in ("ldmatrix", "stmatrix", "movmatrix"):
        number = next((p for p in parts if p in ("x1", "x2", "x4")), "")
        shape = " ".join(filter(None, (shape, number, "trans" if "trans" in parts else "")))
        return stem, shape, types
    if stem == "wgmma" and not shape:
        return None  # fence, commit_group, wait_group
    what = parts[1] if stem in ("wgmma", "wmma", "tcgen05") else ""
    sparse = "sp" if any(p.startswith("sp") for p in parts[1:3]) else ""
    return ".".join(filter(None, (stem, what, sparse))), shape, types


def _by_access(item: tuple[tuple[str, str, int | None], int]) -> tuple[str, str, int]:
    (operation, space, width), _ = item
    return space, operation, -(width or 0)


def _files(found: Outline) -> Iterator[SourceFile]:
    lines: dict[str, Counter[int]] = {}
    for statement in found.statements:
        number, line = statement.loc or (0, 0)
        name = found.files.get(number, "") if statement.loc and line else ""
        lines.setdefault(name, Counter())[line] += 1
    for name, counts in sorted(lines.items(), key=lambda item: (not item[0], -item[1].total())):
        yield SourceFile(name, counts.total(), dict(sorted(counts.items())) if name else {})
