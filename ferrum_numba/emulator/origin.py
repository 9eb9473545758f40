"""Parameters and constants that the address and the guard of each access are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from ..abi import Signature
from . import table
from .parse import parse_entry
from .ptx import Address, Immediate, Instruction, Register, Special, Symbol, registers_of

_LEAST_TILE = 16
_ACCESSES = ("ld", "st", "cp", "atom", "red")
_ELEMENTS = (1, 2, 4, 8)  # sizes in bytes; each is a bit of its own


@dataclass(frozen=True)
class Origin:
    """Names of parameters, as the PTX has them.

    address: those that the address is computed from.  mask: those of the guard.
    contents: pointers to what was loaded to compute either, such as an array of indices.
    steps: of 1, 2, 4 and 8 bytes those that numbers of elements are multiplied by on the way to
    the address.
    """

    address: frozenset[str]
    mask: frozenset[str]
    contents: frozenset[str]
    steps: frozenset[int]

    def joined(self, other: Origin) -> Origin:
        """Origin of two accesses on one line."""
        return Origin(
            self.address | other.address,
            self.mask | other.mask,
            self.contents | other.contents,
            self.steps | other.steps,
        )


def has_origin(ins: Instruction) -> bool:
    """True for the accesses of which an origin is told; others may stand on the same line.

    Copies by tensor maps have none: where they lead the map says.
    """
    return "global" in ins.opcode.modifiers and _stem(ins) in _ACCESSES and not _by_map(ins)


def _stem(ins: Instruction) -> str:
    return ins.opcode.base.partition(".")[0]


def _by_map(ins: Instruction) -> bool:
    return ins.opcode.base.endswith(".tensor")


class _Entry(NamedTuple):
    """Facts about one entry, of which each function here gives one."""

    origins: Mapping[int, Origin]
    pointers: tuple[frozenset[str] | None, frozenset[str] | None]
    tiles: Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=64)
def _read(text: str, entry: str) -> _Entry:
    """Read an entry once for all: that takes longer than what is looked for in it."""
    instructions = [s for s in parse_entry(text, entry).statements if isinstance(s, Instruction)]
    found = _origins(instructions)
    return _Entry(found, _pointers(instructions, found), _tiles(instructions))


def origins(text: str, entry: str) -> Mapping[int, Origin]:
    """Origins of every access to global memory, by its line in the PTX.  Raises PtxError."""
    return _read(text, entry).origins


def _origins(instructions: Sequence[Instruction]) -> Mapping[int, Origin]:
    sources, added = _Flow(), _Flow()
    names: list[str] = []
    for ins in instructions:
        for register in _results(ins):
            sources.comes_from(register, _sources(ins))
            if ins.opcode.base == "ld" and "param" in ins.opcode.modifiers:
                for name in _symbols(ins):
                    sources.carries(register, 1 << len(names))
                    names.append(name)
            _add_steps(ins, register, added)
    parameters, steps = sources.all_that_reaches(), added.all_that_reaches()

    loaded = _Flow(sources)
    for ins in instructions:
        if ins.opcode.base == "ld" and "global" in ins.opcode.modifiers:
            of = _joined(parameters, (r for o in ins.operands[1:] for r in registers_of(o)))
            for register in _results(ins):
                loaded.carries(register, of)
    contents = loaded.all_that_reaches()

    @cache
    def named(mask: int) -> frozenset[str]:
        return frozenset(names[i] for i, bit in enumerate(reversed(f"{mask:b}")) if bit == "1")

    found: dict[int, Origin] = {}
    for ins in instructions:
        if not has_origin(ins):
            continue
        place = [r for o in ins.operands if isinstance(o, Address) for r in registers_of(o)]
        guard = [ins.guard] if ins.guard else []
        elements = _joined(steps, place)
        origin = Origin(
            named(_joined(parameters, place)),
            named(_joined(parameters, guard)),
            named(_joined(contents, [*place, *guard])),
            frozenset(step for step in _ELEMENTS if step & elements),
        )
        found[ins.line] = found[ins.line].joined(origin) if ins.line in found else origin
    return found


def element_nbytes(text: str, entry: str) -> Mapping[int, int]:
    """Bytes from one element to the next of the arrays of which that shows, by the parameter's
    index.  Raises PtxError."""
    pointers = {p.name: p.index for p in Signature.from_ptx(text, entry).params if p.size == 8}
    found: dict[int, set[int]] = {}
    for origin in origins(text, entry).values():
        of = [pointers[name] for name in origin.address if name in pointers]
        if len(of) == 1 and origin.steps:
            found.setdefault(of[0], set()).add(min(origin.steps))
    return {index: steps.pop() for index, steps in found.items() if len(steps) == 1}


def pointers_of(text: str, entry: str) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Parameters that global memory is read through, and written; None: any.  Raises PtxError.

    Atomic operations write.
    """
    return _read(text, entry).pointers


def _pointers(
    instructions: Sequence[Instruction], of: Mapping[int, Origin]
) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    found: list[set[str] | None] = [set(), set()]
    for ins in instructions:
        base, modifiers = _stem(ins), ins.opcode.modifiers
        if base not in _ACCESSES:
            continue
        near = any(m.startswith(("shared", "local", "param", "const")) for m in modifiers)
        if "global" not in modifiers if base == "cp" else near:
            continue
        out = base not in ("ld", "cp") or "bulk_group" in modifiers
        told = ins.line in of and not _by_map(ins)
        names = of[ins.line].address if told else frozenset[str]()
        for i, is_so in enumerate((not out, out)):
            known = found[i]
            if is_so and known is not None:
                found[i] = known | names if names else None
    read, written = (None if names is None else frozenset(names) for names in found)
    return read, written


def tiles(text: str, entry: str) -> Mapping[str, tuple[int, ...]]:
    """Constants that a CTA's number along each axis is multiplied by: how much of the work a CTA
    takes.  Quotients and remainders of the number count as it does.  Raises PtxError."""
    return _read(text, entry).tiles


def _tiles(instructions: Sequence[Instruction]) -> Mapping[str, tuple[int, ...]]:
    numbers: dict[Register, str] = {}
    found: dict[str, set[int]] = {}
    for ins in instructions:
        if len(ins.operands) < 2:
            continue
        to, *given = ins.operands
        axes = [numbers[o] for o in given if isinstance(o, Register) and o in numbers]
        axes += [o.name[-1] for o in given if isinstance(o, Special) and "ctaid" in o.name]
        factor = [o.bits for o in given[:2] if isinstance(o, Immediate)]
        if not axes or not isinstance(to, Register):
            continue
        if ins.opcode.base in ("mov", "cvt", "div", "rem"):
            numbers[to] = axes[0]
        elif ins.opcode.base in ("mul", "mad", "shl") and factor:
            step = _power(factor[0]) if ins.opcode.base == "shl" else factor[0]
            if step >= _LEAST_TILE:  # less is the size of an element
                found.setdefault(axes[0], set()).add(step)
    return {axis: tuple(sorted(steps)) for axis, steps in sorted(found.items())}


def _results(ins: Instruction) -> list[Register]:
    row = table.lookup(ins.opcode)  # None: the CPU device cannot run it
    writes = row.writes if row is not None else 1
    return [register for operand in ins.operands[:writes] for register in registers_of(operand)]


def _sources(ins: Instruction) -> list[Register]:
    """Registers that it reads; the value of a load has another origin than its address."""
    if ins.opcode.base == "ld":
        return []
    mentioned = [r for operand in ins.operands[1:] for r in registers_of(operand)]
    return [*mentioned, ins.guard] if ins.guard else mentioned


def _symbols(ins: Instruction) -> Iterator[str]:
    bases = (o.base for o in ins.operands if isinstance(o, Address))
    return (base.name for base in bases if isinstance(base, Symbol))


def _add_steps(ins: Instruction, register: Register, added: _Flow) -> None:
    """Constant factors met from an address back through additions."""
    base, operands = ins.opcode.base, ins.operands
    if base in ("add", "mov", "cvta", "selp"):
        added.comes_from(register, _sources(ins))
    elif base in ("mad", "mul", "shl") and register.bits == 64 and len(operands) > 2:
        if base == "mad":
            added.comes_from(register, [r for o in operands[3:] for r in registers_of(o)])
        if isinstance(operands[2], Immediate):
            factor = operands[2].bits
            step = _power(factor) if base == "shl" else factor
            added.carries(register, step if step in _ELEMENTS else 0)


def _power(exponent: int) -> int:
    return 1 << exponent if 0 <= exponent < 64 else 0


def _joined(masks: Mapping[Register, int], registers: Iterable[Register]) -> int:
    joined = 0
    for register in registers:
        joined |= masks.get(register, 0)
    return joined


class _Flow:
    """Registers that each is computed from, and marks, as bits, that they carry along."""

    def __init__(self, along: _Flow | None = None) -> None:
        self._sources: dict[Register, list[Register]] = along._sources if along else {}
        self._marks: dict[Register, int] = {}

    def comes_from(self, register: Register, sources: list[Register]) -> None:
        """Note that a register is computed from others."""
        self._sources.setdefault(register, []).extend(sources)

    def carries(self, register: Register, marks: int) -> None:
        """Give marks to a register."""
        self._marks[register] = self._marks.get(register, 0) | marks

    def all_that_reaches(self) -> dict[Register, int]:
        """The marks of every register and of all that it is computed from.

        Source: Tarjan, "Depth-first search and linear graph algorithms" (1972), without recursion.
        """
        order: dict[Register, int] = {}
        low: dict[Register, int] = {}
        marks: dict[Register, int] = {}
        open_: list[Register] = []
        for root in {**self._sources, **self._marks}:
            path = [] if root in order else [(root, iter(self._sources.get(root, ())))]
            while path:
                register, sources = path[-1]
                if register not in order:
                    order[register] = low[register] = len(order)
                    marks[register] = self._marks.get(register, 0)
                    open_.append(register)
                for source in sources:
                    if source not in order:
                        path.append((source, iter(self._sources.get(source, ()))))
                        break
                    if source in low:  # which is open: of the same circle
                        low[register] = min(low[register], order[source])
                    marks[register] |= marks[source]
                else:
                    path.pop()
                    if path:
                        above = path[-1][0]
                        low[above] = min(low[above], low[register])
                        marks[above] |= marks[register]
                    if low[register] == order[register]:
                        self._close(register, open_, low, marks)
        return marks

    @staticmethod
    def _close(
        first: Register, open_: list[Register], low: dict[Register, int], marks: dict[Register, int]
    ) -> None:
        """Give all registers of a circle the same marks."""
        while True:
            register = open_.pop()
            del low[register]
            marks[register] = marks[first]
            if register is first:
                return
