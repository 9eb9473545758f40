"""The check "init" of registers: which lanes have written one.

    registers(mask, checks, ctx, site): record lanes that read a register that they never wrote

Only registers that the flow of the entry does not prove to be written first are watched; Triton's
code has none of them, so this costs nothing there.
"""

from __future__ import annotations

from typing import ClassVar

from .. import table
from ..builder import Builder
from ..layout import WARP
from ..ptx import Instruction, Register, registers_of
from ..values import Value
from .check import POINTER, Check, Kept, Kind, Room, Subject, at_site, invert, zeros
from .code import Code, code
from .state import offset


class Registers(Check):
    """Check that each lane of a warp has written the registers that it reads."""

    asked = frozenset({"init"})
    kinds = (
        Kind(
            "uninitialised-register",
            "init",
            {
                "register": "reads a register that these lanes never wrote; look at the paths that"
                " lead here without an instruction that writes it"
            },
        ),
    )
    fields: ClassVar = {"registers": POINTER}  # a mask for each warp and register

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        # By name: the body is read again for each translation.
        self._suspects = sorted({register.name for register in subject.flow.blocks[0].live_in})

    @property
    def active(self) -> bool:
        return super().active and bool(self._suspects)

    def keep(self, room: Room) -> Kept:
        return {"registers": zeros(room.warps * len(self._suspects))}

    def begin(self, b: Builder) -> None:
        for name in self._suspects:
            b.store(b.constant("i32", 0), self._written(b, name), 0, 4)

    def reads(self, b: Builder, ins: Instruction) -> None:
        sources = [r for o in ins.operands[table.find(ins).writes :] for r in registers_of(o)]
        self._require(b, ins, sources, b.condition(ins))
        self.decides(b, ins)

    def decides(self, b: Builder, branch: Instruction) -> None:
        if branch.guard is not None:
            self._require(b, branch, [branch.guard], b.active)

    def writes(self, b: Builder, ins: Instruction) -> None:
        """Note writes, under a guard too: compilers load a few lanes so, and go on with all, of
        which only those few matter in the end."""
        for register in table.written(ins):
            if register.name in self._suspects:
                written = self._written(b, register.name)
                old = b.load("i32", 1, written, 0, 4)
                b.store(b.op("or", old, b.mask(b.active)), written, 0, 4)

    def _require(
        self, b: Builder, ins: Instruction, registers: list[Register], condition: Value | None
    ) -> None:
        for register in registers:
            if register.name in self._suspects:
                written = b.load("i32", 1, self._written(b, register.name), 0, 4)
                missing = b.op("and", b.mask(condition), invert(b, written))
                b.call("registers", "void", missing, *at_site(ins))

    def _written(self, b: Builder, name: str) -> str:
        """Address of the mask of the lanes that have written a register."""
        base = b.emit(f"getelementptr i8, ptr %checks, i64 {offset('registers')}")
        masks = b.emit(f"load ptr, ptr {base}, align 8")
        warp = b.load("i32", 1, "%ctx", WARP, 4)
        first = b.op("mul", warp, len(self._suspects))
        number = b.op("add", first, self._suspects.index(name))
        return b.emit(f"getelementptr i32, ptr {masks}, {number}")


@code("registers")
def registers(c: Code) -> None:
    (mask,) = c.takes("i32")
    c.looks()
    c.ret_if(c.compare("icmp eq", mask, 0))
    c.visits()
    with c.each_lane(mask) as (lane,):
        c.record("uninitialised-register", lane, c.constant("i64", 0), 0)
