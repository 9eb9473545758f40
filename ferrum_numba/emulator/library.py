"""The library: functions of 32 lanes that native code calls, made as a program asks for them.

Every memory access of a kernel, and its matrix instructions, are calls to these: code size and
compile time stay small, and there is one place where an access can be watched.
A name such as "load_global_32" is a family and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable

from .host import Host


class Library:
    """The functions and intrinsics that one program uses."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._definitions: dict[str, str] = {}
        self._declarations: dict[str, None] = {}

    def use(self, name: str) -> str:
        """Have a function defined; return its symbol."""
        if name not in self._definitions:
            self._definitions[name] = ""  # functions may use each other
            family, *arguments = name.split("_")
            self._definitions[name] = _FAMILIES[family](self, name, *arguments)
        return name

    def define(self, name: str, text: str) -> None:
        """Have a function defined that is this program's own."""
        self._definitions[name] = text

    def declare(self, declaration: str) -> None:
        """Have an intrinsic declared."""
        self._declarations[declaration] = None

    def text(self) -> str:
        """All definitions and declarations, as IR."""
        declarations = [f"declare {d}" for d in self._declarations]
        return "\n".join([*self._definitions.values(), *declarations, ""])


Family = Callable[..., str]
_FAMILIES: dict[str, Family] = {}


def family(name: str) -> Callable[[Family], Family]:
    """Register a generator: (library, symbol, *arguments of the name) -> IR text."""

    def add(function: Family) -> Family:
        _FAMILIES[name] = function
        return function

    return add
