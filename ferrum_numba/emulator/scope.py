"""Scopes of names: registers and labels within pairs of braces.

Every operation takes a time that does not grow with how deep the braces are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .ptx import Instruction, Register, Symbol


@dataclass
class _Range:
    """`.reg .b32 %r<5>`: the registers of it that were asked for."""

    count: int
    ptx_type: str
    made: dict[str, Register] = field(default_factory=dict)


class Registers:
    """The registers that hold at a place of the text."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[int, Register]] = {}  # with the depth of the declaration
        self._ranges: dict[str, tuple[int, _Range]] = {}
        self._replaced: list[list[tuple[dict[str, Any], str, Any]]] = [[]]

    def open(self) -> None:
        """Begin a pair of braces."""
        self._replaced.append([])

    def close(self) -> None:
        """End a pair of braces: what it declared holds no more."""
        for names, name, outer in reversed(self._replaced.pop()):
            if outer is None:
                del names[name]
            else:
                names[name] = outer

    def declare(self, name: str, ptx_type: str, count: int | None = None) -> None:
        """Declare one register, or a count of numbered ones."""
        depth = len(self._replaced)
        if count is None:
            self._replaced[-1].append((self._names, name, self._names.get(name)))
            self._names[name] = depth, Register(name, ptx_type)
        else:
            self._replaced[-1].append((self._ranges, name, self._ranges.get(name)))
            self._ranges[name] = depth, _Range(count, ptx_type)

    def find(self, name: str) -> Register | None:
        """The register of that name that was declared in the innermost braces."""
        depth, register = self._names.get(name, (0, None))
        for end in range(len(name.rstrip("0123456789")), len(name)):
            found = self._ranges.get(name[:end])
            if found and found[0] > depth and int(name[end:]) < found[1].count:
                depth, numbered = found
                register = numbered.made.get(name)
                if register is None:
                    register = numbered.made[name] = Register(name, numbered.ptx_type)
        return register


class Labels:
    """The labels of a pair of braces, and the branches in it whose label is not known yet.

    first: the number of statements before it.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._labels: dict[str, list[int]] = {}
        self._branches: dict[str, list[Instruction]] = {}

    def declare(self, name: str, index: int) -> None:
        """Note that statement `index` is a label."""
        self._labels.setdefault(name, []).append(index)

    def branch(self, instruction: Instruction) -> None:
        """Note a branch."""
        for operand in instruction.operands:
            if isinstance(operand, Symbol):
                self._branches.setdefault(operand.name, []).append(instruction)

    def close(self, statements: list[str | Instruction], outer: Labels) -> None:
        """Give the labels names that no other has; leave other branches to the braces around."""
        for name, indices in self._labels.items():
            unique = f"{name}.{self._first}"
            for index in indices:
                statements[index] = unique
            for branch in self._branches.pop(name, ()):
                branch.operands = tuple(
                    Symbol(unique) if o == Symbol(name) else o for o in branch.operands
                )
        if len(outer._branches) < len(self._branches):
            outer._branches, self._branches = self._branches, outer._branches
        for name, branches in self._branches.items():
            there = outer._branches.setdefault(name, branches)
            if there is not branches:
                longer, shorter = sorted((there, branches), key=len, reverse=True)
                longer += shorter
                outer._branches[name] = longer
