"""A function of the library, written line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .library import Library, family
from .values import Text, Value, bits_of

VECTOR = "<32 x i32>"


class Routine(Text):
    """A function. Its writer takes the arguments, emits the body, and returns at its end."""

    def __init__(self, library: Library, name: str) -> None:
        super().__init__(library)
        self.name, self._result = name, "void"
        self._arguments: list[Value] = []
        self._frame: list[str] = []
        self.block = "begin"

    def takes(self, *types: str) -> Iterator[Value]:
        """The next arguments, of these types, such as "i32", "ptr" or "<32 x i32>"."""
        for text in types:
            shape = re.fullmatch(r"<(\d+) x (\w+)>", text)
            kind, n = (shape[2], int(shape[1])) if shape else (text, 1)
            value = Value(f"%a{len(self._arguments)}", kind, n)
            self._arguments.append(value)
            yield value

    def room(self, llvm_type: str) -> Value:
        """Memory of the function's frame, 64-byte aligned."""
        name = f"%room{len(self._frame)}"
        self._frame.append(f"  {name} = alloca {llvm_type}, align 64")
        return Value(name, "ptr")

    def spread(self, value: Value) -> Callable[[Value], Value]:
        """A vector in memory: a function that gives the element of a lane."""
        place = self.room(value.full_type)
        self.store(value, place, 0, 64)

        def element(lane: Value) -> Value:
            where = self.item(value.type, place, lane)
            return self.load(value.type, 1, where, 0, max(bits_of(value.type) // 8, 1))

        return element

    def ret(self, value: Value | None = None) -> None:
        """Return."""
        self._result = "void" if value is None else value.full_type
        self.line(f"ret {value or 'void'}")
        self.closed = True

    def ret_if(self, condition: Value, value: Value | None = None) -> None:
        """Return where a condition holds."""
        with self.when(condition):
            self.ret(value)

    def text(self) -> str:
        """The function's definition."""
        if not self.closed:
            self.ret()
        arguments = ", ".join(map(str, self._arguments))
        head = f"define {self._result} @{self.name}({arguments}) #0 {{\nbegin:"
        return "\n".join(["", head, *self._frame, *self.lines, "}", ""])


def routine(
    name: str, kind: Callable[[Library, str], Routine] = Routine
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the decorated writer to the library: (routine, *arguments of the name)."""

    def add(write: Callable[..., None]) -> Callable[..., None]:
        @family(name)
        def generate(library: Library, symbol: str, *arguments: str) -> str:
            its = kind(library, symbol)
            write(its, *arguments)
            return its.text()

        return write

    return add
