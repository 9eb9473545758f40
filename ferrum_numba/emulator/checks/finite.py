"""The check "nan": where a NaN or an infinity first comes out of finite numbers.

    nonfinite_<bits>_...(mask, addresses, bytes, which, checks, ctx, site, values...): record these
        lanes, and the values of the first one

An instruction is looked at where it writes floating-point numbers, as its types say; of a load
those say it who use what it loads.  All that it works on must be finite, so what follows from a
finding is none.  Numbers from memory may follow from one, too: they count as long as the worker has
found nothing.  Products of matrices mix lanes: there the numbers of all lanes must be finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from .. import table
from ..builder import Builder
from ..hooks import Access
from ..ptx import Immediate, Instruction, Register, registers_of
from ..types import Values, held_types, uses
from ..values import Value
from .check import POINTER, WORD, Check, Kept, Kind, Room, Subject, at_site, zeros
from .code import Code, code
from .state import offset

# Bits that are all set in NaN and infinity, for each number in a register.
_EXPONENTS = {
    "f16": (0x7C00,),
    "bf16": (0x7F80,),
    "f16x2": (0x7C00, 0x7C000000),
    "bf16x2": (0x7F80, 0x7F800000),
    "f32": (0x7F800000,),
    "f32x2": (0x7F800000, 0x7F800000 << 32),
    "f64": (0x7FF0 << 48,),
}
_SHOWN = 7  # registers whose values are kept; behind them is whether they are


class _Use(NamedTuple):
    """A register of floating-point numbers: its place among an instruction's, and its type."""

    place: int
    type: str
    read: bool
    written: bool


class Finite(Check):
    """Looks at what instructions make of finite numbers."""

    asked = frozenset({"nan"})
    usual = False  # many a kernel counts on infinities
    stepwise = True
    kinds = (
        Kind(
            "nan",
            "nan",
            {
                "register": "{what} {origin}: {values}",
                "shared": "{what} was read from {place}: {values}",
                "global": "{what} was read from {place}: {values}",
            },
        ),
    )
    # Whether anything was found; of each instruction the values of the first lane.
    fields: ClassVar = {"nonfinite": WORD, "nonfinite_values": POINTER}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        held = held_types(subject.instructions)
        # By number: the body is read again for each translation.
        self._uses = {ins.index: _uses_of(ins, held) for ins in subject.instructions}
        self._inputs: list[Value] = []
        self._usable = Value("true", "i1")
        self._access: tuple[Value, int] | None = None

    def keep(self, room: Room) -> Kept:
        return {"nonfinite_values": zeros(room.statements * (_SHOWN + 1), np.uint64)}

    # -- hooks ----------------------------------------------------------------------------------

    def reads(self, b: Builder, ins: Instruction) -> None:
        """Look at operands before their instruction, which may overwrite them."""
        self._access = None
        if not any(use.written for use in self._uses[ins.index]):
            return
        sources = [(use, _register(ins, use)) for use in self._uses[ins.index] if use.read]
        self._inputs = [b.read(register, f"i{register.bits}") for _, register in sources]
        usable = Value("true", "i1")
        for value, (use, _) in zip(self._inputs, sources, strict=True):
            usable = b.op("and", usable, b.invert(_is_special(b, value, use.type)))
        if table.find(ins).varying:
            usable = b.compare("icmp eq", b.mask(usable), -1)
        if _is_from_memory(ins):
            found = b.load("i32", 1, "%checks", offset("nonfinite"), 4)
            usable = b.op("and", usable, b.compare("icmp eq", found, 0))
        acts = b.condition(ins)
        self._usable = usable if acts is None else b.op("and", usable, acts)

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        if table.accesses(at.ins, "load") or table.accesses(at.ins, "atomic"):
            self._access = b.cast("zext", b.vector(at.address), "i64"), at.nbytes
        return condition

    def writes(self, b: Builder, ins: Instruction) -> None:
        targets = [use for use in self._uses[ins.index] if use.written]
        count = sum(1 for operand in ins.operands[:1] for _ in registers_of(operand))
        for use in targets:
            register = _register(ins, use)
            value = b.read(register, f"i{register.bits}")
            bad = b.op("and", _is_special(b, value, use.type), self._usable)
            shown = [*self._inputs[: _SHOWN - 1], value]
            addresses, nbytes = b.vector(b.constant("i64", 0)), 0
            if self._access is not None:
                addresses, total = self._access
                nbytes = total // count
                addresses = b.op("add", addresses, use.place * nbytes)
            mask = b.mask(bad) if bad.n > 1 else b.cast("zext", bad, "i32")
            with b.when(b.compare("icmp ne", mask, 0)):
                name = "_".join(["nonfinite", *(v.type[1:] for v in shown)])
                values = [b.vector(v) for v in shown]
                size = b.constant("i32", nbytes)
                which = b.constant("i32", use.place)
                b.call(name, "void", mask, addresses, size, which, *at_site(ins), *values)

    # -- findings -------------------------------------------------------------------------------

    def sight(self, ins: Instruction, kept: Kept, record: np.void) -> Mapping[str, object]:
        words = np.asarray(kept["nonfinite_values"]).reshape(-1, _SHOWN + 1)[ins.index]
        sources = [use for use in self._uses[ins.index] if use.read][: _SHOWN - 1]
        target = next(u for u in self._uses[ins.index] if u.written and u.place == words[-1] - 1)
        texts = [
            f"{_register(ins, use).name} = {_text(_register(ins, use), use.type, word)}"
            for use, word in zip([*sources, target], words.tolist(), strict=False)
        ]
        result = texts.pop()
        from_memory = _is_from_memory(ins)
        return {
            "what": "a NaN" if "NaN" in result else "an infinity",
            "origin": "was read" if from_memory and not texts else "came out of finite numbers",
            "values": f"{result} from {', '.join(texts)}" if texts else result,
        }


def _uses_of(ins: Instruction, held: Mapping[Register, str]) -> list[_Use]:
    """The registers of floating-point numbers; none where a literal is not finite."""
    row, found = table.find(ins), []
    loads = row.accesses in (("load",), ("ldmatrix",))
    for number, (register, ptx_type, written) in enumerate(uses(ins)):
        if loads and written and ptx_type[0] == "b":
            ptx_type = held.get(register, ptx_type)
        if ptx_type in _EXPONENTS:
            read = not written or row.accumulates
            found.append(_Use(number, ptx_type, read, written))
    literals = [o for o in ins.operands if isinstance(o, Immediate) and o.width]
    special = any(
        o.bits & mask == mask for o in literals for mask in _EXPONENTS.get(f"f{o.width}", ())
    )
    return [] if special else found


def _register(ins: Instruction, use: _Use) -> Register:
    return [r for operand in ins.operands for r in registers_of(operand)][use.place]


def _is_from_memory(ins: Instruction) -> bool:
    """True if an instruction's numbers come from memory, in which a product's may lie."""
    row = table.find(ins)
    return bool(row.accesses) or row.accumulates or "param" in ins.opcode.modifiers


def _is_special(b: Builder, value: Value, ptx_type: str) -> Value:
    """True if one of a register's numbers is NaN or an infinity."""
    found = [b.compare("icmp eq", b.op("and", value, mask), mask) for mask in _EXPONENTS[ptx_type]]
    return found[0] if len(found) == 1 else b.op("or", *found)


def _text(register: Register, ptx_type: str, word: int) -> str:
    bits = np.array([word & (1 << register.bits) - 1], f"u{register.bits // 8}")
    return Values(ptx_type, bits).text(0)


@code("nonfinite")
def nonfinite(c: Code, *widths: str) -> None:
    """which: the place among the registers of the last of the values, which came out."""
    mask, addresses, nbytes, which = c.takes("i32", "<32 x i64>", "i32", "i32")
    c.looks()
    elements = [c.spread(value) for value in c.takes(*(f"<32 x i{bits}>" for bits in widths))]
    address = c.spread(addresses)
    c.visits()
    c.put("nonfinite", c.constant("i32", 1))
    first = c.op("mul", c.cast("zext", c.site, "i64"), _SHOWN + 1)
    words = c.item("i64", c.field("nonfinite_values"), first)
    with c.when(c.compare("icmp eq", c.load("i64", 1, words, 8 * _SHOWN, 8), 0)):
        lane = c.intrinsic("llvm.cttz", mask, extra="i1 true")
        for i, element in enumerate(elements):
            c.store(c.cast("zext", element(lane), "i64"), words, 8 * i, 8)
        c.store(c.op("add", c.cast("zext", which, "i64"), 1), words, 8 * _SHOWN, 8)
    with c.each_lane(mask) as (lane,):
        c.record("nan", lane, address(lane), nbytes)
