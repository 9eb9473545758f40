"""Moves, packing and addresses. Source: PTX ISA, "Data Movement and Conversion Instructions"."""

from __future__ import annotations

from ...ptx_text import Opcode
from ..builder import Builder
from ..layout import state_offset
from ..ptx import Group, Instruction, Register
from ..table import FLOATS, INTEGERS, rows_of
from ..values import Value
from .compare import any_value
from .integer import expect

lowers = rows_of("move")
_converts = rows_of("convert")

_MOVED = ("b8", "u8", "s8", *INTEGERS, *FLOATS)


def _types_of_move(opcode: Opcode) -> list[str]:
    """Integers are moved as bits, whatever they are."""
    kind = opcode.type
    return [f"b{kind[1:]}" if kind[0] in "us" else kind]


@lowers("mov", types=_MOVED, operands=_types_of_move)
def move(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    target, source = ins.operands
    ptx_type = ins.opcode.type
    if isinstance(source, Group):
        return b.write(target, _pack(b, ins, source, int(ptx_type[1:])), ins)
    if isinstance(target, Group):
        return _unpack(b, ins, target, b.integer(source, int(ptx_type[1:]), ins))
    if isinstance(source, Register):  # in whatever type it has: bits are bits
        if isinstance(target, Register) and source.bits == target.bits == int(ptx_type[1:]):
            views = b.views.get(source) or {"": b.read(source, f"i{source.bits}")}
            return b.write(target, next(iter(views.values())), ins)
        raise ins.refuse(f"both registers must have {ptx_type[1:]} bits")
    return b.write(target, any_value(b, ins, 1, ptx_type), ins)


def _pack(b: Builder, ins: Instruction, group: Group, bits: int) -> Value:
    """The elements in one integer, the first lowest."""
    step = bits // len(group.elements)
    result: Value | None = None
    for i, element in enumerate(group.elements):
        if isinstance(element, Register) and element.bits != step:
            raise ins.refuse(f"{element.name} is .{element.ptx_type}, expected {step} bits")
        value = b.cast("zext", b.integer(element, step, ins), f"i{bits}")
        if i:
            value = b.op("shl", value, i * step)
        result = value if result is None else b.op("or", result, value)
    assert result is not None
    return result


def _unpack(b: Builder, ins: Instruction, group: Group, value: Value) -> None:
    step = int(value.type[1:]) // len(group.elements)
    for i, element in enumerate(group.elements):
        if element is None:
            continue
        part = b.op("lshr", value, i * step) if i else value
        b.write(element, b.cast("trunc", part, f"i{step}"), ins)


@lowers("mov", types=("pred",))
def move_predicate(b: Builder, ins: Instruction) -> None:
    expect(ins, 2)
    b.write(ins.operands[0], b.predicate(ins.operands[1], ins), ins)


@_converts("cvta", types=("u32", "u64"), modifiers="to global shared shared::cta local param const")
def convert_address(b: Builder, ins: Instruction) -> None:
    """Generic addresses are the host's, and so are those of .global, .const and .param."""
    expect(ins, 2)
    modifiers = ins.opcode.modifiers
    if ins.opcode.type != "u64":
        raise ins.refuse("the CPU device converts .u64 addresses")
    value = b.integer(ins.operands[1], 64, ins)
    if modifiers & {"shared", "shared::cta", "local"}:
        start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
        start = b.local_memory() if "local" in modifiers else start
        value = b.op("sub" if "to" in modifiers else "add", value, start)
    b.write(ins.operands[0], value, ins)


@_converts("isspacep", modifiers="global shared shared::cta shared::cluster local", varying=True)
def is_space(b: Builder, ins: Instruction) -> None:
    """True if a generic address lies in shared or local memory; else it is a global one."""
    expect(ins, 2)
    (space,) = ins.opcode.modifiers
    address = b.integer(ins.operands[1], 64, ins)
    dynamic = b.load("i32", 1, "%state", state_offset("shared_bytes"), 4)
    size = b.op("add", b.cast("zext", dynamic, "i64"), b.static_shared)
    start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
    shared = b.compare("icmp ult", b.op("sub", address, start), size)
    offset = b.op("sub", address, b.local_memory())
    local = b.compare("icmp ult", offset, b.layout.local_bytes)
    if space.startswith("shared"):
        value = shared
    else:
        value = local if space == "local" else b.invert(b.op("or", shared, local))
    b.write(ins.operands[0], value, ins)
