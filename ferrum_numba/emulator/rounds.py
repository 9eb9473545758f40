"""Rounds of a CTA, as an LLVM function: one warp after another runs to its next barrier."""

from __future__ import annotations

from .builder import Builder
from .hooks import Hooks
from .layout import FRESH, RESUME, WAITING, state_offset
from .library import Library
from .routine import Routine
from .values import Value


def run_ctas(library: Library, hooks: Hooks[Builder], context_bytes: int, instructions: int) -> str:
    """The function `run`. context_bytes: of a warp's context; instructions: of the entry.

    A CTA is over when every warp has finished.  What a warp returned is in its context:
    FINISHED, or the block it goes on with, with WAITING where it is at a barrier.  A round
    gives each warp that can run one turn.  Phase 1 is a round after a barrier that all have
    reached, FRESH a CTA's first.  Where the steps are used up the place in the round is kept,
    for the next call to go on from.
    """
    r = Routine(library, "run")
    (state,) = r.takes("ptr")

    def load(name: str, kind: str, index: int = 0) -> Value:
        align = 4 if kind == "i32" else 8
        return r.load(kind, 1, state, state_offset(name) + 4 * index, align)

    def store(name: str, value: Value, index: int = 0) -> None:
        place = state_offset(name) + 4 * index
        r.store(value, state, place, 4 if value.type == "i32" else 8)

    zero, no = r.constant("i32", 0), Value("false", "i1")
    grid = [r.cast("zext", load("nctaid", "i32", axis), "i64") for axis in (0, 1)]
    warps, contexts = load("warps", "i32"), load("contexts", "ptr")
    length = r.op("mul", r.cast("zext", warps, "i64"), instructions)
    last = load("last", "i64")
    ctas = r.loop(load("phase", "i32"), load("warp", "i32"))
    with ctas as (first_phase, first_warp):
        cta = rest = load("cta", "i64")
        ctas.leave(r.compare("icmp uge", cta, last))
        for axis, extent in enumerate(grid):
            store("ctaid", r.cast("trunc", r.op("urem", rest, extent), "i32"), axis)
            rest = r.op("udiv", rest, extent)
        store("ctaid", r.cast("trunc", rest, "i32"), 2)
        begins = r.compare("icmp eq", first_phase, FRESH)
        store("steps", r.op("sub", load("steps", "i64"), r.select(begins, length, 0)))
        store("clock", r.select(begins, r.constant("i64", 0), load("clock", "i64")))
        rounds = r.loop(first_phase, first_warp, Value("true", "i1"))
        with rounds as (phase, start, partial):
            fresh, held = (r.compare("icmp eq", phase, number) for number in (FRESH, 0))
            bound = r.select(held, r.constant("i32", WAITING), 0x7FFFFFFF)
            whole = r.compare("icmp eq", start, 0)
            hooks.round(r, state, fresh, r.op("and", whole, r.invert(held)))
            turns = r.loop(start, partial, no)
            with turns as (warp, ready, waits):
                turns.leave(r.compare("icmp uge", warp, warps), ready, waits)
                number = hooks.turn(r, warp, warps)
                context = r.item("i8", contexts, r.op("mul", number, context_bytes))
                word = r.select(fresh, zero, r.load("i32", 1, context, RESUME, 4))
                with r.when(r.compare("icmp ult", word, bound)) as runs:
                    resume = r.op("and", word, WAITING - 1)
                    call = r.emit(f"call i32 @warp({context}, {state}, {resume})")
                    r.store(Value(call, "i32"), context, RESUME, 4)
                    runs.give(Value(call, "i32"))
                now = runs.otherwise(word)
                ready = r.op("or", ready, r.compare("icmp ult", now, WAITING))
                waits = r.op("or", waits, r.compare("icmp sge", now, WAITING))
                more = r.op("add", warp, 1)
                with r.when(r.compare("icmp slt", load("steps", "i64"), 0)):
                    store("warp", more)
                    store("phase", phase)
                    r.ret(r.constant("i32", 1))
                turns.again(more, ready, waits)
            ready, waits = turns.results
            after = r.select(ready, zero, 1)
            rounds.again_if(r.op("or", ready, waits), after, zero, no)
        store("cta", r.op("add", cta, 1))
        ctas.again(r.constant("i32", FRESH), zero)
    r.ret(zero)
    return r.text()
