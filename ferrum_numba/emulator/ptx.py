"""PTX as objects: registers, operands, instructions, the body of an entry."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import PtxError
from ..ptx_text import Opcode, refuse


@dataclass(frozen=True, eq=False)
class Register:
    """A declared register. Two registers of one name in two scopes are two objects."""

    name: str
    ptx_type: str

    @property
    def bits(self) -> int:
        """Width in bits; 1 for a predicate."""
        return 1 if self.ptx_type == "pred" else int(self.ptx_type[1:])


@dataclass(frozen=True)
class Special:
    """A special register, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A literal: the bit pattern of a float of `width` 32 or 64, or an integer's value."""

    bits: int
    width: int | None = None


@dataclass(frozen=True)
class Symbol:
    """A label, a parameter or a shared array, by name."""

    name: str


@dataclass(frozen=True)
class Local:
    """An array in local memory, of which each lane has its own: its name and offset in bytes."""

    name: str
    offset: int


@dataclass(frozen=True)
class Array:
    """A .global or .const array of the module: its alignment and its first content."""

    align: int
    content: bytes


@dataclass(frozen=True)
class Negated:
    """`!%p`: a predicate operand taken the other way round."""

    register: Register


@dataclass(frozen=True)
class Address:
    """`[base + offset]`, offset in bytes."""

    base: Register | Symbol | Immediate | Local
    offset: int


@dataclass(frozen=True)
class Group:
    """`{a, b, …}`, or the two destinations `a|b` (paired)."""

    elements: tuple[Operand | None, ...]
    paired: bool = False


@dataclass(frozen=True)
class Box:
    """`[map, {x, y}]`: where a box of a tensor begins, and the map that describes both."""

    map: Address
    coordinates: Group


Operand = Register | Special | Immediate | Symbol | Local | Negated | Address | Group | Box


@dataclass(eq=False)
class Instruction:
    """One instruction. `loc` is the last .loc before it: (file number, line)."""

    opcode: Opcode
    operands: tuple[Operand, ...]
    guard: Register | None
    guard_negated: bool
    line: int
    text: str
    index: int
    loc: tuple[int, int] | None = None

    def refuse(self, problem: str) -> PtxError:
        """The error that names this instruction."""
        return refuse(self.line, self.text, f"{self.opcode.text}: {problem}")


def elements_of(operand: Operand) -> tuple[Operand | None, ...]:
    """The elements of a group, or the operand alone."""
    return operand.elements if isinstance(operand, Group) else (operand,)


def registers_of(operand: Operand | None) -> list[Register]:
    """The registers that an operand mentions, in order."""
    if isinstance(operand, Register):
        return [operand]
    if isinstance(operand, Negated):
        return [operand.register]
    if isinstance(operand, Address):
        return registers_of(operand.base)
    if isinstance(operand, Group):
        return [r for element in operand.elements for r in registers_of(element)]
    if isinstance(operand, Box):
        return registers_of(operand.map) + registers_of(operand.coordinates)
    return []


@dataclass
class Body:
    """An entry's statements in order: a str is a label, everything else an instruction.

    shared: shared symbols and their offsets in bytes.  static_shared: bytes taken by the static
    ones, after which the dynamic ones begin; static_end: without what aligns those.  local_bytes:
    of .local memory a thread.  arrays: those of the module.  files: the numbers of `.file` and
    their names.
    """

    statements: list[str | Instruction] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    static_shared: int = 0
    local_bytes: int = 0
    arrays: dict[str, Array] = field(default_factory=dict)
    static_end: int = 0
    files: dict[int, str] = field(default_factory=dict)

    def source_of(self, instruction: Instruction) -> tuple[str | None, int | None]:
        """File and line of the source, where the PTX says them."""
        file, line = instruction.loc or (None, None)
        return (self.files.get(file) if file is not None else None), line or None

    def place_of(self, instruction: Instruction) -> str:
        """`file:line` of the source; "" where the PTX does not say it."""
        source, line = self.source_of(instruction)
        return f"{source}:{line}" if source and line else ""
