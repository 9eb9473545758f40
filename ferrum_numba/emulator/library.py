"""The library: functions of 32 lanes that native code calls, each compiled once for a machine.

Every memory access of a kernel, and its matrix instructions, are calls to these: code size and
compile time stay small, and there is one place where an access can be watched.
A name such as "load_global_32" is a family and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .host import Host

_WIDE = 'nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512"'
# A stack that is aligned for vectors, where registers are kept there: else LLVM keeps them across
# the borders of cache lines.
ATTRIBUTES = f'attributes #0 = {{ {_WIDE} }}\nattributes #1 = {{ {_WIDE} "stackrealign" }}\n'


class Library:
    """Functions that one module of native code calls: the library's by name, and intrinsics.

    used: the names of the functions.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.used: dict[str, None] = {}
        self._declarations: dict[str, None] = {}

    def use(self, name: str, result: str, types: Iterable[str]) -> None:
        """Have a function declared.  One of no family is defined by the program that is run."""
        if name.partition("_")[0] in _FAMILIES:
            self.used[name] = None
        self.declare(f"{result} @{name}({', '.join(types)})")

    def declare(self, declaration: str) -> None:
        """Have something declared that others define."""
        self._declarations[declaration] = None

    def text(self) -> str:
        """All declarations, and the attributes of functions, as IR."""
        return "".join([*(f"declare {d}\n" for d in self._declarations), ATTRIBUTES])


Family = Callable[..., str]
_FAMILIES: dict[str, Family] = {}


def family(name: str) -> Callable[[Family], Family]:
    """Register a generator: (library, symbol, *arguments of the name) -> the definition in IR."""

    def add(function: Family) -> Family:
        _FAMILIES[name] = function
        return function

    return add


def write(name: str, host: Host) -> tuple[str, list[str]]:
    """A function of the library as a module in IR, and the names of those that it calls."""
    library = Library(host)
    kind, *arguments = name.split("_")
    text = _FAMILIES[kind](library, name, *arguments)
    return text + library.text(), list(library.used)
