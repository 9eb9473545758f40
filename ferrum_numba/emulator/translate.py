"""The body of an entry -> an LLVM module as text.

Two functions matter.  `warp` runs one warp from where it stopped to its next barrier or its end;
`run` (rounds.py) runs a range of CTAs, all warps of a CTA in turn from barrier to barrier.  A warp
that has finished counts as arrived at every later barrier, as on a GPU.

A long entry is cut into parts: functions of consecutive blocks, between which `warp` goes.

Both also stop, and can go on later, where the worker's steps are used up: a step is one
instruction of one warp, and they are counted where a CTA begins and where a loop closes, so that
no kernel runs for ever unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ..abi.signature import Signature
from . import runtime as runtime  # fills the library
from . import table
from .builder import Builder
from .exits import leave, leave_lanes
from .flow import EXIT, Block, analyse, check_end
from .hooks import Hooks
from .host import Host
from .layout import (
    DONE,
    ELSEWHERE,
    FINISHED,
    LANES,
    NEXT,
    VALID,
    WAITING,
    Layout,
    state_offset,
)
from .library import Library
from .ptx import Body, Register
from .rounds import run_ctas
from .targets import refuse_above
from .values import Value

# Instructions of a part.  LLVM's time grows faster than the length of a function.
_PART = 1024


def threads_of(signature: Signature) -> int | None:
    """Number of threads of a block where the PTX fixes it."""
    return math.prod(signature.reqntid) if signature.reqntid else None


class Module:
    """IR text, and what must be known to run it. length: number of instructions.

    talks: whether CTAs may wait for each other.
    """

    def __init__(
        self,
        body: Body,
        signature: Signature,
        host: Host,
        masked: bool,
        hooks: Hooks[Builder] | None = None,
    ) -> None:
        check_end(body, signature.entry)
        refuse_above(body, signature.target)
        self.flow = analyse(body, threads_of(signature), masked)
        self._ends = list(accumulate(len(block.instructions) + 1 for block in self.flow.blocks))
        self.length = self._ends[-1]
        self.talks = any(table.talks(i) for block in self.flow.blocks for i in block.instructions)
        self.layout = Layout(self.flow)
        self.library = Library(host)
        params = {p.name: (p.offset, p.size) for p in signature.params}
        self.builder = Builder(self.flow, self.layout, body.shared, params, self.library, hooks)
        self.builder.arrays = body.arrays
        self.builder.static_shared = body.static_shared
        self.builder.hooks.prepare(self.builder)
        own = self.builder.own_functions
        hooks, nbytes = self.builder.hooks, self.layout.nbytes
        run = run_ctas(self.library, hooks, nbytes, self.length)
        parts = [self._warp(), run, _arrays(body), *own, self.library.text()]
        self.text = "\n".join(parts)

    def _warp(self) -> str:
        parts = _parts(self.flow.blocks)
        texts = [self._part(i, part) for i, part in enumerate(parts)]
        if len(parts) > 1:
            texts.append(_between(parts))
        return "\n".join(["@zeros = internal constant [16 x i8] zeroinitializer, align 16", *texts])

    def _part(self, number: int, part: Sequence[Block]) -> str:
        """The function of some blocks; those of other parts are entered through `warp`."""
        b = self.builder
        divergent, whole = self.flow.divergent, len(part) == len(self.flow.blocks)
        b.lines = []
        for block in part:
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
            (leave_lanes if divergent else leave)(b, block, self._loop_steps(block))
        blocks, b.lines = b.lines, []
        if number == 0:
            self._begin()
            b.line(f"br label %{'dispatch' if divergent else 'bb0'}")
        else:
            b.line("unreachable")
        return "\n".join(
            [
                f"define internal i32 @{'warp' if whole else f'part{number}'}"
                "(ptr %ctx, ptr %state, i32 %resume) #1 {",
                f"  %scratch.at = getelementptr i8, ptr %state, i64 {state_offset('scratch')}",
                "  %scratch = load ptr, ptr %scratch.at, align 8",
                f"  %params.at = getelementptr i8, ptr %state, i64 {state_offset('params')}",
                "  %params = load ptr, ptr %params.at, align 8",
                f"  %shared.at = getelementptr i8, ptr %state, i64 {state_offset('shared')}",
                "  %shared = load ptr, ptr %shared.at, align 8",
                *b.hooks.preamble(),
                *(_divergent_start(part) if divergent else self._start(part)),
                "init:",
                *b.lines,
                *blocks,
                *([] if divergent else _exits(part)),
                "exit:",
                f"  ret i32 {FINISHED}",
                "}",
            ]
        )

    def _begin(self) -> None:
        """Zero the registers that may be read before they are written, where a CTA begins."""
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
        b.read_later = block.live_out
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
            if b.places.get(register) == ("%ctx", self.layout.home(register)):
                continue
            views = b.views[register] or {"": b.read(register, f"i{register.bits}")}
            value = next(iter(views.values()))
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

    def _start(self, part: Sequence[Block]) -> list[str]:
        """Go to where the warp stopped, or where another part left it."""
        blocks, first, last = self.flow.blocks, part[0].index, part[-1].index
        ways = [block.next for block in blocks if block.exit in ("barrier", "yield")]
        ways += [way for block in blocks if self._loop_steps(block) for way in block.successors]
        others = [block for block in blocks if not first <= block.index <= last]
        ways += [way for block in others for way in block.successors]
        inside = dict.fromkeys(way for way in ways if first <= way <= last)
        cases = " ".join(f"i32 {i}, label %bb{i}" for i in inside)
        return [f"  switch i32 %resume, label %init [ {cases} ]"]

    def _loop_steps(self, block: Block) -> int:
        """Count of the instructions of the loop that this block closes; 0 if it closes none."""
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


def _parts(blocks: Sequence[Block]) -> list[list[Block]]:
    """Consecutive blocks that make a function of some length."""
    parts: list[list[Block]] = [[]]
    length = 0
    for block in blocks:
        length += len(block.instructions)
        if length > _PART and parts[-1]:
            parts.append([])
            length = len(block.instructions)
        parts[-1].append(block)
    return parts


def _exits(part: Sequence[Block]) -> Iterator[str]:
    """Exits of a part's blocks into another part."""
    first, last = part[0].index, part[-1].index
    for way in sorted({way for block in part for way in block.successors}):
        if not first <= way <= last:
            yield f"bb{way}:"
            yield f"  ret i32 {way | ELSEWHERE}"


def _between(parts: Sequence[Sequence[Block]]) -> str:
    """The function `warp` of an entry of several parts."""
    cases = " ".join(
        f"i32 {block.index}, label %to{i}" for i, part in enumerate(parts) for block in part
    )
    calls, edges = list[str](), list[str]()
    for i in range(len(parts)):
        calls += [
            f"to{i}:",
            f"  %left{i} = call i32 @part{i}(ptr %ctx, ptr %state, i32 %at)",
            "  br label %left",
        ]
        edges.append(f"[ %left{i}, %to{i} ]")
    return "\n".join(
        [
            "define internal i32 @warp(ptr %ctx, ptr %state, i32 %resume) #0 {",
            "begin:",
            "  br label %go",
            "go:",
            "  %at = phi i32 [ %resume, %begin ], [ %next, %on ]",
            f"  switch i32 %at, label %to0 [ {cases} ]",
            *calls,
            "left:",
            f"  %way = phi i32 {', '.join(edges)}",
            f"  %least = icmp sge i32 %way, {ELSEWHERE}",
            f"  %most = icmp slt i32 %way, {WAITING}",
            "  %goes = and i1 %least, %most",
            "  br i1 %goes, label %on, label %over",
            "on:",
            f"  %next = and i32 %way, {ELSEWHERE - 1}",
            "  br label %go",
            "over:",
            "  ret i32 %way",
            "}",
        ]
    )


def _divergent_start(part: Sequence[Block]) -> list[str]:
    """Run the lanes that are furthest behind; where all wait at barriers, let them go on."""
    lanes = f"<{LANES} x i32>"
    cases = " ".join(f"i32 {b.index}, label %bb{b.index}" for b in part)
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
        f"  switch i32 %least, label %elsewhere [ {cases} ]",
        "elsewhere:",
        f"  %other = or i32 %least, {ELSEWHERE}",
        "  ret i32 %other",
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
