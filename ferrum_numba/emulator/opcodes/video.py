"""Two or four integers in one register: SIMD video instructions.

Operands are taken as they lie: the CPU device has neither selectors nor masks of bytes.
Source: PTX ISA, "SIMD Video Instructions".
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..table import rows_of
from ..values import Value
from .integer import expect

lowers = rows_of("integer")

_OPERATIONS = ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax")
_RELATIONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_TYPES = ("u32", "s32")


@lowers(
    *(f"{name}{count}" for name in _OPERATIONS for count in (2, 4)),
    types=_TYPES,
    modifiers="sat add",
    operands="b32",
)
def arithmetic(b: Builder, ins: Instruction) -> None:
    """vop.dtype.atype.btype d, a, b, c: of each pair; .add: their sum, added to c."""
    if len(ins.opcode.types) != 3 or not {*ins.opcode.types} <= {*_TYPES}:
        raise ins.refuse("expected the types of d, a and b")
    x, y = _parts(b, ins, *ins.opcode.types[1:])
    value = _result(b, ins.opcode.base[:-1], x, y)
    if "sat" in ins.opcode.modifiers:
        bits, signed = 32 // _count(ins), ins.opcode.types[0] == "s32"
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        value = b.intrinsic("llvm.smin", value, b.constant("i32", high))
        value = b.intrinsic("llvm.smax", value, b.constant("i32", low))
    _finish(b, ins, value)


@lowers("vset2", "vset4", types=_TYPES, modifiers=f"{' '.join(_RELATIONS)} add", operands="b32")
def compare(b: Builder, ins: Instruction) -> None:
    """vset.atype.btype.relation d, a, b, c: 1 or 0 for each pair."""
    relations = ins.opcode.modifiers & _RELATIONS
    if len(ins.opcode.types) != 2 or not {*ins.opcode.types} <= {*_TYPES} or len(relations) != 1:
        raise ins.refuse("expected the types of a and b, and one relation, such as .lt")
    relation = min(relations)
    name = relation if relation in ("eq", "ne") else f"s{relation}"
    x, y = _parts(b, ins, *ins.opcode.types)
    _finish(b, ins, b.cast("zext", b.compare(f"icmp {name}", x, y), "i32"))


def _count(ins: Instruction) -> int:
    return int(ins.opcode.base[-1])


def _parts(b: Builder, ins: Instruction, *types: str) -> list[Value]:
    """The integers in a and b, extended to 32 bits."""
    expect(ins, 4)
    narrow = f"i{32 // _count(ins)}"
    values = b.together(*(b.integer(operand, 32, ins) for operand in ins.operands[1:3]))
    return [
        b.cast("sext" if kind == "s32" else "zext", b.split(value, narrow), "i32")
        for value, kind in zip(values, types, strict=True)
    ]


def _result(b: Builder, name: str, x: Value, y: Value) -> Value:
    if name in ("vmin", "vmax"):
        return b.intrinsic(f"llvm.s{name[1:]}", x, y)
    if name == "vavrg":  # halves are rounded away from zero
        total = b.op("add", x, y)
        negative = b.op("lshr", total, 31)
        return b.op("ashr", b.op("sub", b.op("add", total, 1), negative), 1)
    value = b.op("add" if name == "vadd" else "sub", x, y)
    return b.intrinsic("llvm.abs", value, extra="i1 false") if name == "vabsdiff" else value


def _finish(b: Builder, ins: Instruction, value: Value) -> None:
    """Write the low bits of each, or their sum added to c."""
    count = _count(ins)
    if "add" not in ins.opcode.modifiers:
        narrow = b.cast("trunc", value, f"i{32 // count}")
        return b.write(ins.operands[0], b.join(narrow, "i32"), ins)
    total = b.integer(ins.operands[3], 32, ins)
    for i in range(count):
        one = value.n == count  # the same in all lanes
        part = b.element(value, i) if one else b.shuffle(value, None, range(i, value.n, count))
        total = b.op("add", total, part)
    return b.write(ins.operands[0], total, ins)
