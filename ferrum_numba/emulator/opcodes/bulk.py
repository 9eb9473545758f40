"""Bulk copies between global and shared memory, which are done at once.

To shared memory an mbarrier counts the bytes; to global memory they come in groups.  Copies by
tensor maps are not among them.  Source: PTX ISA, "cp.async.bulk".
"""

from __future__ import annotations

from ..builder import Builder
from ..hooks import Run
from ..ptx import Instruction
from ..table import rows_of
from .mbarrier import change, place_of
from .memory import address_of

lowers = rows_of("async copy")

_SPACES = "shared::cluster shared::cta global mbarrier::complete_tx::bytes bulk_group"
_GROUPS = ({"commit_group"}, {"wait_group"}, {"wait_group", "read"})


@lowers(
    "cp.async.bulk",
    modifiers=f"{_SPACES} level::cache_hint commit_group wait_group read prefetch L2",
    writes=0,
    orders=True,
)
def copy(b: Builder, ins: Instruction) -> None:
    """Operands: [to], [from], bytes, and [mbarrier] for a copy to shared memory."""
    modifiers = ins.opcode.modifiers
    if modifiers in _GROUPS:
        if "wait_group" in modifiers:
            b.hooks.waited_for_bulk(b)
        return
    if "prefetch" in modifiers:  # changes no result
        return
    inward = "mbarrier::complete_tx::bytes" in modifiers
    if inward == ("bulk_group" in modifiers) or len(ins.operands) < (4 if inward else 3):
        raise ins.refuse("the CPU device copies with an mbarrier to shared memory, or in a group")
    shared, far = ins.operands[:2] if inward else ins.operands[1::-1]
    near = b.vector(address_of(b, ins, shared, "shared"))
    address = b.vector(address_of(b, ins, far, "global"))
    sizes = b.vector(b.integer(ins.operands[2], 32, ins))
    mask = b.mask(b.condition(ins))
    # Shared memory first: it counts as written even where the copy may not read what it would.
    mask = b.hooks.near(b, Run(ins, near, sizes, inward), mask)
    mask = b.hooks.far(b, Run(ins, address, sizes, inward), mask)
    way = "in" if inward else "out"
    b.call(f"bulk_{way}", "void", "ptr %shared", near, address, sizes, mask)
    if inward:
        place = place_of(b, ins, ins.operands[3])
        come = b.op("sub", b.constant("i32", 0), sizes)
        change(b, ins, place, nbytes=come, publishes="copies")
