"""Conditions over registers: `%r12 > 100 and not %p1`, in each lane.

Operators are Python's: comparisons, and/or/not, + - * // % & | ^ << >>.  A register is named with
or without its %, and is taken as the type that it is shown with; `%r12.f32` takes its bits as
another, `.lo` and `.hi` are the halves of a packed one.  `lane` is the lane's number; isnan, isinf,
abs are functions.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ...errors import DeviceError
from ..layout import LANES
from ..types import Values

# What a register holds now, by its name; None where that is not known.
Lookup = Callable[[str], Values | None]
_Lanes = list[Any]  # one value for each lane

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"isnan": math.isnan, "isinf": math.isinf, "abs": abs}
_HALVES = {"lo": 0, "hi": 1}


class Condition:
    """A condition, read once and evaluated often.  registers: the names that it mentions."""

    def __init__(self, text: str) -> None:
        """Raises DeviceError for what is no condition."""
        self.text = text.strip()
        # A % before a name belongs to it; before anything else it is the operator.
        plain = re.sub(r"%(?=[A-Za-z_$])", "", self.text)
        try:
            self._tree = ast.parse(plain, mode="eval").body
        except SyntaxError as error:
            raise DeviceError(
                f"condition {text!r}", "one such as '%r12 > 100 and lane < 8'", error.msg
            ) from None
        self._check(self._tree)
        names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        self.registers = tuple(f"%{n}" for n in sorted(names - {"lane", *_FUNCTIONS}))

    def holds(self, lookup: Lookup) -> int:
        """The lanes where it holds, as bits; none where a register's value is not known."""
        try:
            values = self._lanes(self._tree, lookup)
        except _UnknownError:
            return 0
        return sum(1 << lane for lane, value in enumerate(values) if value)

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp(values=values):
                parts: list[ast.expr] = values
            case ast.Compare(left=left, ops=ops, comparators=rest):
                if not all(type(op) in _COMPARISONS for op in ops):
                    raise self._refuse(node)
                parts = [left, *rest]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                parts = [left, right]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                parts = [operand]
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                name in _FUNCTIONS
            ):
                parts = [argument]
            case ast.Attribute(value=ast.Name(), attr=_) | ast.Name():
                parts = []
            case ast.Constant(value=bool() | int() | float()):
                parts = []
            case _:
                raise self._refuse(node)
        for part in parts:
            self._check(part)

    def _refuse(self, node: ast.expr) -> DeviceError:
        return DeviceError(
            f"condition {self.text!r}",
            "registers, numbers, comparisons, and, or, not, arithmetic, isnan(), isinf(), abs()",
            repr(ast.unparse(node)),
        )

    def _lanes(self, node: ast.expr, lookup: Lookup) -> _Lanes:
        match node:
            case ast.BoolOp(op=op, values=parts):
                choose = all if isinstance(op, ast.And) else any
                return [
                    choose(lane)
                    for lane in zip(*(self._lanes(p, lookup) for p in parts), strict=True)
                ]
            case ast.Compare(left=left, ops=ops, comparators=rest):
                sides = [self._lanes(part, lookup) for part in (left, *rest)]
                tests = [_COMPARISONS[type(op)] for op in ops]
                return [
                    all(test(*pair) for test, pair in zip(tests, pairwise(lane), strict=True))
                    for lane in zip(*sides, strict=True)
                ]
            case ast.BinOp(left=left, op=op, right=right):
                pairs = zip(self._lanes(left, lookup), self._lanes(right, lookup), strict=True)
                return [self._apply(_OPERATIONS[type(op)], *pair) for pair in pairs]
            case ast.UnaryOp(op=op, operand=operand):
                return [self._apply(_UNARY[type(op)], v) for v in self._lanes(operand, lookup)]
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                return [self._apply(_FUNCTIONS[name], v) for v in self._lanes(argument, lookup)]
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return self._register(f"%{name}", attribute, lookup)
            case ast.Name(id="lane"):
                return list(range(LANES))
            case ast.Name(id=name):
                return self._register(f"%{name}", None, lookup)
            case ast.Constant(value=value):
                return [value] * LANES
        raise self._refuse(node)

    def _apply(self, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return function(*values)
        except (TypeError, ZeroDivisionError, ValueError) as error:
            raise DeviceError(f"condition {self.text!r}", error) from None

    def _register(self, name: str, attribute: str | None, lookup: Lookup) -> _Lanes:
        values = lookup(name)
        if values is None:
            raise _UnknownError
        half = _HALVES.get(attribute or "")
        if attribute is not None and half is None:
            try:
                values = values.as_type(attribute)
            except ValueError as error:
                raise DeviceError(f"condition {self.text!r}", error) from None
        packed = values.type.endswith("x2")
        if packed != (half is not None):
            expected = f"{name}.lo or {name}.hi" if packed else "a packed type before .lo or .hi"
            raise DeviceError(
                f"condition {self.text!r}", expected, f"{name}, which is {values.type}"
            )
        items = [values.item(lane) for lane in range(LANES)]
        return items if half is None else [item[half] for item in items]  # type: ignore[index]


class _UnknownError(Exception):
    """A register whose value is not known."""
