"""A suspected cause of a wrong launch, with what speaks for it and how to try it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from .case import Case

Verdict = Literal["proved", "mended", "certain", "suspected", "refuted"]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One suspected cause.

    cause      a name of `CAUSES`
    evidence   what was seen, a clause with names and values
    weight     how much the evidence alone says: 0 (only worth a try) to 1 (a rule is broken)
    remedy     the case without this fault, to be run; None where it cannot be tried
    mended     the remedy in words, goes on from "with "
    """

    cause: str
    evidence: str
    weight: float
    remedy: Case | None = None
    mended: str = ""


Clue = Callable[[Case], Iterator[Hypothesis]]
