"""Integer expressions over a launch's named arguments: `cdiv(M, 64)`, `N % 8 == 0`.

Sidecars state grid rules, shapes and constraints in them.  A sidecar may come from a stranger, so
an expression is compiled only after every node of it is known to be arithmetic.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache

from ..errors import AbiError

_MAX_LENGTH = 200
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "cdiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}
_SCOPE: dict[str, object] = {"__builtins__": {}, **_FUNCTIONS}


class Expression:
    """One parsed expression.  `names` are the arguments that it reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_LENGTH:
            raise AbiError("expression", f"at most {_MAX_LENGTH} characters", len(text))
        try:
            tree = ast.parse(text.strip(), mode="eval")
            self.names = frozenset(_names(tree.body))
            self._code = compile(tree, "<sidecar>", "eval")
            # Most rules are a name or a number, and a launch reads twenty of them.
            body = tree.body
            self._name = body.id if isinstance(body, ast.Name) else None
            self._number = body.value if isinstance(body, ast.Constant) else None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise AbiError(f"expression {text!r}", f"cannot be read: {error}") from None

    def __call__(self, values: Mapping[str, int]) -> int:
        """The value, given those of `names`; a comparison gives 0 or 1."""
        if self._name is not None and self._name in values:
            return values[self._name]
        if self._number is not None:
            return self._number  # type: ignore[return-value]  # _names let only integers through
        try:
            return int(eval(self._code, _SCOPE, values))  # nothing but what _names let through
        except NameError as error:
            raise AbiError(
                str(error.name), "a value, since a rule of the sidecar reads it", "none"
            ) from None
        except ZeroDivisionError:
            raise AbiError(self.text, "division by zero", remedy=self.show(values)) from None

    def show(self, values: Mapping[str, int]) -> str:
        """The values that went in, for messages: `M = 3, N = 64`."""
        return ", ".join(f"{name} = {values[name]}" for name in sorted(self.names & set(values)))

    @cached_property
    def weighed(self) -> frozenset[str]:
        """Names of which it reads more than if they are 0 (`x == 0`, `x != 0`)."""
        nodes = list(ast.walk(ast.parse(self.text.strip(), mode="eval")))
        asked = set()
        for node in nodes:
            match node:
                case ast.Compare(
                    left=ast.Name() as name,
                    ops=[ast.Eq() | ast.NotEq()],
                    comparators=[ast.Constant(value=0)],
                ):
                    asked.add(name)
        names = {n.id for n in nodes if isinstance(n, ast.Name) and n not in asked}
        return self.names & names

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __reduce__(self) -> tuple[Callable[[str], Expression], tuple[str]]:
        return expression, (self.text,)


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
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            return _names(left) | _names(right)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, _COMPARISONS):
            return _names(left) | _names(right)
        case ast.BoolOp(values=values):
            return set().union(*map(_names, values))
        case ast.Call(func=ast.Name(id=name), args=[a, b], keywords=[]) if name in _FUNCTIONS:
            return _names(a) | _names(b)
    raise ValueError(
        f"{ast.unparse(node)!r} is not an integer, a name, + - * // %, a comparison, "
        f"and, or, {', '.join(_FUNCTIONS)}"
    )
