"""Instructions that steer a GPU, most of which have nothing to do here.

Source: PTX ISA, "Miscellaneous Instructions", "griddepcontrol", "nanosleep", "trap".
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..table import lowers


@lowers("nanosleep", "setmaxnreg", "pmevent", modifiers="inc dec sync aligned mask", writes=0)
@lowers("griddepcontrol", modifiers="wait launch_dependents", writes=0)
def nothing(b: Builder, ins: Instruction) -> None:
    """Time, registers and the grids before and after: a launch is over before the next begins."""


@lowers("trap", writes=0)
def trap(b: Builder, ins: Instruction) -> None:
    """The launch ends in an error, where some lane comes here."""
    b.stop(ins, b.mask(b.condition(ins)))
