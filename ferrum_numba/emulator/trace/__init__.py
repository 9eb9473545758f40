"""Traces: native code that records what instructions of a launch read, write and touch.

    program = TracedProgram(text, entry, Selection(warps=(1,), lines=frozenset({120})))
    launch, error = program.run(..., arrays=[LaunchArray("a", address, nbytes), ...])
    launch[0].writes["%r12"].array                         # 32 values, typed as the opcode says

The hooks are those of the checks: a traced program is a checked one whose hooks (tap.py) also emit
stores to a tape (tape.py), for the instructions on it (sites.py).  After the launch the tape is
read as events (launch.py, event.py), whose values are typed by the opcodes (../types.py).

Nothing is suspended while the code runs.  A breakpoint is a condition (condition.py) over what was
recorded, and stepping (replay.py) moves a cursor over the events of one warp.  So one can go
backwards, a launch is run once whatever is asked of it, its warps run in their usual order, and a
launch that failed can still be looked at.  The price is memory, and so a tape is bounded.
"""

from ..types import ADDRESS, Values
from .access import Access
from .condition import Condition
from .event import Event
from .launch import TracedLaunch
from .program import TracedProgram
from .replay import Breakpoint, Replay
from .selection import Selection
from .traffic import Traffic, alike, traffic

__all__ = [
    "ADDRESS",
    "Access",
    "Breakpoint",
    "Condition",
    "Event",
    "Replay",
    "Selection",
    "TracedLaunch",
    "TracedProgram",
    "Traffic",
    "Values",
    "alike",
    "traffic",
]
