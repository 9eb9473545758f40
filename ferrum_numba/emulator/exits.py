"""Exits of blocks, as LLVM IR: to the next block, or out of the function `warp` for a while."""

from __future__ import annotations

from .builder import Builder
from .flow import EXIT, Block
from .layout import CLUSTER_PATIENCE, DONE, GAVE_WAY, IDLE_LIMIT, LANES, NEXT, WAITING, state_offset
from .opcodes.barrier import is_open, number_of
from .values import Value

# Choosing the lanes that run next takes about as long as so many instructions.
_CHOICE_STEPS = 16


def leave(b: Builder, block: Block, loop_steps: int) -> None:
    """End a block that all lanes leave together. loop_steps: instructions of the loop it closes."""
    if block.exit == "barrier":
        b.line(f"ret i32 {block.next if block.next == EXIT else block.next | WAITING}")
        return
    if block.exit in ("yield", "poll"):
        if block.exit == "poll":
            _count_steps(b, block, loop_steps, b.constant("i32", block.index))
        waits = _waits(b, block)
        b.line(f"br {waits}, label %wait{block.index}, label {_label(block.next)}")
        b.label(f"wait{block.index}")
        b.line(f"ret i32 {block.next if block.exit == 'yield' else block.index}")
        return
    guard = None
    if block.exit == "branch":
        assert block.last is not None
        guard = b.guard_of(block.last)
    if loop_steps:
        to = b.constant("i32", block.target)
        if guard is not None:
            to = b.select(guard, to, block.next)
        _count_steps(b, block, loop_steps, to)
    if guard is not None:
        b.line(f"br {guard}, label {_label(block.target)}, label {_label(block.next)}")
    else:
        b.line(f"br label {_label(block.target)}")


def leave_lanes(b: Builder, block: Block, loop_steps: int) -> None:
    """End a block whose lanes may go different ways: note where each goes on."""
    b.library.declare(f"i32 @llvm.vector.reduce.smin.v{LANES}i32(<{LANES} x i32>)")
    assert b.active is not None

    def number(index: int) -> Value:
        return b.constant("i32", DONE if index == EXIT else index)

    if block.exit == "branch":
        assert block.last is not None
        guard = b.vector(b.guard_of(block.last))
        to = b.select(guard, number(block.target), number(block.next))
    elif block.exit == "barrier" and block.next != EXIT:
        to = b.constant("i32", block.next | WAITING)
        assert block.last is not None
        others = b.load("i32", LANES, "%ctx", NEXT, 64)
        elsewhere = b.compare("icmp sge", others, WAITING)
        for place in (b.constant("i32", DONE), to):
            elsewhere = b.op("and", elsewhere, b.compare("icmp ne", others, place))
        b.hooks.meet(b, block.last, elsewhere)
    elif block.exit in ("poll", "yield"):
        waits = _waits(b, block)
        stay = block.next if block.exit == "yield" else block.index
        to = b.select(waits, number(stay), number(block.next))
    else:
        to = number(block.target)
    old = b.load("i32", LANES, "%ctx", NEXT, 64)
    b.store(b.select(b.active, to, old), "%ctx", NEXT, 64)
    if loop_steps:
        _count_steps(b, block, loop_steps + _CHOICE_STEPS, b.constant("i32", 1))
    if block.exit in ("poll", "yield"):
        b.line(f"br {waits}, label %wait{block.index}, label %dispatch")
        b.label(f"wait{block.index}")
        b.line("ret i32 1")
    else:
        b.line("br label %dispatch")


def _label(index: int) -> str:
    return "%exit" if index == EXIT else f"%bb{index}"


def _waits(b: Builder, block: Block) -> Value:
    """True if the warp waits in vain; where all have done so for long, it stops for good."""
    ins = block.last
    assert ins is not None
    if block.exit == "yield":
        assert b.waits is not None
        waits = b.waits
    else:
        waits = b.invert(is_open(b, ins))
        b.hooks.opened(b, ins, number_of(ins), waits)
    before = b.load("i32", 1, "%state", state_offset("idle"), 4)
    more = b.op("add", before, 1)
    idle = b.select(waits, more, 0)
    ctas = b.load("i32", 1, "%state", state_offset("cluster_ctas"), 4)
    alone = b.compare("icmp ule", ctas, 1)
    stuck = b.op("and", b.compare("icmp ugt", idle, IDLE_LIMIT), alone)
    b.stop(ins, b.cast("zext", stuck, "i32"))
    # Others of its cluster may do what it waits for.
    gives_way = b.compare("icmp ugt", idle, CLUSTER_PATIENCE)
    gives_way = b.op("and", gives_way, b.invert(alone))
    b.store(b.select(gives_way, b.constant("i32", 0), idle), "%state", state_offset("idle"), 4)
    stuck = b.op("or", stuck, gives_way)
    left = b.load("i64", 1, "%state", state_offset("steps"), 8)
    left = b.select(stuck, b.constant("i64", GAVE_WAY), left)
    b.store(left, "%state", state_offset("steps"), 8)
    return waits


def _count_steps(b: Builder, block: Block, steps: int, resume: Value) -> None:
    """Take a loop's steps from those that are left; where there are none the warp stops here."""
    before = b.load("i64", 1, "%state", state_offset("steps"), 8)
    left = b.op("sub", before, steps)
    b.store(left, "%state", state_offset("steps"), 8)
    over = b.compare("icmp slt", left, 0)
    b.line(f"br {over}, label %stop{block.index}, label %on{block.index}")
    b.label(f"stop{block.index}")
    b.line(f"ret {resume}")
    b.label(f"on{block.index}")
