"""The flow of an entry: blocks, which registers live across them, which are the same in all lanes.

A block ends at a label, a branch or a barrier, or where it is long.  Registers that no block hands
to another never leave it, and so become plain values in LLVM IR; the others have a home in the
warp's context.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import PtxError
from ..ptx_text import refuse
from . import table
from .calls import ASSERTION
from .ptx import Body, Group, Immediate, Instruction, Register, Special, Symbol, registers_of

EXIT = -1  # the index of the block that a finished warp goes to
# Instructions after which a block is cut: what LLVM does with one grows faster than its length.
_LONGEST = 640
_VARYING_SPECIALS = ("%tid.", "%laneid", "%lanemask_")


@dataclass(eq=False)
class Block:
    """A run of instructions with one way in; how it ends; which registers cross its borders.

    exit: "jump" to target; "branch" to target where the guard of `last` holds, else to next;
    "barrier": wait for all warps, then next; "poll": give other warps a turn until the named
    barrier of `last` has opened, then next; "yield": next, but where the wait that the block ends
    with was in vain, give other warps a turn before.
    """

    index: int
    label: str | None
    instructions: list[Instruction] = field(default_factory=list)
    exit: Literal["jump", "branch", "barrier", "poll", "yield"] = "jump"
    last: Instruction | None = None
    target: int = EXIT
    next: int = EXIT
    live_in: set[Register] = field(default_factory=set)
    live_out: set[Register] = field(default_factory=set)

    @property
    def successors(self) -> list[int]:
        ways = {"jump": [self.target], "barrier": [self.next], "yield": [self.next]}
        return [b for b in ways.get(self.exit, [self.target, self.next]) if b != EXIT]


@dataclass
class Flow:
    """The blocks of an entry and what is known about its registers.

    varying: registers that may differ between the lanes of a warp.
    divergent: whether some branch may go different ways within a warp.
    local_bytes: size of a lane's local memory.
    """

    blocks: list[Block]
    varying: set[Register]
    divergent: bool
    local_bytes: int = 0


def analyse(body: Body, threads: int | None, masked: bool) -> Flow:
    """Cut a body into blocks and analyse them.

    threads: number of threads of a block where the PTX fixes it.
    masked: treat the control flow as divergent even where it is not (blocks with partial warps).
    """
    blocks = _cut(body, threads)
    _find_live(blocks)
    instructions = [i for block in blocks for i in block.instructions]
    varying = _find_varying([i for i in instructions if not is_broadcast(i)], set())
    divergent = masked or any(
        b.exit == "branch" and b.last is not None and b.last.guard in varying for b in blocks
    )
    if divergent:
        # Lanes pass an instruction at different times, so only what is computed once, and from
        # nothing that changes, is the same for all of them.
        counts = Counter(r for i in instructions for r in table.written(i))
        changing = {r for r, count in counts.items() if count > 1}
        for instruction in instructions:
            if instruction.guard is not None or _changes(instruction):
                changing.update(table.written(instruction))
        varying = _find_varying(instructions, changing)
    return Flow(blocks, varying, divergent, body.local_bytes)


def varies_in_cta(flow: Flow) -> set[Register]:
    """Registers that may differ between the threads of a CTA."""
    instructions = [i for block in flow.blocks for i in block.instructions]
    of_warps = {
        register
        for i in instructions
        if any(isinstance(o, Special) and o.name == "%warpid" for o in i.operands)
        for register in table.written(i)
    }
    return _find_varying(instructions, of_warps)


def is_broadcast(instruction: Instruction) -> bool:
    """True if a shuffle gives all lanes of the warp one lane's value."""
    opcode, operands = instruction.opcode, instruction.operands
    if opcode.base != "shfl" or "idx" not in opcode.modifiers or instruction.guard is not None:
        return False
    match operands:
        case (Register(), _, Immediate(), Immediate(bits=31), Immediate(bits=members)):
            return members in (-1, 0xFFFFFFFF)
    return False


def _changes(instruction: Instruction) -> bool:
    if table.accesses(instruction, "load"):
        return "param" not in instruction.opcode.modifiers
    specials = (o.name for o in instruction.operands if isinstance(o, Special))
    return any(name.startswith(("%clock", "%globaltimer")) for name in specials)


class _Cutter:
    """The blocks of a body, statement by statement.

    threads: number of threads of a block where the PTX fixes it.
    """

    def __init__(self, threads: int | None) -> None:
        self.blocks = [Block(0, None)]
        self._threads = threads
        self._labels: dict[str, int] = {}
        self._pending: list[tuple[Block, Instruction, str]] = []
        self._open = True  # whether control can run into the next statement

    def take(self, statement: Instruction | str) -> None:
        """Add the next statement, an instruction or a label."""
        if isinstance(statement, str):
            block = self.blocks[-1]
            self._labels[statement] = self._begin(statement).index
            if self._open and self.blocks[-1] is not block:
                block.target = self.blocks[-1].index
            self._open = True
            return
        if not self._open:
            self._begin()
            self._open = True
        elif len(self.blocks[-1].instructions) >= _LONGEST:
            self._go_on()
        row = table.lookup(statement.opcode)
        of_warp = "warp" in statement.opcode.modifiers  # which ends no block
        ends = row.ends if row is not None and not of_warp else ""
        if ends == "branch":
            self._branch(statement)
        elif ends == "barrier" and "cluster" in statement.opcode.modifiers:
            self._cluster_barrier(statement)
        elif ends == "barrier" and _is_of_all(statement, self._threads):
            self._wait("barrier", statement)
        elif ends == "barrier":
            self._named_barrier(statement)
        else:
            self.blocks[-1].instructions.append(statement)
            if ends == "wait":
                self._wait("yield", statement)

    def resolve(self) -> None:
        """Lead branches to their labels, when all statements are taken."""
        for block, instruction, label in self._pending:
            if label not in self._labels:
                raise instruction.refuse(f"no label {label} in this entry")
            block.target = self._labels[label]

    def _begin(self, label: str | None = None) -> Block:
        """The next block; this one, where it is empty and has a label."""
        last = self.blocks[-1]
        if last.instructions or last.last is not None or last.label is None:
            self.blocks.append(Block(len(self.blocks), label))
        return self.blocks[-1]

    def _go_on(self) -> Block:
        """The next block, into which this one runs."""
        block = self.blocks[-1]
        block.target = self._begin().index
        return self.blocks[-1]

    def _wait(self, kind: Literal["barrier", "yield"], statement: Instruction) -> None:
        block = self.blocks[-1]
        block.exit, block.last = kind, statement
        block.next = self._begin().index

    def _poll(self, statement: Instruction) -> None:
        """A block of its own, which runs until what it waits for has come."""
        block = self._go_on()
        block.exit, block.last, block.target = "poll", statement, block.index
        block.next = self._begin().index

    def _branch(self, statement: Instruction) -> None:
        table.find(statement)
        block = self.blocks[-1]
        block.last = statement
        if statement.operands:
            self._pending.append((block, statement, _label_of(statement)))
        if statement.guard is None:
            self._open = False
        else:
            block.exit = "branch"
            block.next = self._begin().index

    def _cluster_barrier(self, statement: Instruction) -> None:
        if "arrive" not in statement.opcode.modifiers:
            self._poll(statement)
            return
        opcode = replace(statement.opcode, base="cluster arrival")
        self.blocks[-1].instructions.append(replace(statement, opcode=opcode))

    def _named_barrier(self, statement: Instruction) -> None:
        arrival, result = _parts_of_barrier(statement)
        self.blocks[-1].instructions.append(arrival)
        if "arrive" not in statement.opcode.modifiers:
            self._poll(statement)
            self.blocks[-1].instructions += result


def _cut(body: Body, threads: int | None) -> list[Block]:
    cutter, instructions = _Cutter(threads), [s for s in body.statements if not isinstance(s, str)]
    named = {o.name for i in instructions for o in i.operands if isinstance(o, Symbol)}
    for statement in body.statements:
        if not isinstance(statement, str) or statement in named:  # others are for debuggers
            cutter.take(statement)
    cutter.resolve()
    return cutter.blocks


def _label_of(instruction: Instruction) -> str:
    match instruction.operands:
        case (Symbol(name),):
            return name
    raise instruction.refuse("expected one label")


def _is_of_all(instruction: Instruction, threads: int | None) -> bool:
    """True if a barrier is number 0 and of all threads, which ends a block by itself."""
    opcode = instruction.opcode
    if instruction.guard is not None:
        raise instruction.refuse("the CPU device has barriers of the CTA only without a guard")
    if not opcode.modifiers <= {"sync", "aligned", "cta"} or "sync" not in opcode.modifiers:
        return False
    match instruction.operands:
        case (Immediate(bits=0),):
            return True
        case (Immediate(bits=0), Immediate(bits=count)):
            return count == threads
    return False


def _parts_of_barrier(instruction: Instruction) -> tuple[Instruction, list[Instruction]]:
    """Another barrier as the instructions before and after the wait; see opcodes/barrier.py."""
    opcode, operands = instruction.opcode, instruction.operands
    kinds = opcode.modifiers & {"sync", "arrive", "red"}
    if len(kinds) != 1 or not operands:
        raise instruction.refuse("the CPU device has bar.sync, bar.arrive and bar.red")
    reduces = kinds == {"red"}
    if len(operands) not in ((3, 4) if reduces else (1, 2)):
        raise instruction.refuse(f"found {len(operands)} operands")
    arrival = replace(
        instruction,
        opcode=replace(opcode, base="bar arrival"),
        operands=operands[1:] if reduces else operands,
    )
    if not reduces:
        return arrival, []
    result = replace(opcode, base="bar result")
    return arrival, [replace(instruction, opcode=result, operands=operands[:2])]


def _find_live(blocks: list[Block]) -> None:
    uses: list[set[Register]] = []
    kills: list[set[Register]] = []
    for block in blocks:
        use: set[Register] = set()
        kill: set[Register] = set()
        for instruction in block.instructions:
            use.update(r for r in table.read(instruction) if r not in kill)
            kill.update(table.written(instruction))
        if block.exit == "branch" and block.last is not None:
            guard = block.last.guard
            if guard is not None and guard not in kill:
                use.add(guard)
        if block.exit == "poll" and block.last is not None:  # which barrier it waits for
            operands = block.last.operands
            use.update(r for operand in operands for r in registers_of(operand) if r not in kill)
        uses.append(use)
        kills.append(kill)
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            out = set().union(*(blocks[s].live_in for s in block.successors))
            live = uses[block.index] | (out - kills[block.index])
            changed = changed or live != block.live_in or out != block.live_out
            block.live_in, block.live_out = live, out


def _find_varying(instructions: list[Instruction], varying: set[Register]) -> set[Register]:
    varying = set(varying)
    waiting = []
    for instruction in instructions:
        row = table.find(instruction)
        private = "local" in instruction.opcode.modifiers  # memory that each lane has for itself
        if row.varying or private or any(_is_varying(o) for o in instruction.operands):
            varying.update(table.written(instruction))
        else:
            waiting.append((table.read(instruction), table.written(instruction)))
    changed = True
    while changed:
        changed = False
        rest = []
        for reads, writes in waiting:
            if any(r in varying for r in reads):
                changed = changed or not varying.issuperset(writes)
                varying.update(writes)
            else:
                rest.append((reads, writes))
        waiting = rest
    return varying


def _is_varying(operand: object) -> bool:
    if isinstance(operand, Special):
        return operand.name.startswith(_VARYING_SPECIALS)
    if isinstance(operand, Group):
        return any(_is_varying(e) for e in operand.elements)
    return False


def check_end(body: Body, entry: str) -> None:
    """Raise PtxError for a body without instructions: nothing that was asked for could run."""
    last = next((s for s in reversed(body.statements) if isinstance(s, Instruction)), None)
    if last is None:
        raise PtxError(f"entry {entry!r}", "instructions", "none")
    row = table.lookup(last.opcode)
    stops = last.opcode.base == "trap" or ASSERTION in last.opcode.modifiers
    stops = stops or (row is not None and row.ends == "branch")
    if not stops or last.guard is not None:
        raise refuse(last.line, last.text, "control runs past the end of the entry")
