"""Barriers of some warps of a CTA, by number; and barriers that reduce.

The flow analysis takes such an instruction apart: the arrival here, then a block that a warp
leaves once the barrier has opened (`is_open`), then the result.  Warps count as whole, as on a GPU;
so all lanes must come together.  (bar.sync 0 of all threads is the scheduler's own, and cheaper.)
Source: PTX ISA, "bar, barrier".
"""

from __future__ import annotations

from ..builder import Builder
from ..layout import BARRIER_WORDS, CLUSTER_GENERATION, GENERATION, LANES, state_offset
from ..ptx import Immediate, Instruction, Operand
from ..table import rows_of
from ..values import Value
from .integer import expect

lowers = rows_of("barrier")

# The words of a barrier: of which CTA (1 + its number), arrived threads, how often it has opened,
# the reductions so far (sum, and, or), and those of the last opening; expected threads.
_OWNER, _COUNT, _OPENINGS, _SUM, _ALL, _ANY, _SUM_DONE, _ALL_DONE, _ANY_DONE, _EXPECTED = range(10)
_MODIFIERS = "red popc and or aligned cta"
_REDUCTIONS = {"popc": _SUM_DONE, "and": _ALL_DONE, "or": _ANY_DONE}


def uniform(b: Builder, operand: Operand, ins: Instruction) -> Value:
    value = b.integer(operand, 32, ins)
    return value if value.n == 1 else b.element(value, 0)


def _place(b: Builder, ins: Instruction, operand: Operand) -> str:
    """The words of a barrier; there are sixteen."""
    if isinstance(operand, Immediate) and not 0 <= operand.bits < 16:
        raise ins.refuse(f"barriers have the numbers 0 to 15, found {operand.bits}")
    number = b.op("and", uniform(b, operand, ins), 15)
    offset = b.op("mul", number, 4 * BARRIER_WORDS)
    start = b.at("%state", state_offset("barriers"))
    return b.emit(f"getelementptr i8, ptr {start}, {offset}")


def _word(b: Builder, place: str, index: int) -> Value:
    return b.load("i32", 1, place, 4 * index, 4)


@lowers("bar arrival", modifiers=f"sync arrive {_MODIFIERS}", writes=0, orders=True)
def arrive(b: Builder, ins: Instruction) -> None:
    """Operands: number, threads (optional), and for .red a predicate."""
    b.require_lanes(ins)
    number, *rest = ins.operands
    condition = b.predicate(rest.pop(), ins) if "red" in ins.opcode.modifiers else None
    if len(rest) > 1 or ("arrive" in ins.opcode.modifiers and not rest):
        raise ins.refuse("expected a barrier's number and a number of threads")
    lanes = b.constant("i32", LANES)
    if rest:
        expected = uniform(b, rest[0], ins)
    else:
        warps = b.load("i32", 1, "%state", state_offset("warps"), 4)
        expected = b.op("mul", warps, lanes)
    place = _place(b, ins, number)
    # What the CTA before has left there does not count.
    cta = b.load("i32", 1, "%state", state_offset("cta"), 4)
    owner = b.op("add", cta, 1)
    ours = b.compare("icmp eq", _word(b, place, _OWNER), owner)
    count = b.select(ours, _word(b, place, _COUNT), 0)
    first = b.compare("icmp eq", count, 0)
    _require_one_count(b, ins, place, first, expected)
    count = b.op("add", count, lanes)
    opens = b.compare("icmp uge", count, expected)
    openings = _word(b, place, _OPENINGS)
    b.store(openings, "%ctx", GENERATION, 4)
    b.store(owner, place, 4 * _OWNER, 4)
    b.store(b.select(opens, b.constant("i32", 0), count), place, 4 * _COUNT, 4)
    more = b.op("add", openings, b.cast("zext", opens, "i32"))
    b.store(more, place, 4 * _OPENINGS, 4)
    b.store(b.constant("i32", 0), "%state", state_offset("idle"), 4)
    b.hooks.arrives(b, ins, number, opens)
    if condition is not None:
        _reduce(b, place, condition, first, opens)


def _require_one_count(
    b: Builder, ins: Instruction, place: str, first: Value, expected: Value
) -> None:
    """Stop unless whole warps are expected, and as many as those that came before expect."""
    agreed = b.select(first, expected, _word(b, place, _EXPECTED))
    b.store(agreed, place, 4 * _EXPECTED, 4)
    rest = b.op("and", expected, LANES - 1)
    wrong = b.op("or", b.compare("icmp ne", rest, 0), b.compare("icmp ne", agreed, expected))
    b.stop(ins, b.cast("zext", wrong, "i32"))


def _reduce(b: Builder, place: str, condition: Value, first: Value, opens: Value) -> None:
    """Add this warp's predicates; where the barrier opens, keep the results for all to read."""
    acts = b.mask(None if b.active is None else b.active)
    held = b.op("and", b.mask(b.vector(condition)), acts)
    mine = {
        _SUM: b.intrinsic("llvm.ctpop", held),
        _ALL: b.cast("zext", b.compare("icmp eq", held, acts), "i32"),
        _ANY: b.cast("zext", b.compare("icmp ne", held, 0), "i32"),
    }
    names = {_SUM: ("add", 0), _ALL: ("and", 1), _ANY: ("or", 0)}
    for index, (name, neutral) in names.items():
        before = b.select(first, b.constant("i32", neutral), _word(b, place, index))
        value = b.op(name, before, mine[index])
        b.store(value, place, 4 * index, 4)
        done = index + _SUM_DONE - _SUM
        b.store(b.select(opens, value, _word(b, place, done)), place, 4 * done, 4)


@lowers(
    "cluster arrival", modifiers="cluster arrive aligned release relaxed", writes=0, orders=True
)
def arrive_in_cluster(b: Builder, ins: Instruction) -> None:
    """barrier.cluster.arrive: all threads of all CTAs of the cluster are expected."""
    b.require_lanes(ins)
    place = b.load("ptr", 1, "%state", state_offset("cluster_barrier"), 8)
    count, openings = (b.load("i32", 1, place, 4 * i, 4) for i in range(2))
    sizes = ("warps", "cluster_ctas")
    warps, ctas = (b.load("i32", 1, "%state", state_offset(name), 4) for name in sizes)
    count = b.op("add", count, 1)
    opens = b.compare("icmp uge", count, b.op("mul", warps, ctas))
    b.store(openings, "%ctx", CLUSTER_GENERATION, 4)
    b.store(b.select(opens, b.constant("i32", 0), count), place, 0, 4)
    b.store(b.op("add", openings, b.cast("zext", opens, "i32")), place, 4, 4)
    b.store(b.constant("i32", 0), "%state", state_offset("idle"), 4)
    b.hooks.arrives(b, ins, _CLUSTERS, opens)


_CLUSTERS = Immediate(15)  # the object that checks take for a cluster's barrier


def number_of(ins: Instruction) -> Operand:
    """Number of the barrier of a bar.sync or bar.red."""
    if "cluster" in ins.opcode.modifiers:
        return _CLUSTERS
    return ins.operands[1 if "red" in ins.opcode.modifiers else 0]


def is_open(b: Builder, ins: Instruction) -> Value:
    """True if the barrier that this warp came to last has opened since."""
    if "cluster" in ins.opcode.modifiers:
        place = b.load("ptr", 1, "%state", state_offset("cluster_barrier"), 8)
        since = b.load("i32", 1, "%ctx", CLUSTER_GENERATION, 4)
        return b.compare("icmp ne", b.load("i32", 1, place, 4, 4), since)
    openings = _word(b, _place(b, ins, number_of(ins)), _OPENINGS)
    return b.compare("icmp ne", openings, b.load("i32", 1, "%ctx", GENERATION, 4))


@lowers("bar result", types=("u32", "pred"), modifiers=_MODIFIERS, operands="pred last last pred")
def result(b: Builder, ins: Instruction) -> None:
    """Operands: destination, number."""
    kinds = ins.opcode.modifiers & _REDUCTIONS.keys()
    fits = len(kinds) == 1 and (ins.opcode.type == "u32") == (kinds == {"popc"})
    if not fits:
        raise ins.refuse("expected .popc.u32, .and.pred or .or.pred")
    value = _word(b, _place(b, ins, ins.operands[1]), _REDUCTIONS[min(kinds)])
    if ins.opcode.type == "pred":
        value = b.compare("icmp ne", value, 0)
    b.write(ins.operands[0], value, ins)


@lowers(
    *("bar", "barrier"),
    modifiers=f"warp sync arrive wait cluster acquire release relaxed {_MODIFIERS}",
    writes=0,
    ends="barrier",
    fault="CTA {cta}, warp {warp}: all lanes of a warp have to come to a barrier together, and all"
    " warps have to name the same number of threads, a multiple of 32",
)
def of_warp(b: Builder, ins: Instruction) -> None:
    """bar.warp.sync, which ends no block: the lanes of a warp are together anyway."""
    if ins.opcode.modifiers != {"warp", "sync"}:
        raise ins.refuse("the CPU device has .warp.sync")
    expect(ins, 1)
    b.require_lanes(ins, b.integer(ins.operands[0], 32, ins))
