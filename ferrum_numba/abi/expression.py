"""Integer expressions over a launch's named arguments: `cdiv(M, 64)`, `N % 8 == 0`.

Sidecars state grid rules, shapes and constraints in them.  A sidecar may come from a stranger, so
an expression is parsed into a small tree of known nodes and never evaluated as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import AbiError

_MAX_LENGTH = 200
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "cdiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}


class Expression:
    """One parsed expression.  `names` are the arguments that it reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_LENGTH:
            raise AbiError(f"expression of {len(text)} characters; at most {_MAX_LENGTH}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise AbiError(f"expression {text!r}: cannot be read: {error}") from None

    def __call__(self, values: Mapping[str, int]) -> int:
        """The value, given those of `names`; a comparison gives 0 or 1."""
        try:
            return _evaluate(self._tree, values)
        except ZeroDivisionError:
            raise AbiError(f"{self.text}: division by zero; {self.show(values)}") from None

    def show(self, values: Mapping[str, int]) -> str:
        """The values that went in, for messages: `M = 3, N = 64`."""
        return ", ".join(f"{name} = {values[name]}" for name in sorted(self.names & set(values)))

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """Parse once, share afterwards."""
    return Expression(text)


def _names(node: ast.expr) -> set[str]:
    """The names that a tree reads; raises ValueError at a node that is not in the language."""
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return set()
        case ast.Name(id=name):
            return {name}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _names(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _names(left) | _names(right)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            return _names(left) | _names(right)
        case ast.BoolOp(values=values):
            return set().union(*map(_names, values))
        case ast.Call(func=ast.Name(id=name), args=[a, b], keywords=[]) if name in _FUNCTIONS:
            return _names(a) | _names(b)
    raise ValueError(
        f"{ast.unparse(node)!r} is not an integer, a name, + - * // %, a comparison, "
        f"and, or, {', '.join(_FUNCTIONS)}"
    )


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            if name not in values:
                raise AbiError(f"{name}: a rule of the sidecar reads it, but it has no value")
            return values[name]
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=operation, right=right):
            return _ARITHMETIC[type(operation)](_evaluate(left, values), _evaluate(right, values))
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            compare = _COMPARISONS[type(comparison)]
            return int(compare(_evaluate(left, values), _evaluate(right, values)))
        case ast.BoolOp(op=operation, values=operands):
            combine = all if isinstance(operation, ast.And) else any
            return int(combine(_evaluate(operand, values) for operand in operands))
        case ast.Call(func=ast.Name(id=name), args=[a, b]):
            return _FUNCTIONS[name](_evaluate(a, values), _evaluate(b, values))
    raise AssertionError(ast.dump(node))  # _names has let nothing else through
