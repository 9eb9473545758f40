"""Jinja2 for templates of strangers, which may neither compute for hours nor fill the memory.

jinja2's own sandbox keeps a template away from Python; it does not bound what is computed.  Here
texts, lists and integers have a largest size, and the items of loops, the calls and what they copy
are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_MOST = 10_000_000  # characters of a text, and of all in a list
_SIZE_OF_AN_ELEMENT = 10
_MOST_BITS = 100_000  # of an integer
_MOST_STEPS = 10_000_000
_STEPS_OF_A_CALL = 100
_CHARACTERS_A_STEP = 30  # that an operation copies
# Methods of texts, and filters, that fill as many places as they are told.
_PADDING = {"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson"}
_PADDING |= {"wordwrap", "zfill"}
_ITEMS, _JOINED = "ferrum_items", "ferrum_joined"


class _Bounds(NodeTransformer):
    """Rewriter that sends the items of loops, and `~`, through filters that count them."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  jinja2's name
        self.generic_visit(node)
        node.iter = _filtered(_ITEMS, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(_JOINED, nodes.List(node.nodes, lineno=node.lineno))


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment for one rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        """filters: beside jinja2's own.  options: of its environments."""
        super().__init__(finalize=self._printed, **options)
        self.filters |= filters
        self._left = _MOST_STEPS
        del self.globals["lipsum"]
        self.filters |= {name: self._counted(name, f) for name, f in self.filters.items()}
        self.filters |= {_ITEMS: self._items, _JOINED: self._joined}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return tree

    def render(self, template: Template, **variables: Any) -> str:
        """The text of a template of this environment."""
        parts, size = [], 0
        for part in template.generate(**variables):
            size += len(part)
            self._require(size)
            parts.append(part)
        return "".join(parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute it, if the result is not too large."""
        if isinstance(left, int) and isinstance(right, int):
            bits, more = left.bit_length(), right.bit_length()
            bits = bits * max(right, 1) if operator == "**" else bits + more
            self._require(bits * (_MOST // _MOST_BITS))
        elif operator == "*":
            value, count = (right, left) if isinstance(left, int) else (left, right)
            self._make(_size(value) * count if isinstance(count, int) else 0)
        elif operator == "%" and isinstance(left, str):
            self._make(_width(left) + _size([left, right]))
        else:
            self._make(_size([left, right]))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call something; a method of a text, if its result is not too large."""
        self._make(0, _STEPS_OF_A_CALL)
        method = getattr(called, "__wrapped__", called)  # str.format is wrapped by jinja2
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            self._measure(method.__name__, text, [*arguments, *named.values()])
        return super().call(context, called, *arguments, **named)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter, if its result is not too large."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what jinja2 itself passes

        @wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            passed, value, others = arguments[:first], arguments[first], arguments[first + 1 :]
            if name == "join" and not isinstance(value, Sized):
                value = list(value)
            self._measure(name, value, [*others, *named.values()])
            return function(*passed, value, *others, **named)

        return counted

    def _measure(self, name: str, value: Any, arguments: Sequence[Any]) -> None:
        """Count a call of a text's method, or of a filter, of this name."""
        size = _size(value)
        if name == "replace" and len(arguments) > 1:
            size += str(value).count(str(arguments[0])) * len(str(arguments[1]))
        elif name == "join" and arguments:
            size += _size(arguments[0]) + _length(value) * _length(arguments[0])
        elif name.startswith("format") and isinstance(value, str):
            size += _width(value) + _size(arguments)
        elif name in _PADDING:
            most = max((a if isinstance(a, int) else _size(a) for a in arguments), default=1)
            size += size * most // _SIZE_OF_AN_ELEMENT + most
        self._make(size)

    def _make(self, size: int, steps: int = 1) -> None:
        """Count a step that makes something of a size."""
        self._require(size)
        self._left -= steps + size // _CHARACTERS_A_STEP
        if self._left < 0:
            raise TemplateError(f"more than {_MOST_STEPS} steps")

    @staticmethod
    def _require(size: int) -> None:
        if size > _MOST:
            raise TemplateError(f"something of more than {_MOST} characters")

    def _items(self, items: Any) -> Any:
        counted = items if isinstance(items, Sized) else list(items)
        self._make(0, len(counted))
        return counted

    def _joined(self, parts: list[Any]) -> str:
        self._make(_size(parts))
        return "".join(map(str, parts))

    def _printed(self, value: Any) -> Any:
        self._make(_size(value))
        return value


def _size(value: Any) -> int:
    """Characters and elements of a value and all in it, as far as they are to be counted."""
    found, left = 0, [value]
    while left and found <= _MOST:
        item = left.pop()
        found += len(item) if isinstance(item, str) else _SIZE_OF_AN_ELEMENT
        if isinstance(item, Mapping):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
    return found


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 1


def _width(text: str) -> int:
    """The largest number in a format: as wide may be what it makes."""
    return max((int(digits[:12]) for digits in re.findall(r"\d+", text)), default=0)
