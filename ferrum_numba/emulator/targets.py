"""Instructions that no GPU of the PTX's .target has, so that the driver refuses to load it.

Some forms that are as late as others of their opcode are let pass, never the other way round.
Source: PTX ISA, "Target ISA Notes" of each instruction, and what ptxas 13.0 refuses.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..ptx_text import Opcode
from .ptx import Body, Instruction, Special

# From which sm on there is an opcode, then one with some of these modifiers and types.
_BASES = {
    70: "bmsk match nanosleep szext",
    75: "ldmatrix tanh",
    80: "createpolicy discard redux",
    90: "elect getctarank griddepcontrol mapa setmaxnreg stmatrix wgmma",
}
_STEMS = {"mbarrier": 80, "tensormap": 90}
_WORDS = {
    "abs neg": {80: "bf16 bf16x2"},
    "add sub mul": {90: "bf16 bf16x2", 100: "f32x2"},
    "atom red": {90: "b128 bf16 bf16x2 v2 v4 v8"},
    "cp": {80: "async"},
    "cvt": {80: "bf16 bf16x2 tf32", 89: "e4m3x2 e5m2x2"},
    "ex2 tanh": {75: "f16 f16x2", 90: "bf16 bf16x2"},
    "fence": {90: "async"},
    "fma": {80: "bf16 bf16x2 relu", 100: "f32x2"},
    "ld st": {100: "v8"},
    "mbarrier.arrive mbarrier.arrive_drop": {90: "expect_tx"},
    "max min": {80: "NaN bf16 bf16x2 f16 f16x2", 86: "xorsign"},
    "mma": {75: "m16n8k8", 80: "bf16 f64 m16n8k16 m16n8k32 tf32", 89: "e4m3 e5m2"},
    "redux": {100: "f32"},
    "set setp": {90: "bf16 bf16x2"},
    "wmma.load wmma.mma wmma.store": {80: "bf16 f64 tf32"},
}
_LATE = {"mbarrier.try_wait": 90, "mbarrier.expect_tx": 90, "mbarrier.complete_tx": 90}
_OF_CLUSTERS = {"cluster", "shared::cluster"}
# Those that only a target with "a" or "f" behind its number has.
_SPECIFIC = ("setmaxnreg", "wgmma")


@lru_cache(maxsize=4096)
def _least(opcode: Opcode) -> int:
    """The number of the least sm that has an opcode."""
    base, stem = opcode.base, opcode.base.partition(".")[0]
    words = opcode.modifiers | {*opcode.types}
    found = [0, _STEMS.get(stem, 0), _LATE.get(base, 0)]
    found += [number for number, bases in _BASES.items() if base in bases.split()]
    for bases, its in _WORDS.items():
        if base in bases.split():
            found += [number for number, some in its.items() if words & {*some.split()}]
    if words & _OF_CLUSTERS or ".bulk" in base:
        found.append(90)
    return max(found)


def refuse_above(body: Body, target: str) -> None:
    """Raise PtxError for the first instruction that `target`, such as "sm_80", has not."""
    known = re.match(r"sm_(\d+)([af]?)", target)
    if known is None:
        return
    number, specific = int(known[1]), bool(known[2])
    for ins in body.statements:
        if not isinstance(ins, Instruction):
            continue
        least = _least(ins.opcode)
        if ins.opcode.base in ("max", "min") and len(ins.operands) == 4:
            least = max(least, 100)
        if any(isinstance(o, Special) and "cluster" in o.name for o in ins.operands):
            least = max(least, 90)
        if least > number:
            needed = f"sm_{least} or higher"
        elif ins.opcode.base in _SPECIFIC and not specific:
            needed = f"{target}a"
        else:
            continue
        raise ins.refuse(
            f"expected .target {needed}, found {target}, and no GPU loads this; compile it for that"
        )
