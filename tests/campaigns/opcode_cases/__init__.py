"""Small PTX kernels, one for each form of an opcode, that run thousands of operands at once."""

from __future__ import annotations

from .case import CLOSE, EXACT, Case, Rule
from .conversions import conversions
from .rare import rare
from .scalars import scalars
from .tiles import tiles
from .warps import warps

__all__ = ["CLOSE", "EXACT", "Case", "Rule", "catalogue"]


def catalogue() -> list[Case]:
    """All cases, family by family."""
    return [*scalars(), *conversions(), *warps(), *rare(), *tiles()]
