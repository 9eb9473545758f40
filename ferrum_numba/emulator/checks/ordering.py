"""The hooks of what brings warps into an order: barriers, mbarriers, and waits for products.

Where only barriers of all warps do, stretches of time are enough (epochs.py); else, and where CTAs
talk to each other (talks.py), each warp has a clock (clocks.py).
"""

from __future__ import annotations

from .. import table
from ..builder import Builder
from ..flow import Flow
from ..ptx import Immediate, Instruction, Register, registers_of
from ..values import Value

_PLACE = ("ptr %checks", "ptr %ctx")


class Ordering:
    """What is emitted for one entry.

    clocks: whether each warp has a clock.  sets: the registers that products work on, and whether
    they are their results.
    """

    def __init__(self, flow: Flow, init: bool, race: bool, talks: bool) -> None:
        """talks: whether CTAs talk to each other."""
        self.talks = race and talks
        instructions = [i for block in flow.blocks for i in block.instructions]
        self.init, self.race = init, race
        some = any(
            table.find(i).orders or table.accesses(i, "atomic", shared=True) for i in instructions
        )
        self.clocks = self.talks or (race and some)
        products = [i for i in instructions if _is_product(i)] if self.clocks else []
        self.sets = list(dict.fromkeys(s for i in products for s in _sets(i)))
        self._sets_of: dict[str, list[int]] = {}
        self._copies_of: dict[str, list[int]] = {}
        for number, (is_result, names) in enumerate(self.sets):
            for name in names:
                self._sets_of.setdefault(name, []).append(number)
            for name in _copies(instructions, names) if is_result else ():
                self._copies_of.setdefault(name, []).append(number)
        self._handed = handed_over(flow) if race else set()
        # Of the block that is lowered: what was looked at since the last product or fence.
        self._looked: set[tuple[int, bool]] = set()

    @property
    def mode(self) -> str:
        """The last word of helpers that there are for both."""
        return "clocks" if self.clocks else "epochs"

    def round(self, b: Builder) -> str:
        """Lines where a CTA begins (%fresh), or a round; where it %moves, all warps passed."""
        lines = f"  call void @{self._epoch(b)}(ptr %checks, i1 %moves, i1 %fresh)\n"
        if self.talks:
            begin = b.helpers.use("talkbegin")
            lines += "  %new.cta = and i1 %moves, %fresh\n"
            lines += f"  call void @{begin}(ptr %checks, i1 %new.cta)\n"
        return lines

    def _epoch(self, b: Builder) -> str:
        if self.clocks:
            return b.helpers.use(f"clocks_{self.init:d}")
        return b.helpers.use(f"epoch_{self.init:d}_{self.race:d}")

    def begin(self, b: Builder) -> None:
        """A warp begins a CTA."""
        if self.sets:
            b.call("productbegin", "void", *_PLACE)
        if self._handed:
            b.call("lanesmeet", "void", *_PLACE)

    def exchanges(self, b: Builder) -> None:
        """An atomic operation, which may be a lock."""
        if self.clocks:
            b.call("exchange", "void", *_PLACE)

    # -- lanes of a warp ------------------------------------------------------------------------

    @property
    def hands(self) -> bool:
        """Whether lanes may hand words to each other without coming together."""
        return bool(self._handed)

    def meets(self, b: Builder, ins: Instruction) -> None:
        """Before an instruction: whether the lanes of the warp come together there."""
        if self._handed and _brings_together(ins):
            b.call("lanesmeet", "void", *_PLACE)

    def hands_over(
        self, b: Builder, ins: Instruction, kind: str, name: str, address: Value, mask: Value
    ) -> None:
        """An access to shared memory; name: its bytes and the granule."""
        if self._handed and kind == "store":
            b.call(f"lanewrites_{name}", "void", address, mask, *_PLACE)
        elif kind == "load" and ins.index in self._handed:
            b.call(f"lanereads_{name}", "void", address, mask, *_PLACE, f"i32 {ins.index}")

    # -- fences and waits for copies ------------------------------------------------------------

    def fence(self, b: Builder) -> None:
        """A fence of the asynchronous proxy."""
        if self.clocks:
            b.call("fence", "void", *_PLACE)

    def waited(self, b: Builder) -> None:
        """A warp has waited for its copies."""
        if self.clocks:
            b.call("landed", "void", *_PLACE)

    def waited_for_bulk(self, b: Builder) -> None:
        """A warp has waited for bulk copies to global memory; it counts as for all of them."""
        if self.clocks:
            b.call("bulkwait", "void", *_PLACE)

    # -- other CTAs -----------------------------------------------------------------------------

    def releases(self, b: Builder, ins: Instruction) -> None:
        """Before an instruction that may make known what the warp did."""
        if self.talks and _reaches_others(ins) and _SENDS & ins.opcode.modifiers:
            self._talk(b, ins, "release")

    def acquires(self, b: Builder, ins: Instruction) -> None:
        """After an instruction that may let the warp rely on what others did."""
        if self.talks and _reaches_others(ins) and _TAKES & ins.opcode.modifiers:
            self._talk(b, ins, "acquire")

    def talks_by_fence(self, b: Builder, ins: Instruction) -> None:
        if self.talks and _reaches_others(ins) and "proxy" not in ins.opcode.modifiers:
            self._talk(b, ins, "both")

    def _talk(self, b: Builder, ins: Instruction, what: str) -> None:
        b.call(f"talk_{what}", "void", *_PLACE, b.mask(b.condition(ins)))

    # -- named barriers -------------------------------------------------------------------------

    def arrives(self, b: Builder, number: Value, opens: Value) -> None:
        """A warp comes to a named barrier, which opens or does not yet."""
        if self.clocks:
            b.call("publish_own", "void", *_PLACE, number)
            self._if(b, opens, "promote", "ptr %checks", number)

    def opened(self, b: Builder, number: Value, opened: Value) -> None:
        """A warp may go on from a named barrier, or not yet."""
        if self.clocks:
            self._if(b, opened, "acquire", *_PLACE, number)

    @staticmethod
    def _if(b: Builder, condition: Value, name: str, *arguments: Value | str) -> None:
        b.count += 1
        label = f"order{b.count}"
        b.line(f"br {condition}, label %{label}, label %{label}.on")
        b.lines.append(f"{label}:")
        b.call(name, "void", *arguments)
        b.line(f"br label %{label}.on")
        b.lines.append(f"{label}.on:")

    # -- mbarriers ------------------------------------------------------------------------------

    def mbarrier(self, b: Builder, address: Value, mask: Value, kind: str) -> None:
        """kind: "renew" and "publish" (or "copies") before, "promote" and "acquire" afterwards."""
        if self.clocks:
            b.call(f"object_{kind}", "void", address, mask, *_PLACE)

    # -- products -------------------------------------------------------------------------------

    def begins_block(self) -> None:
        self._looked = set()

    def product(self, b: Builder, ins: Instruction) -> None:
        """wgmma.mma_async, before it is done."""
        for registers in _sets(ins) if self.clocks else ():
            number = b.constant("i32", self.sets.index(registers))
            b.call("productuse", "void", number, *_PLACE, f"i32 {ins.index}")
        self._looked = set()

    def orders_products(self, b: Builder, ins: Instruction) -> None:
        """wgmma.fence, .commit_group, .wait_group."""
        if not self.clocks:
            return
        self._looked = set()
        modifiers = ins.opcode.modifiers
        if "fence" in modifiers:
            b.call("productfence", "void", *_PLACE)
        elif "commit_group" in modifiers:
            b.call("productcommit", "void", *_PLACE)
        else:
            match ins.operands:
                case (Immediate(bits=keep),):
                    b.call("productwait", "void", b.constant("i32", keep), *_PLACE)

    def touches(
        self, b: Builder, ins: Instruction, reads: list[Register], writes: list[Register]
    ) -> None:
        """Registers that an instruction reads and writes, which products may still need.

        Compilers copy results before they are there, and write A's registers anew while they are
        read; the assembler makes both right.  What else is done with a result, or with its copy,
        comes too early.
        """
        if not self._sets_of or ins.opcode.base == "wgmma":
            return
        if ins.opcode.base != "mov":
            for register in reads:
                for number in self._copies_of.get(register.name, ()):
                    self._touch(b, ins, number, writes=False)
        for register in writes:
            for number in self._sets_of.get(register.name, ()):
                self._touch(b, ins, number, writes=True)

    def _touch(self, b: Builder, ins: Instruction, number: int, writes: bool) -> None:
        if {(number, writes), (number, True)} & self._looked:
            return
        self._looked.add((number, writes))
        flags = (writes, self.sets[number][0])
        which = b.constant("i32", number)
        words = [f"i1 {'true' if flag else 'false'}" for flag in flags]
        b.call("producttouch", "void", which, *words, *_PLACE, f"i32 {ins.index}")


def _copies(instructions: list[Instruction], names: tuple[str, ...]) -> set[str]:
    """Registers, and those that mov copies them to."""
    moves = [
        (
            {r.name for r in registers_of(i.operands[1])},
            {r.name for r in registers_of(i.operands[0])},
        )
        for i in instructions
        if i.opcode.base == "mov" and len(i.operands) == 2
    ]
    found, before = set(names), 0
    while len(found) > before:
        before = len(found)
        for sources, targets in moves:
            if sources & found:
                found |= targets
    return found


_SENDS, _TAKES = frozenset({"release", "acq_rel"}), frozenset({"acquire", "acq_rel"})


def is_strong(ins: Instruction) -> bool:
    """Whether an access is atomic, or one that never is a race."""
    strong = {"relaxed", "acquire", "release", "volatile", "mmio"}
    return table.accesses(ins, "atomic") or bool(strong & ins.opcode.modifiers)


def _reaches_others(ins: Instruction) -> bool:
    """Whether an operation's scope is wider than the CTA."""
    return not ins.opcode.modifiers & {"cta", "shared", "shared::cta"}


def _brings_together(ins: Instruction) -> bool:
    """Barriers, and instructions that all lanes of a warp execute at once."""
    return bool({"sync", "warp", "red"} & ins.opcode.modifiers) or table.find(ins).ends == "wait"


def handed_over(flow: Flow) -> set[int]:
    """Loads that a store may come before, in the same warp, with nothing to bring lanes together.

    They are told by their indices.
    """
    found: set[int] = set()
    stored = dict.fromkeys((block.index for block in flow.blocks), False)  # at a block's start
    changed = True
    while changed:
        changed = False
        for block in flow.blocks:
            open_store = stored[block.index]
            for ins in block.instructions:
                if _brings_together(ins):
                    open_store = False
                elif table.accesses(ins, "store", shared=True):
                    open_store = True
                elif open_store and table.accesses(ins, "load", shared=True):
                    found.add(ins.index)
            if open_store and block.exit in ("jump", "branch"):
                for successor in block.successors:
                    changed = changed or not stored[successor]
                    stored[successor] = True
    return found


def _is_product(ins: Instruction) -> bool:
    return ins.opcode.base == "wgmma" and "mma_async" in ins.opcode.modifiers


def _sets(ins: Instruction) -> list[tuple[bool, tuple[str, ...]]]:
    """The registers of the result, and of A. By name: the body is read for each translation."""
    names = [
        tuple(dict.fromkeys(register.name for register in registers_of(operand)))
        for operand in ins.operands[:2]
    ]
    return [(True, names[0]), *([(False, names[1])] if len(names[1]) > 1 else [])]
