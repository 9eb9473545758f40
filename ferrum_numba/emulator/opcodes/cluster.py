"""Addresses of shared memory of other CTAs of a cluster.

The CTAs' memories lie `CLUSTER_STRIDE` bytes apart, so that an address of another one's is an
offset from this one's own.  Source: PTX ISA, "mapa", "getctarank".
"""

from __future__ import annotations

from ..builder import Builder
from ..layout import CLUSTER_STRIDE, state_offset
from ..ptx import Instruction
from ..table import rows_of
from ..values import Value
from .integer import expect

lowers = rows_of("move")

_LOG2 = CLUSTER_STRIDE.bit_length() - 1


def _rank(b: Builder, llvm_type: str) -> Value:
    rank = b.load("i32", 1, "%state", state_offset("cluster_rank"), 4)
    return b.cast("zext", rank, llvm_type)


@lowers("mapa", types=("u32", "u64"), modifiers="shared::cluster", operands="last last u32")
def map_address(b: Builder, ins: Instruction) -> None:
    """mapa d, a, rank: the address of the same place in the memory of the CTA of that rank."""
    expect(ins, 3)
    kind = f"i{ins.opcode.type[1:]}"
    address = b.integer(ins.operands[1], int(kind[1:]), ins)
    rank = b.cast("zext", b.integer(ins.operands[2], 32, ins), kind)
    steps = b.op("sub", rank, _rank(b, kind))
    b.write(ins.operands[0], b.op("add", address, b.op("shl", steps, _LOG2)), ins)


@lowers("getctarank", types=("u32", "u64"), modifiers="shared::cluster", operands="u32 last")
def rank_of(b: Builder, ins: Instruction) -> None:
    """getctarank d, a: the rank of the CTA whose shared memory an address is of."""
    expect(ins, 2)
    kind = f"i{ins.opcode.type[1:]}"
    address = b.integer(ins.operands[1], int(kind[1:]), ins)
    if "shared::cluster" not in ins.opcode.modifiers:
        address = b.op("sub", address, Value(b.emit("ptrtoint ptr %shared to i64"), "i64"))
    steps = b.cast("trunc", b.op("ashr", address, _LOG2), "i32")
    b.write(ins.operands[0], b.op("add", steps, _rank(b, "i32")), ins)
