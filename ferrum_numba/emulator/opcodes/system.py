"""Instructions that steer a GPU, most of which have nothing to do here.

Source: PTX ISA, "Miscellaneous Instructions", "griddepcontrol", "nanosleep", "trap".
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..table import rows_of

lowers = rows_of("control")


@lowers("nanosleep", "setmaxnreg", "pmevent", modifiers="inc dec sync aligned mask", writes=0)
@rows_of("barrier")("griddepcontrol", modifiers="wait launch_dependents", writes=0)
def nothing(b: Builder, ins: Instruction) -> None:
    """Time, registers and the grids before and after: a launch is over before the next begins."""


@lowers(
    "trap",
    writes=0,
    fault="CTA {cta}, warp {warp} came to a trap, or to an assertion that fails{place}",
)
def trap(b: Builder, ins: Instruction) -> None:
    """The launch ends in an error, where some lane comes here."""
    b.stop(ins, b.mask(b.condition(ins)))


@lowers("bra", "ret", "exit", types=("",), modifiers="uni", writes=0, ends="branch")
def go(b: Builder, ins: Instruction) -> None:
    """Never called: the flow analysis makes edges of them."""
