"""Opcodes by family. Importing this package fills the table."""

from . import (
    atomic,
    barrier,
    bits,
    carry,
    compare,
    convert,
    floating,
    halves,
    integer,
    lanes,
    matrix,
    memory,
    move,
    system,
    wgmma,
)

__all__ = [
    "atomic",
    "barrier",
    "bits",
    "carry",
    "compare",
    "convert",
    "floating",
    "halves",
    "integer",
    "lanes",
    "matrix",
    "memory",
    "move",
    "system",
    "wgmma",
]
