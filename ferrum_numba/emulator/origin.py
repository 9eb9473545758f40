"""What accesses go by: parameters that addresses and masks are computed from, and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..abi import Signature
from . import table
from .parse import parse_entry
from .ptx import (
    Address,
    Group,
    Immediate,
    Instruction,
    Operand,
    Register,
    Special,
    Symbol,
    registers_of,
)

_LEAST_TILE = 16


@dataclass(frozen=True)
class Origin:
    """Names of parameters, as the PTX has them.

    address: those that the address is computed from.  mask: those of the guard.
    contents: pointers to what was loaded to compute either, such as an array of indices.
    steps: bytes that numbers of elements are multiplied by on the way to the address.
    """

    address: frozenset[str]
    mask: frozenset[str]
    contents: frozenset[str]
    steps: frozenset[int]


@lru_cache(maxsize=64)
def origins(text: str, entry: str) -> Mapping[int, Origin]:
    """Of every access to global memory, by its line in the PTX.  Raises PtxError."""
    instructions = [s for s in parse_entry(text, entry).statements if isinstance(s, Instruction)]
    writers: dict[Register, list[Instruction]] = {}
    for ins in instructions:
        for register in _results(ins):
            writers.setdefault(register, []).append(ins)
    found = {}
    for ins in instructions:
        if "global" not in ins.opcode.modifiers or ins.opcode.base not in ("ld", "st"):
            continue
        place = next(o for o in ins.operands if isinstance(o, Address))
        reached = _reach(registers_of(place), writers)
        guarded = _reach([ins.guard] if ins.guard else [], writers)
        found[ins.line] = Origin(
            _parameters(reached),
            _parameters(guarded),
            _contents([*reached, *guarded], writers),
            frozenset(_steps(registers_of(place), writers)),
        )
    return found


def element_nbytes(text: str, entry: str) -> Mapping[int, int]:
    """Bytes from one element to the next of the arrays of which that shows, by the parameter's
    index.  Raises PtxError."""
    pointers = {p.name: p.index for p in Signature.from_ptx(text, entry).params if p.size == 8}
    found: dict[int, set[int]] = {}
    for origin in origins(text, entry).values():
        of = [pointers[name] for name in origin.address if name in pointers]
        steps = [step for step in origin.steps if step in (1, 2, 4, 8)]
        if len(of) == 1 and steps:
            found.setdefault(of[0], set()).add(min(steps))
    return {index: steps.pop() for index, steps in found.items() if len(steps) == 1}


def tiles(text: str, entry: str) -> Mapping[str, tuple[int, ...]]:
    """Constants that a CTA's number along each axis is multiplied by: how much of the work a CTA
    takes.  Quotients and remainders of the number count as it does.  Raises PtxError."""
    numbers: dict[Register, str] = {}
    found: dict[str, set[int]] = {}
    for ins in parse_entry(text, entry).statements:
        if not isinstance(ins, Instruction) or len(ins.operands) < 2:
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
            step = 1 << factor[0] if ins.opcode.base == "shl" else factor[0]
            if step >= _LEAST_TILE:  # less is the size of an element
                found.setdefault(axes[0], set()).add(step)
    return {axis: tuple(sorted(steps)) for axis, steps in sorted(found.items())}


def _results(ins: Instruction) -> list[Register]:
    row = table.lookup(ins.opcode)  # None: the CPU device cannot run it
    writes = row.writes if row is not None else 1
    return [register for operand in ins.operands[:writes] for register in registers_of(operand)]


def _sources(ins: Instruction) -> list[Register]:
    """What it reads; what a load brings from memory has another origin than its address."""
    if ins.opcode.base == "ld":
        return []
    mentioned = [r for operand in ins.operands[1:] for r in registers_of(operand)]
    return [*mentioned, ins.guard] if ins.guard else mentioned


def _reach(
    start: Iterable[Register], writers: Mapping[Register, list[Instruction]]
) -> list[Instruction]:
    """Every instruction that these registers' values come through."""
    todo, seen = list(start), dict[int, Instruction]()
    while todo:
        for ins in writers.get(todo.pop(), ()):
            if ins.index not in seen:
                seen[ins.index] = ins
                todo += _sources(ins)
    return list(seen.values())


def _parameters(reached: Iterable[Instruction]) -> frozenset[str]:
    loads = (i for i in reached if i.opcode.base == "ld" and "param" in i.opcode.modifiers)
    bases = (o.base for i in loads for o in i.operands if isinstance(o, Address))
    return frozenset(base.name for base in bases if isinstance(base, Symbol))


def _contents(
    reached: Iterable[Instruction], writers: Mapping[Register, list[Instruction]]
) -> frozenset[str]:
    loads = [i for i in reached if i.opcode.base == "ld" and "global" in i.opcode.modifiers]
    places = [r for i in loads for o in i.operands[1:] for r in registers_of(o)]
    return _parameters(_reach(places, writers))


def _steps(
    start: Iterable[Register], writers: Mapping[Register, list[Instruction]]
) -> Iterable[int]:
    """Constant factors met from an address back through additions."""
    todo, seen = list(start), set[Register]()
    while todo:
        register = todo.pop()
        if register in seen:
            continue
        seen.add(register)
        for ins in writers.get(register, ()):
            base, operands = ins.opcode.base, ins.operands
            if base in ("add", "mov", "cvta", "selp"):
                todo += _sources(ins)
            elif base == "mad" and register.bits == 64:
                yield from _factor(operands[2])
                todo += registers_of(operands[3])
            elif base == "mul" and register.bits == 64:
                yield from _factor(operands[2])
            elif base == "shl" and register.bits == 64:
                yield from (1 << bits for bits in _factor(operands[2]))


def _factor(operand: Operand) -> Iterable[int]:
    if isinstance(operand, Immediate) and not isinstance(operand, Group):
        yield operand.bits
