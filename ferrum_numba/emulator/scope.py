"""Names of registers, and where they hold."""

from __future__ import annotations

from .ptx import Register


class Scope:
    """The registers that one pair of braces declares."""

    def __init__(self, parent: Scope | None) -> None:
        self.parent = parent
        self.names: dict[str, Register] = {}
        self.ranges: list[tuple[str, int, str]] = []

    def find(self, name: str) -> Register | None:
        scope: Scope | None = self
        while scope is not None:
            register = scope.names.get(name)
            if register is not None:
                return register
            for prefix, count, ptx_type in scope.ranges:
                digits = name[len(prefix) :]
                if name.startswith(prefix) and digits.isdecimal() and int(digits) < count:
                    register = scope.names[name] = Register(name, ptx_type)
                    return register
            scope = scope.parent
        return None
