"""The body of an entry -> an LLVM module as text.

Two functions matter.  `warp` runs one warp from where it stopped to its next barrier or its end;
`run` runs a range of CTAs, all warps of a CTA in turn from barrier to barrier.
"""

from __future__ import annotations

from ..abi.signature import Signature
from . import opcodes as opcodes  # fills the table
from . import table
from .builder import Builder, Value
from .flow import EXIT, Block, Flow, analyse, check_end
from .helpers import Helpers
from .host import Host
from .layout import DONE, LANES, NEXT, RESUME, VALID, WAITING, Layout, state_offset
from .ptx import Body, Register

FINISHED = -1


class Module:
    """IR text, and what must be known to run it."""

    def __init__(self, body: Body, signature: Signature, host: Host, masked: bool) -> None:
        check_end(body, signature.entry)
        threads = 1
        for n in signature.reqntid or ():
            threads *= n
        self.flow = analyse(body, threads if signature.reqntid else None, masked)
        self.layout = Layout(self.flow)
        self.helpers = Helpers(host)
        params = {p.name: (p.offset, p.size) for p in signature.params}
        self.builder = Builder(self.flow, self.layout, body.shared, params, self.helpers)
        self.text = "\n".join([self._warp(), _RUN % self._numbers(), self.helpers.text()])

    def _numbers(self) -> dict[str, int]:
        names = ("ctaid", "nctaid", "warps", "contexts")
        return {"size": self.layout.nbytes, "resume": RESUME} | {n: state_offset(n) for n in names}

    def _warp(self) -> str:
        b = self.builder
        divergent = self.flow.divergent
        for block in self.flow.blocks:
            b.begin_block()
            b.lines.append(f"bb{block.index}:")
            if divergent:
                next_block = b.load("i32", LANES, "%ctx", NEXT, 64)
                b.active = b.compare("icmp eq", next_block, b.constant("i32", block.index))
            self._lower(block)
            self._keep(block)
            (_leave_lanes if divergent else _leave)(b, block)
        blocks, b.lines = b.lines, []
        self._begin()
        start = _divergent_start(self.flow) if divergent else _start(self.flow)
        return "\n".join(
            [
                "@zeros = internal constant [16 x i8] zeroinitializer, align 16",
                "define internal i32 @warp(ptr %ctx, ptr %state, i32 %resume) #0 {",
                f"  %scratch = alloca [{b.scratch_bytes} x i8], align 64",
                f"  %params.at = getelementptr i8, ptr %state, i64 {state_offset('params')}",
                "  %params = load ptr, ptr %params.at, align 8",
                f"  %shared.at = getelementptr i8, ptr %state, i64 {state_offset('shared')}",
                "  %shared = load ptr, ptr %shared.at, align 8",
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
        b.active = None
        for register in sorted(self.flow.blocks[0].live_in, key=lambda r: r.name):
            zero = Value("false" if register.bits == 1 else "0", f"i{register.bits}")
            self._store(register, b.vector(zero) if register in self.flow.varying else zero)
        if self.flow.divergent:
            valid = b.load("i32", 1, "%ctx", VALID, 4)
            lanes = Value(b.emit(f"bitcast {valid} to <{LANES} x i1>"), "i1", LANES)
            start = b.select(lanes, b.constant("i32", 0), b.constant("i32", DONE))
            b.store(start, "%ctx", NEXT, 64)

    def _lower(self, block: Block) -> None:
        b = self.builder
        for position, instruction in enumerate(block.instructions):
            b.upcoming = block.instructions[position + 1 :]
            if instruction not in b.lowered:
                table.find(instruction).lower(b, instruction)

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
            b.store(Value(b.emit(f"bitcast {value} to i32"), "i32"), "%ctx", offset, 4)


def _label(index: int) -> str:
    return "%exit" if index == EXIT else f"%bb{index}"


def _start(flow: Flow) -> list[str]:
    """Go to where the warp stopped."""
    ways = [b.next for b in flow.blocks if b.exit == "barrier" and b.next != EXIT]
    cases = " ".join(f"i32 {index}, label %bb{index}" for index in dict.fromkeys(ways))
    return [f"  switch i32 %resume, label %init [ {cases} ]"]


def _leave(b: Builder, block: Block) -> None:
    if block.exit == "barrier":
        b.line(f"ret i32 {block.next}")
    elif block.exit == "jump":
        b.line(f"br label {_label(block.target)}")
    else:
        assert block.last is not None
        guard = b.guard_of(block.last)
        b.line(f"br {guard}, label {_label(block.target)}, label {_label(block.next)}")


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
        "  ret i32 1",
    ]


def _leave_lanes(b: Builder, block: Block) -> None:
    b.helpers.declare(f"i32 @llvm.vector.reduce.smin.v{LANES}i32(<{LANES} x i32>)")
    assert b.active is not None

    def number(index: int) -> Value:
        return b.constant("i32", DONE if index == EXIT else index)

    if block.exit == "branch":
        assert block.last is not None
        guard = b.vector(b.guard_of(block.last))
        to = b.select(guard, number(block.target), number(block.next))
    elif block.exit == "barrier" and block.next != EXIT:
        to = b.constant("i32", block.next | WAITING)
    else:
        to = number(block.target)
    old = b.load("i32", LANES, "%ctx", NEXT, 64)
    b.store(b.select(b.active, to, old), "%ctx", NEXT, 64)
    b.line("br label %dispatch")


# A CTA is over when every warp has finished; until then each runs to its next barrier in turn.
_RUN = """
define void @run(ptr %%state, i64 %%first, i64 %%last) #0 {
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
  %%contexts.at = getelementptr i8, ptr %%state, i64 %(contexts)d
  %%contexts = load ptr, ptr %%contexts.at, align 8
  br label %%test
test:
  %%cta = phi i64 [ %%first, %%start ], [ %%cta.next, %%done ]
  %%more = icmp ult i64 %%cta, %%last
  br i1 %%more, label %%begin, label %%end
end:
  ret void
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
  br label %%round
round:
  %%fresh = phi i1 [ true, %%begin ], [ false, %%passed ]
  br label %%each
each:
  %%warp = phi i32 [ 0, %%round ], [ %%warp.next, %%after ]
  %%left = phi i1 [ false, %%round ], [ %%left.next, %%after ]
  %%place = mul i32 %%warp, %(size)d
  %%context = getelementptr i8, ptr %%contexts, i32 %%place
  %%resume.at = getelementptr i8, ptr %%context, i64 %(resume)d
  %%stored = load i32, ptr %%resume.at, align 4
  %%resume = select i1 %%fresh, i32 0, i32 %%stored
  %%runs = icmp sge i32 %%resume, 0
  br i1 %%runs, label %%call, label %%after
call:
  %%stop = call i32 @warp(ptr %%context, ptr %%state, i32 %%resume)
  store i32 %%stop, ptr %%resume.at, align 4
  %%waits = icmp sge i32 %%stop, 0
  br label %%after
after:
  %%still = phi i1 [ false, %%each ], [ %%waits, %%call ]
  %%left.next = or i1 %%left, %%still
  %%warp.next = add i32 %%warp, 1
  %%all = icmp eq i32 %%warp.next, %%warps
  br i1 %%all, label %%passed, label %%each
passed:
  br i1 %%left.next, label %%round, label %%done
done:
  %%cta.next = add i64 %%cta, 1
  br label %%test
}
attributes #0 = { nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512" }
"""
