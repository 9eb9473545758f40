"""The check "race" of lanes that took different ways to barriers.

    apart(mask, checks, ctx, site): record lanes of the warp that wait at another barrier

Source: PTX ISA, "bar, barrier": all threads in a warp execute the same .aligned barrier, which a
bar always is.
"""

from __future__ import annotations

from ..builder import Builder
from ..ptx import Instruction
from ..values import Value
from .check import Check, Kind, at_site
from .code import Code, code


class Meetings(Check):
    """Lanes of one warp that wait at different barriers; those that have ended do not wait."""

    asked = frozenset({"race"})
    kinds = (
        Kind(
            "divergent-barrier",
            "race",
            {
                "register": "other lanes of this warp wait at another barrier; all of them have to"
                " come to the same one, so move it to where their ways meet"
            },
        ),
    )

    def meet(self, b: Builder, ins: Instruction, elsewhere: Value) -> None:
        if ins.opcode.base == "bar" or "aligned" in ins.opcode.modifiers:
            b.call("apart", "void", b.mask(elsewhere), *at_site(ins))


@code("apart")
def apart(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    c.visits()
    with c.each_lane(mask) as (lane,):
        c.record("divergent-barrier", lane, c.constant("i64", 0), 0)
