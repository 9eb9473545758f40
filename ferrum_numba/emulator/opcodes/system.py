"""Instructions that steer a GPU, most of which have nothing to do here, and calls of the host.

Source: PTX ISA, "Miscellaneous Instructions", "griddepcontrol", "nanosleep", "trap".
"""

from __future__ import annotations

from ..builder import Builder
from ..calls import ASSERTION, PRINT
from ..layout import state_offset
from ..ptx import Instruction, Local
from ..table import rows_of

lowers = rows_of("control")


@lowers("nanosleep", "setmaxnreg", "pmevent", modifiers="inc dec sync aligned mask", writes=0)
@rows_of("barrier")("griddepcontrol", modifiers="wait launch_dependents", writes=0)
def nothing(b: Builder, ins: Instruction) -> None:
    """Time, registers and the grids before and after: a launch is over before the next begins."""


@lowers("trap", writes=0, fault="CTA {cta}, warp {warp} came to a trap{place}")
def trap(b: Builder, ins: Instruction) -> None:
    """The launch ends in an error, where some lane comes here."""
    b.stop(ins, b.mask(b.condition(ins)))


@lowers(
    "call", modifiers=f"{PRINT} {ASSERTION}", writes=0, fault="CTA {cta}, warp {warp}, {failure}"
)
def call_host(b: Builder, ins: Instruction) -> None:
    """Print, or let the launch end in an error, as the host has it."""
    fails = ASSERTION in ins.opcode.modifiers
    lanes = b.mask(b.condition(ins))
    if fails:
        b.stop(ins, lanes)
    offsets = [o.offset if isinstance(o, Local) else 0 for o in ins.operands] + [0, 0]
    local, step = b.layout.local, b.layout.local_bytes
    first = b.emit("ptrtoint ptr %ctx to i64")
    host = b.load("ptr", 1, "%state", state_offset("host"), 8)
    numbers = ", ".join(f"i64 {number}" for number in (local, step, *offsets[:4]))
    number = ins.index + 1 if fails else 0
    b.line(f"call void {host.text}(i64 {first}, i32 {number}, {lanes}, {numbers})")


@lowers("bra", "ret", "exit", types=("",), modifiers="uni", writes=0, ends="branch")
def go(b: Builder, ins: Instruction) -> None:
    """Never called: the flow analysis makes edges of them."""
