"""Comparison and selection. Source: PTX ISA, "Comparison and Selection Instructions"."""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Group, Instruction, Operand, elements_of
from ..table import FLOATS, INTEGERS, rows_of
from ..values import Value
from .convert import widened
from .integer import expect

lowers = rows_of("compare")

_ORDERED = {"eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_UNORDERED = {"equ": "ueq", "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge"}
_FLOATS = {**_ORDERED, **_UNORDERED, "num": "ord", "nan": "uno"}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_RELATIONS = frozenset(_FLOATS) | frozenset(_UNSIGNED_NAMES)
_MODIFIERS = " ".join(_RELATIONS) + " and or xor ftz"
FLOAT_TYPES = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double"}


def _compare(b: Builder, ins: Instruction, x: int, y: int) -> Value:
    """The comparison of operands x and y, as i1."""
    opcode = ins.opcode
    if len(ins.operands) < 3:
        raise ins.refuse(f"expected at least 3 operands, found {len(ins.operands)}")
    relations = opcode.modifiers & _RELATIONS
    if len(relations) != 1:
        raise ins.refuse("expected one relation, such as .lt")
    (relation,) = relations
    kind = FLOAT_TYPES.get(opcode.type.removesuffix("x2"))
    if kind is not None:
        if relation not in _FLOATS:
            raise ins.refuse(f".{relation} is no relation of floating-point numbers")
        if opcode.type.endswith("x2"):
            values = b.packed([ins.operands[x], ins.operands[y]], kind, ins)
        else:
            values = [b.real(ins.operands[i], kind, ins) for i in (x, y)]
        values = [widened(b, value) for value in values]
        if "ftz" in opcode.modifiers:
            values = [b.flush(value) for value in values]
        return b.compare(f"fcmp {_FLOATS[relation]}", *values)
    if opcode.type[:1] not in ("b", "u", "s") or not opcode.type[1:].isdecimal():
        raise ins.refuse(f"the CPU device does not compare .{opcode.type}")
    sign = "s" if opcode.type[0] == "s" else "u"
    relation = _UNSIGNED_NAMES.get(relation, relation)
    if relation not in _ORDERED:
        raise ins.refuse(f".{relation} is no relation of integers")
    name = relation if relation in ("eq", "ne") else sign + relation
    values = [b.integer(ins.operands[i], int(opcode.type[1:]), ins) for i in (x, y)]
    return b.compare(f"icmp {name}", *values)


def _combined(b: Builder, ins: Instruction, value: Value, third: int) -> Value:
    """The comparison combined with a predicate operand, where there is one."""
    operators = ins.opcode.modifiers & {"and", "or", "xor"}
    if not operators:
        expect(ins, third)
        return value
    expect(ins, third + 1)
    if len(operators) > 1:
        raise ins.refuse("expected one of .and, .or, .xor")
    (operator,) = operators
    return b.op(operator, value, b.predicate(ins.operands[third], ins))


@lowers("setp", modifiers=_MODIFIERS, operands="pred last last pred")
def set_predicate(b: Builder, ins: Instruction) -> None:
    """setp p|q: p is the comparison, q its opposite, each combined with the third predicate.

    Of pairs of halves p is the lower one's, q the upper one's.
    """
    value = _compare(b, ins, 1, 2)
    target = ins.operands[0]
    if ins.opcode.type.endswith("x2"):
        return _set_pair(b, ins, target, value)
    targets = elements_of(target)
    if len(targets) > 2:
        raise ins.refuse(f"expected one or two destinations, found {len(targets)}")
    results = [_combined(b, ins, value, 3)]
    if len(targets) == 2:
        results.append(_combined(b, ins, b.invert(value), 3))
    for operand, result in zip(targets, results, strict=True):
        b.write(operand, result, ins)
    return None


def _set_pair(b: Builder, ins: Instruction, target: Operand, value: Value) -> None:
    if not isinstance(target, Group) or len(target.elements) != 2:
        raise ins.refuse("expected two destinations")
    for half, operand in enumerate(target.elements):
        if value.n == 2:
            part = b.element(value, half)
        else:
            part = b.shuffle(value, None, range(half, value.n, 2))
        b.write(operand, _combined(b, ins, part, 3), ins)


@lowers("set", modifiers=_MODIFIERS, operands="first last")
def set_value(b: Builder, ins: Instruction) -> None:
    """set.relation.result_type.type: all ones, or 1.0, where the comparison holds."""
    value = _combined(b, ins, _compare(b, ins, 1, 2), 3)
    to, source = (*ins.opcode.types, "", "")[:2]
    fits = len(ins.opcode.types) == 2 and to.endswith("x2") == source.endswith("x2")
    if not fits or to not in (*_ONES, *_WORDS):
        raise ins.refuse(f"expected one of {', '.join((*_ONES, *_WORDS))} as the result's type")
    if to in _WORDS:
        result = b.cast("sext", value, f"i{to[1:]}")
    else:
        kind = FLOAT_TYPES[to.removesuffix("x2")]
        result = b.select(value, Value(_ONES[to], kind), Value("0.0", kind))
    b.write(ins.operands[0], b.join(result, "i32") if to.endswith("x2") else result, ins)


_ONES = {"f32": "1.0", "f16": "1.0", "bf16": "0xR3F80", "f16x2": "1.0", "bf16x2": "0xR3F80"}
_WORDS = ("u16", "s16", "u32", "s32")


_SELECTED = (*INTEGERS, *FLOATS)


def any_value(b: Builder, ins: Instruction, position: int, ptx_type: str) -> Value:
    """An operand that is only moved, as integer or floating point by its type."""
    operand = ins.operands[position]
    if ptx_type in FLOAT_TYPES:
        return b.real(operand, FLOAT_TYPES[ptx_type], ins)
    return b.integer(operand, int(ptx_type[1:]), ins)


@lowers("selp", types=_SELECTED, operands="last last last pred")
def select(b: Builder, ins: Instruction) -> None:
    expect(ins, 4)
    x, y = (any_value(b, ins, i, ins.opcode.type) for i in (1, 2))
    b.write(ins.operands[0], b.select(b.predicate(ins.operands[3], ins), x, y), ins)


@lowers("slct", types=("s32", "f32"), modifiers="ftz", operands="first first first last")
def select_by_sign(b: Builder, ins: Instruction) -> None:
    """slct.type.s32|f32 d, a, b, c: a where c >= 0, else b (also where c is NaN)."""
    expect(ins, 4)
    if len(ins.opcode.types) != 2 or ins.opcode.types[0] not in _SELECTED:
        raise ins.refuse("expected the type of the values and that of the selector")
    x, y = (any_value(b, ins, i, ins.opcode.types[0]) for i in (1, 2))
    if ins.opcode.type == "s32":
        sign = b.integer(ins.operands[3], 32, ins)
        condition = b.compare("icmp sge", sign, 0)
    else:
        value = b.real(ins.operands[3], "float", ins)
        value = b.flush(value) if "ftz" in ins.opcode.modifiers else value
        condition = b.compare("fcmp oge", value, Value("0.0", "float"))
    b.write(ins.operands[0], b.select(condition, x, y), ins)
