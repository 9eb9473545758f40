"""Opcodes by family. Importing this package fills the table."""

from . import bits, compare, convert, floating, halves, integer, lanes, matrix, memory, move

__all__ = [
    "bits",
    "compare",
    "convert",
    "floating",
    "halves",
    "integer",
    "lanes",
    "matrix",
    "memory",
    "move",
]
