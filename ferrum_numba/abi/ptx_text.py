"""PTX text as every reader of it needs it: without comments, and its positions as lines."""

from __future__ import annotations

import re

from ..errors import PtxError

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"[^\"\n]*\"", re.DOTALL)


def without_comments(text: str) -> str:
    """PTX whose comments and strings (paths, pragmas) are gone; lines stay what they are."""
    return _COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def line_of(text: str, position: int) -> int:
    """The line, from 1, of a position in text."""
    return text.count("\n", 0, position) + 1


def refuse(line: int, text: str, problem: str) -> PtxError:
    """The error that names a line of PTX and shows it."""
    shown = " ".join(text.split())
    return PtxError(f"PTX line {line}: {problem}\n    {shown[:160]}")
