"""The body of an entry -> an LLVM module as text.

Two functions matter.  `warp` runs one warp from where it stopped to its next barrier or its end;
`run` runs a range of CTAs, all warps of a CTA in turn from barrier to barrier.  A warp that has
finished counts as arrived at every later barrier, as on a GPU.

Both also stop, and can go on later, where the worker's steps are used up: a step is one
instruction of one warp, and they are counted where a CTA begins and where a loop closes, so that
no kernel runs for ever unseen.
"""

from __future__ import annotations

import math
from itertools import accumulate

from ..abi.signature import Signature
from . import opcodes as opcodes  # fills the table
from . import runtime as runtime  # fills the library
from . import table
from .builder import Builder
from .flow import EXIT, Block, Flow, analyse, check_end
from .hooks import Hooks
from .host import Host
from .layout import (
    DONE,
    FINISHED,
    FRESH,
    IDLE_LIMIT,
    LANES,
    NEXT,
    RESUME,
    VALID,
    WAITING,
    Layout,
    state_offset,
)
from .library import Library
from .opcodes.barrier import is_open, number_of
from .ptx import Body, Register
from .values import Text, Value

# Choosing the lanes that run next takes about as long as so many instructions.
_CHOICE_STEPS = 16


def threads_of(signature: Signature) -> int | None:
    """Number of threads of a block where the PTX fixes it."""
    return math.prod(signature.reqntid) if signature.reqntid else None


class Module:
    """IR text, and what must be known to run it."""

    def __init__(
        self,
        body: Body,
        signature: Signature,
        host: Host,
        masked: bool,
        hooks: Hooks[Builder] | None = None,
    ) -> None:
        check_end(body, signature.entry)
        self.flow = analyse(body, threads_of(signature), masked)
        self._ends = list(accumulate(len(block.instructions) + 1 for block in self.flow.blocks))
        self.layout = Layout(self.flow)
        self.library = Library(host)
        params = {p.name: (p.offset, p.size) for p in signature.params}
        self.builder = Builder(self.flow, self.layout, body.shared, params, self.library, hooks)
        self.builder.arrays = body.arrays
        self.builder.static_shared = body.static_shared
        self.builder.hooks.prepare(self.builder)
        own = self.builder.own_functions
        parts = [self._warp(), self._run(), _arrays(body), *own, self.library.text()]
        self.text = "\n".join(parts)

    def _run(self) -> str:
        names = ("ctaid", "nctaid", "warps", "contexts", "steps", "cta", "last", "warp", "phase")
        numbers = {name: state_offset(name) for name in names} | {
            "size": self.layout.nbytes,
            "resume": RESUME,
            "waiting": WAITING,
            "block": WAITING - 1,
            "fresh": FRESH,
            "length": self._ends[-1],
        }
        text, hooks = Text(self.library), self.builder.hooks
        hooks.round(text, Value("%state", "ptr"), Value("%fresh", "i1"), Value("%passed.all", "i1"))
        rounds, text.lines = text.lines, []
        turn = hooks.turn(text, Value("%warp", "i32"), Value("%warps", "i32"))
        pieces = {"turn": turn.text, "round": "\n".join(rounds), "pick": "\n".join(text.lines)}
        return _RUN % (numbers | pieces)

    def _warp(self) -> str:
        b = self.builder
        divergent = self.flow.divergent
        for block in self.flow.blocks:
            b.begin_block()
            b.label(f"bb{block.index}")
            if divergent:
                next_block = b.load("i32", LANES, "%ctx", NEXT, 64)
                b.active = b.compare("icmp eq", next_block, block.index)
            b.hooks.begins_block()
            self._lower(block)
            if block.last is not None:
                b.hooks.decides(b, block.last)
            self._keep(block)
            (_leave_lanes if divergent else _leave)(b, block, self._loop_steps(block))
        blocks, b.lines = b.lines, []
        self._begin()
        start = _divergent_start(self.flow) if divergent else self._start()
        return "\n".join(
            [
                "@zeros = internal constant [16 x i8] zeroinitializer, align 16",
                "define internal i32 @warp(ptr %ctx, ptr %state, i32 %resume) #0 {",
                f"  %scratch.at = getelementptr i8, ptr %state, i64 {state_offset('scratch')}",
                "  %scratch = load ptr, ptr %scratch.at, align 8",
                f"  %params.at = getelementptr i8, ptr %state, i64 {state_offset('params')}",
                "  %params = load ptr, ptr %params.at, align 8",
                f"  %shared.at = getelementptr i8, ptr %state, i64 {state_offset('shared')}",
                "  %shared = load ptr, ptr %shared.at, align 8",
                *b.hooks.preamble(),
                *start,
                "init:",
                *b.lines,
                f"  br label %{'dispatch' if divergent else 'bb0'}",
                *blocks,
                "exit:",
                f"  ret i32 {FINISHED}",
                "}",
            ]
        )

    def _begin(self) -> None:
        """At the start of a CTA: registers that may be read before they are written are zero."""
        b = self.builder
        b.begin_block()
        b.active, b.block = None, "init"
        b.hooks.begin(b)
        for register in sorted(self.flow.blocks[0].live_in, key=lambda r: r.name):
            zero = Value("false" if register.bits == 1 else "0", f"i{register.bits}")
            self._store(register, b.vector(zero) if register in self.flow.varying else zero)
        if self.flow.divergent:
            valid = b.load("i32", 1, "%ctx", VALID, 4)
            start = b.select(b.lanes(valid), b.constant("i32", 0), b.constant("i32", DONE))
            b.store(start, "%ctx", NEXT, 64)

    def _lower(self, block: Block) -> None:
        b = self.builder
        for position, instruction in enumerate(block.instructions):
            b.upcoming = block.instructions[position + 1 :]
            b.hooks.reads(b, instruction)
            if instruction not in b.lowered:
                table.find(instruction).lower(b, instruction)
            b.hooks.writes(b, instruction)

    def _keep(self, block: Block) -> None:
        """Store what the block wrote and others read."""
        b = self.builder
        order = sorted(b.written & block.live_out, key=lambda r: self.layout.home(r) or 0)
        for register in order:
            value = next(iter(b.views[register].values()))
            if b.active is not None and register in self.flow.varying:
                old = b.load_register(register, value.type)
                value = b.select(b.active, value, old)
            self._store(register, value)

    def _store(self, register: Register, value: Value) -> None:
        b, offset = self.builder, self.layout.home(register)
        assert offset is not None
        if value.type != "i1":
            b.store(value, "%ctx", offset, 64 if value.n > 1 else 8)
        elif value.n == 1:
            b.store(b.cast("zext", value, "i8"), "%ctx", offset, 1)
        else:
            b.store(b.mask(value), "%ctx", offset, 4)

    def _start(self) -> list[str]:
        """Go to where the warp stopped."""
        blocks = self.flow.blocks
        ways = [block.next for block in blocks if block.exit in ("barrier", "yield")]
        ways += [way for block in blocks if self._loop_steps(block) for way in block.successors]
        cases = " ".join(f"i32 {i}, label %bb{i}" for i in dict.fromkeys(ways) if i != EXIT)
        return [f"  switch i32 %resume, label %init [ {cases} ]"]

    def _loop_steps(self, block: Block) -> int:
        """How many instructions a loop has that this block closes; 0 where it goes only forward."""
        first = min(block.successors, default=EXIT)
        if not EXIT < first <= block.index:
            return 0
        return self._ends[block.index] - (self._ends[first - 1] if first else 0)


def _arrays(body: Body) -> str:
    """The module's arrays that the entry names."""
    lines = []
    for name, array in body.arrays.items():
        content = "".join(f"\\{byte:02X}" for byte in array.content)
        kind = f"[{len(array.content)} x i8]"
        lines.append(f'@"array.{name}" = internal global {kind} c"{content}", align {array.align}')
    return "\n".join(lines)


def _label(index: int) -> str:
    return "%exit" if index == EXIT else f"%bb{index}"


def _leave(b: Builder, block: Block, loop_steps: int) -> None:
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


def _waits(b: Builder, block: Block) -> Value:
    """Whether the warp waits in vain; where all have done so for long, it stops for good."""
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
    b.store(idle, "%state", state_offset("idle"), 4)
    stuck = b.compare("icmp ugt", idle, IDLE_LIMIT)
    b.stop(ins, b.cast("zext", stuck, "i32"))
    left = b.load("i64", 1, "%state", state_offset("steps"), 8)
    left = b.select(stuck, b.constant("i64", -1), left)
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


def _divergent_start(flow: Flow) -> list[str]:
    """Run the lanes that are furthest behind; where all wait at barriers, let them go on."""
    lanes = f"<{LANES} x i32>"
    cases = " ".join(f"i32 {b.index}, label %bb{b.index}" for b in flow.blocks)
    return [
        "  %first = icmp eq i32 %resume, 0",
        f"  %next.at = getelementptr i8, ptr %ctx, i64 {NEXT}",
        "  br i1 %first, label %init, label %dispatch",
        "dispatch:",
        f"  %next = load {lanes}, ptr %next.at, align 64",
        f"  %least = call i32 @llvm.vector.reduce.smin.v{LANES}i32({lanes} %next)",
        f"  %waits = icmp sge i32 %least, {WAITING}",
        "  br i1 %waits, label %barrier, label %go",
        "go:",
        f"  switch i32 %least, label %exit [ {cases} ]",
        "barrier:",
        f"  %over = icmp eq i32 %least, {DONE}",
        "  br i1 %over, label %exit, label %release",
        "release:",
        f"  %done = icmp eq {lanes} %next, splat (i32 {DONE})",
        f"  %cleared = and {lanes} %next, splat (i32 {~WAITING})",
        f"  %freed = select <{LANES} x i1> %done, {lanes} %next, {lanes} %cleared",
        f"  store {lanes} %freed, ptr %next.at, align 64",
        f"  ret i32 {WAITING | 1}",
    ]


def _leave_lanes(b: Builder, block: Block, loop_steps: int) -> None:
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


# A CTA is over when every warp has finished.  What a warp returned is in its context: FINISHED, or
# the block it goes on with, with WAITING where it is at a barrier.  A round gives each warp that
# can run one turn.  Phase 1 is a round after a barrier that all have reached, FRESH a CTA's first.
# Where the steps are used up the place in the round is kept, for the next call to go on from.
_RUN = """
define i32 @run(ptr %%state) #0 {
start:
  %%ctaid.at = getelementptr i8, ptr %%state, i64 %(ctaid)d
  %%ctaid.y.at = getelementptr i8, ptr %%ctaid.at, i64 4
  %%ctaid.z.at = getelementptr i8, ptr %%ctaid.at, i64 8
  %%grid.at = getelementptr i8, ptr %%state, i64 %(nctaid)d
  %%grid.y.at = getelementptr i8, ptr %%grid.at, i64 4
  %%grid.x = load i32, ptr %%grid.at, align 4
  %%grid.y = load i32, ptr %%grid.y.at, align 4
  %%size.x = zext i32 %%grid.x to i64
  %%size.y = zext i32 %%grid.y to i64
  %%warps.at = getelementptr i8, ptr %%state, i64 %(warps)d
  %%warps = load i32, ptr %%warps.at, align 4
  %%warps.wide = zext i32 %%warps to i64
  %%length = mul i64 %%warps.wide, %(length)d
  %%contexts.at = getelementptr i8, ptr %%state, i64 %(contexts)d
  %%contexts = load ptr, ptr %%contexts.at, align 8
  %%steps.at = getelementptr i8, ptr %%state, i64 %(steps)d
  %%cta.at = getelementptr i8, ptr %%state, i64 %(cta)d
  %%last.at = getelementptr i8, ptr %%state, i64 %(last)d
  %%last = load i64, ptr %%last.at, align 8
  %%warp.at = getelementptr i8, ptr %%state, i64 %(warp)d
  %%warp.kept = load i32, ptr %%warp.at, align 4
  %%phase.at = getelementptr i8, ptr %%state, i64 %(phase)d
  %%phase.kept = load i32, ptr %%phase.at, align 4
  br label %%test
test:
  %%phase.first = phi i32 [ %%phase.kept, %%start ], [ %(fresh)d, %%done ]
  %%warp.first = phi i32 [ %%warp.kept, %%start ], [ 0, %%done ]
  %%cta = load i64, ptr %%cta.at, align 8
  %%more = icmp ult i64 %%cta, %%last
  br i1 %%more, label %%begin, label %%end
end:
  ret i32 0
begin:
  %%x = urem i64 %%cta, %%size.x
  %%yz = udiv i64 %%cta, %%size.x
  %%y = urem i64 %%yz, %%size.y
  %%z = udiv i64 %%yz, %%size.y
  %%x.word = trunc i64 %%x to i32
  %%y.word = trunc i64 %%y to i32
  %%z.word = trunc i64 %%z to i32
  store i32 %%x.word, ptr %%ctaid.at, align 4
  store i32 %%y.word, ptr %%ctaid.y.at, align 4
  store i32 %%z.word, ptr %%ctaid.z.at, align 4
  %%steps.before = load i64, ptr %%steps.at, align 8
  %%begins = icmp eq i32 %%phase.first, %(fresh)d
  %%cost = select i1 %%begins, i64 %%length, i64 0
  %%steps.less = sub i64 %%steps.before, %%cost
  store i64 %%steps.less, ptr %%steps.at, align 8
  br label %%round
round:
  %%phase = phi i32 [ %%phase.first, %%begin ], [ %%phase.next, %%passed ]
  %%from = phi i32 [ %%warp.first, %%begin ], [ 0, %%passed ]
  %%partial = phi i1 [ true, %%begin ], [ false, %%passed ]
  %%fresh = icmp eq i32 %%phase, %(fresh)d
  %%held = icmp eq i32 %%phase, 0
  %%bound = select i1 %%held, i32 %(waiting)d, i32 2147483647
  %%whole = icmp eq i32 %%from, 0
  %%moved = xor i1 %%held, true
  %%passed.all = and i1 %%whole, %%moved
%(round)s
  br label %%each
each:
  %%warp = phi i32 [ %%from, %%round ], [ %%warp.next, %%after ]
  %%ready = phi i1 [ %%partial, %%round ], [ %%ready.next, %%after ]
  %%waits = phi i1 [ false, %%round ], [ %%waits.next, %%after ]
  %%more.warps = icmp ult i32 %%warp, %%warps
  br i1 %%more.warps, label %%look, label %%passed
look:
%(pick)s
  %%place = mul i32 %(turn)s, %(size)d
  %%context = getelementptr i8, ptr %%contexts, i32 %%place
  %%resume.at = getelementptr i8, ptr %%context, i64 %(resume)d
  %%stored = load i32, ptr %%resume.at, align 4
  %%word = select i1 %%fresh, i32 0, i32 %%stored
  %%runs = icmp ult i32 %%word, %%bound
  br i1 %%runs, label %%call, label %%after
call:
  %%resume = and i32 %%word, %(block)d
  %%stop = call i32 @warp(ptr %%context, ptr %%state, i32 %%resume)
  store i32 %%stop, ptr %%resume.at, align 4
  br label %%after
after:
  %%now = phi i32 [ %%word, %%look ], [ %%stop, %%call ]
  %%now.ready = icmp ult i32 %%now, %(waiting)d
  %%now.waits = icmp sge i32 %%now, %(waiting)d
  %%ready.next = or i1 %%ready, %%now.ready
  %%waits.next = or i1 %%waits, %%now.waits
  %%warp.next = add i32 %%warp, 1
  %%steps = load i64, ptr %%steps.at, align 8
  %%over = icmp slt i64 %%steps, 0
  br i1 %%over, label %%stopped, label %%each
stopped:
  store i32 %%warp.next, ptr %%warp.at, align 4
  store i32 %%phase, ptr %%phase.at, align 4
  ret i32 1
passed:
  %%phase.next = select i1 %%ready, i32 0, i32 1
  %%again = or i1 %%ready, %%waits
  br i1 %%again, label %%round, label %%done
done:
  %%cta.next = add i64 %%cta, 1
  store i64 %%cta.next, ptr %%cta.at, align 8
  br label %%test
}
"""
