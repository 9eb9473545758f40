"""Atomic operations. Source: PTX ISA, "Parallel Synchronization: atom, red".

Orders and scopes change nothing: all operations are sequentially consistent.
"""

from __future__ import annotations

from ..builder import Builder
from ..hooks import Access
from ..layout import LANES
from ..ptx import Instruction, Operand, Symbol
from ..table import rows_of
from ..values import Value
from .memory import address_of, as_bits, space_of, vector_of

lowers = rows_of("atomic")

_ORDER = "relaxed acquire release acq_rel cta cluster gpu sys level::cache_hint"
_INTEGERS = {
    "add": ("u32", "s32", "u64", "s64"),
    "min": ("u32", "s32", "u64", "s64"),
    "max": ("u32", "s32", "u64", "s64"),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "exch": ("b32", "b64"),
    "cas": ("b16", "b32", "b64"),
    "inc": ("u32",),
    "dec": ("u32",),
}
_FLOATS = ("f32", "f64", "f16", "f16x2", "bf16", "bf16x2")
_TYPES = sorted({*_FLOATS}.union(*_INTEGERS.values()))
_SPACES = "global shared shared::cta shared::cluster"
_MODIFIERS = f"{_ORDER} {_SPACES} noftz v2 v4 v8 {' '.join(_INTEGERS)}"


@lowers("atom", types=_TYPES, modifiers=_MODIFIERS, varying=True, accesses=("atomic",))
def exchange(b: Builder, ins: Instruction) -> None:
    """The destination gets what was there before."""
    if len(ins.operands) < 3:
        raise ins.refuse(f"expected at least 3 operands, found {len(ins.operands)}")
    targets = vector_of(ins, ins.operands[0])
    results = _apply(b, ins, ins.operands[1:])
    for operand, value in zip(targets, results, strict=True):
        b.write(None if operand == Symbol("_") else operand, value, ins)


@lowers("red", types=_TYPES, modifiers=_MODIFIERS, writes=0, accesses=("atomic",))
def reduce(b: Builder, ins: Instruction) -> None:
    if len(ins.operands) < 2:
        raise ins.refuse(f"expected at least 2 operands, found {len(ins.operands)}")
    _apply(b, ins, ins.operands)


def _operation(ins: Instruction) -> tuple[str, str]:
    """The operation and the type of one element."""
    named = ins.opcode.modifiers & _INTEGERS.keys()
    if len(named) == 1 and len(ins.opcode.types) == 1:
        (operation,) = named
        ptx_type = ins.opcode.type
        if ptx_type in _INTEGERS[operation] or (operation == "add" and ptx_type in _FLOATS):
            return operation, ptx_type
    raise ins.refuse("the CPU device does not have this operation on this type")


def _apply(b: Builder, ins: Instruction, operands: tuple[Operand, ...]) -> list[Value]:
    """[address], values, and for cas what is stored; a cache policy may follow."""
    operation, ptx_type = _operation(ins)
    space = space_of(ins)
    count = 3 if operation == "cas" else 2
    policies = 1 if any(m.endswith("::cache_hint") for m in ins.opcode.modifiers) else 0
    if len(operands) != count + policies or space == "param":
        raise ins.refuse(f"expected an address and {count - 1} values")
    address = b.vector(address_of(b, ins, operands[0], space))
    pair = ptx_type.endswith("x2")
    bits = 32 if pair else 16 if ptx_type == "bf16" else int(ptx_type[1:])
    nbytes = bits * len(vector_of(ins, operands[1])) // 8
    condition = b.hooks.access(b, Access(ins, space, address, nbytes, "atomic"), b.condition(ins))
    b.hooks.releases(b, ins)
    mask = b.mask(condition)
    if space == "global":
        b.polls(ins, address, condition)
    results = []
    for i, source in enumerate(vector_of(ins, operands[1])):
        value = b.vector(as_bits(b, ins, source, bits))
        other = b.vector(b.integer(operands[2], bits, ins) if count == 3 else value)
        place = _moved(b, address, i * bits // 8)
        if pair:
            results.append(_pair(b, f"{ptx_type[:-2]}_{space}", place, value, mask))
        else:
            name = f"{operation}_{ptx_type}_{space}"
            results.append(_call(b, name, place, value, other, mask))
    b.hooks.acquires(b, ins)
    return results


def _moved(b: Builder, address: Value, offset: int) -> Value:
    return b.op("add", address, offset) if offset else address


def _pair(b: Builder, name: str, address: Value, value: Value, mask: Value) -> Value:
    """Two halves, each added by an atomic operation of its own, as PTX has it."""
    parts = b.split(value, "i16")
    low, high = (b.shuffle(parts, None, range(half, 2 * LANES, 2)) for half in (0, 1))
    low = _call(b, f"add_{name}", address, low, low, mask)
    high = _call(b, f"add_{name}", _moved(b, address, 2), high, high, mask)
    mix = [i for lane in range(LANES) for i in (lane, LANES + lane)]
    return b.join(b.shuffle(low, high, mix), "i32")


def _call(b: Builder, name: str, address: Value, value: Value, other: Value, mask: Value) -> Value:
    text = b.call(f"atomic_{name}", value.full_type, "ptr %shared", address, value, other, mask)
    return Value(text, value.type, LANES)
