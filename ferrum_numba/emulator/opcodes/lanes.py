"""Exchange between the lanes of a warp.

Source: PTX ISA, "shfl.sync", "vote.sync", "match.sync", "activemask", "redux.sync", "elect.sync".
All lanes that the member mask names must be active; lanes of a block's missing threads are not.
"""

from __future__ import annotations

from ..builder import Builder
from ..flow import is_broadcast
from ..layout import LANES
from ..ptx import Group, Immediate, Instruction, elements_of
from ..table import rows_of
from ..values import Value
from .integer import expect

lowers = rows_of("lanes")

_LANE_IDS = Value(f"<{', '.join(f'i32 {i}' for i in range(LANES))}>", "i32", LANES)


@lowers(
    "shfl", types=("b32",), modifiers="sync idx up down bfly", varying=True, operands="b32 b32 u32"
)
def shuffle(b: Builder, ins: Instruction) -> None:
    """d|p = the value of another lane, and whether that lane lies in this lane's segment.

    c holds the clamp in bits 0-4 and the segment mask in bits 8-12.
    """
    expect(ins, 5)
    modes = ins.opcode.modifiers - {"sync"}
    if len(modes) != 1:
        raise ins.refuse("expected one of .idx, .up, .down, .bfly")
    (mode,) = modes
    b.require_lanes(ins, b.integer(ins.operands[4], 32, ins))
    if ins.operands[0] not in b.flow.varying and is_broadcast(ins):
        return _broadcast(b, ins)
    target = ins.operands[0]
    targets = elements_of(target)
    for operand, written in zip(targets, _exchanged(b, ins, mode), strict=False):
        b.write(operand, written, ins)
    return None


def _exchanged(b: Builder, ins: Instruction, mode: str) -> tuple[Value, Value]:
    """Value that each lane gets, and a condition: it comes from within the lane's segment."""
    value = b.vector(b.integer(ins.operands[1], 32, ins))
    match ins.operands[2:4]:
        case (Immediate(bits=distance), Immediate(bits=segments)):
            sources = [_source_of(lane, mode, distance, segments) for lane in range(LANES)]
            picks = [lane if source is None else source for lane, source in enumerate(sources)]
            inside = b.numbers("i1", (int(s is not None) for s in sources))
            b.hooks.exchanged(b, ins, b.numbers("i32", picks), inside)
            return b.shuffle(value, None, picks), inside
    amount, clamp = (b.vector(b.integer(o, 32, ins)) for o in ins.operands[2:4])
    low = b.constant("i32", 31)
    amount = b.op("and", amount, low)
    segment = b.op("and", b.op("lshr", clamp, 8), low)
    clamp = b.op("and", clamp, low)
    outside = b.op("xor", segment, -1)
    first = b.op("and", _LANE_IDS, segment)
    last = b.op("or", first, b.op("and", clamp, outside))
    if mode == "up":
        source = b.op("sub", _LANE_IDS, amount)
        inside = b.compare("icmp sge", source, last)
    else:
        if mode == "down":
            source = b.op("add", _LANE_IDS, amount)
        elif mode == "bfly":
            source = b.op("xor", _LANE_IDS, amount)
        else:
            source = b.op("or", first, b.op("and", amount, outside))
        inside = b.compare("icmp sle", source, last)
    b.hooks.exchanged(b, ins, source, inside)
    return _gather(b, value, b.select(inside, source, _LANE_IDS)), inside


def _source_of(lane: int, mode: str, amount: int, clamp: int) -> int | None:
    """The lane that a lane gets its value from; None: from none of its segment."""
    amount, segment, clamp = amount & 31, clamp >> 8 & 31, clamp & 31
    first = lane & segment
    last = first | clamp & ~segment
    source = {
        "up": lane - amount,
        "down": lane + amount,
        "bfly": lane ^ amount,
        "idx": first | amount & ~segment,
    }[mode]
    inside = source >= last if mode == "up" else source <= last
    return source if inside else None


def _broadcast(b: Builder, ins: Instruction) -> None:
    """One lane's value for all, which is then the same for the whole warp."""
    value, source = b.integer(ins.operands[1], 32, ins), ins.operands[2]
    if value.n > 1 and isinstance(source, Immediate):
        value = b.element(value, source.bits & 31)
    b.write(ins.operands[0], value, ins)


def _gather(b: Builder, value: Value, source: Value) -> Value:
    """Element source[lane] of the value, for each lane."""
    place = b.scratch(128)
    b.store(value, place, 0, 64)
    every, none = Value("true", "i1"), Value("poison", "i32", LANES)
    return b.gather("i32", b.item("i32", place, source), every, none, 4)


def _bits(b: Builder, ins: Instruction, condition: Value) -> Value:
    """One bit a lane: the condition in the lanes that execute the instruction."""
    acts = b.condition(ins)
    if acts is not None:
        condition = b.op("and", condition, acts)
    return b.mask(b.vector(condition))


@lowers("vote", modifiers="sync all any uni ballot", varying=True)
def vote(b: Builder, ins: Instruction) -> None:
    expect(ins, 3)
    modes = ins.opcode.modifiers - {"sync"}
    members = b.integer(ins.operands[2], 32, ins)
    b.require_lanes(ins, members)
    held = b.op("and", _bits(b, ins, b.predicate(ins.operands[1], ins)), members)
    if modes == {"ballot"}:
        return b.write(ins.operands[0], held, ins)
    every = b.op("and", _bits(b, ins, Value("true", "i1")), members)
    all_ = b.compare("icmp eq", held, every)
    none = b.compare("icmp eq", held, 0)
    if modes == {"all"}:
        result = all_
    elif modes == {"any"}:
        result = b.invert(none)
    elif modes == {"uni"}:
        result = b.op("or", all_, none)
    else:
        raise ins.refuse("expected one of .all, .any, .uni, .ballot")
    return b.write(ins.operands[0], result, ins)


@lowers("activemask", types=("b32",), varying=True)
def active_mask(b: Builder, ins: Instruction) -> None:
    expect(ins, 1)
    b.write(ins.operands[0], _bits(b, ins, Value("true", "i1")), ins)


_REDUCTIONS = {
    "add": ("u32", "s32"),
    "min": ("u32", "s32"),
    "max": ("u32", "s32"),
    "and": ("b32",),
    "or": ("b32",),
    "xor": ("b32",),
}


@lowers("redux", types=("u32", "s32", "b32"), modifiers="sync add min max and or xor", varying=True)
def reduce(b: Builder, ins: Instruction) -> None:
    """Give all lanes that the mask names the sum (minimum, …) of their values."""
    expect(ins, 3)
    modes = ins.opcode.modifiers - {"sync"}
    name = min(modes, default="")
    if len(modes) != 1 or ins.opcode.type not in _REDUCTIONS[name]:
        raise ins.refuse("the CPU device does not have this reduction")
    value = b.vector(b.integer(ins.operands[1], 32, ins))
    members = b.integer(ins.operands[2], 32, ins)
    b.require_lanes(ins, members)
    prefix = ("s" if ins.opcode.type == "s32" else "u") if name in ("min", "max") else ""
    b.write(ins.operands[0], _among(b, ins, f"redux_{prefix}{name}", value, members), ins)


@lowers("redux", types=("f32",), modifiers="sync min max abs NaN", varying=True)
def reduce_floats(b: Builder, ins: Instruction) -> None:
    """The least or greatest number of all lanes that the mask names; NaN only with .NaN."""
    expect(ins, 3)
    modes = ins.opcode.modifiers & {"min", "max"}
    if len(modes) != 1:
        raise ins.refuse("expected .min or .max")
    (mode,) = modes
    value = b.vector(b.integer(ins.operands[1], 32, ins))
    members = b.integer(ins.operands[2], 32, ins)
    b.require_lanes(ins, members)
    if "abs" in ins.opcode.modifiers:
        value = b.op("and", value, 0x7FFFFFFF)
    # Integers in the order of the numbers; NaN comes first or last of all.
    least, most = -0x80000000, 0x7FFFFFFF
    is_first = (mode == "min") == ("NaN" in ins.opcode.modifiers)
    nan = b.compare("icmp ugt", b.op("and", value, 0x7FFFFFFF), 0x7F800000)
    key = b.op("xor", value, b.op("and", b.op("ashr", value, 31), 0x7FFFFFFF))
    key = b.select(nan, b.constant("i32", least if is_first else most), key)
    found = _among(b, ins, f"redux_s{mode}", key, members)
    back = b.op("xor", found, b.op("and", b.op("ashr", found, 31), 0x7FFFFFFF))
    none = b.compare("icmp eq", found, least)
    b.write(ins.operands[0], b.select(none, b.constant("i32", 0x7FFFFFFF), back), ins)


def _among(b: Builder, ins: Instruction, name: str, value: Value, members: Value) -> Value:
    """A function's result for each lane, from the lanes that its member mask names."""
    acts = b.mask(b.condition(ins))
    vector = f"<{LANES} x i32>"
    text = b.call(name, vector, value, b.vector(members), acts)
    return Value(text, "i32", LANES)


@lowers("match", types=("b32", "b64"), modifiers="sync any all", varying=True)
def match(b: Builder, ins: Instruction) -> None:
    """.any: the lanes with this lane's value.  .all: all members, or none, and whether."""
    expect(ins, 3)
    modes = ins.opcode.modifiers - {"sync"}
    if modes not in ({"any"}, {"all"}):
        raise ins.refuse("expected .any or .all")
    bits = int(ins.opcode.type[1:])
    value = b.vector(b.integer(ins.operands[1], bits, ins))
    members = b.vector(b.integer(ins.operands[2], 32, ins))
    b.require_lanes(ins, members)
    equal = _among(b, ins, f"match_{bits}", value, members)
    if modes == {"any"}:
        return b.write(ins.operands[0], equal, ins)
    here = b.op("and", members, b.mask(b.condition(ins)))
    every = b.compare("icmp eq", equal, here)
    target = ins.operands[0]
    targets = elements_of(target)
    mask = b.select(every, here, 0)
    for operand, written in zip(targets, (mask, every), strict=False):
        b.write(operand, written, ins)
    return None


@lowers("elect", modifiers="sync", varying=True)
def elect(b: Builder, ins: Instruction) -> None:
    """elect.sync d|p, members: one lane, here the lowest, has p; all get its number."""
    expect(ins, 2)
    target = ins.operands[0]
    if not isinstance(target, Group) or len(target.elements) != 2:
        raise ins.refuse("expected two destinations")
    members = b.integer(ins.operands[1], 32, ins)
    b.require_lanes(ins, members)
    here = b.op("and", members, b.mask(b.condition(ins)))
    leader = b.intrinsic("llvm.cttz", here, extra="i1 false")
    b.write(target.elements[0], leader, ins)
    b.write(target.elements[1], b.compare("icmp eq", _LANE_IDS, leader), ins)
