"""Addresses of shared memory of other CTAs of a cluster.

The CTAs' memories lie `CLUSTER_STRIDE` bytes apart, so that an address of another one's is an
offset from this one's own.  Source: PTX ISA, "mapa", "getctarank".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..builder import Builder
from ..layout import CLUSTER_STRIDE, state_offset
from ..ptx import Instruction, Operand
from ..table import rows_of
from ..values import Value
from .integer import expect

lowers = rows_of("move")

_LOG2 = CLUSTER_STRIDE.bit_length() - 1


@contextmanager
def each_target(
    b: Builder, ins: Instruction, members: Operand | None, mask: Value
) -> Iterator[tuple[Callable[[Value], Value], Value]]:
    """Block for each CTA that a copy goes to: its place for a place of this CTA, and the lanes.

    members: the CTAs, as a mask of ranks; None: where the place itself is.  mask: lanes that copy.
    Source: PTX ISA, "cp.async.bulk": ".multicast::cluster".
    """
    if members is None:
        yield lambda place: place, mask
        return
    named = b.vector(b.cast("zext", b.integer(members, 16, ins), "i32"))
    ctas = b.load("i32", 1, "%state", state_offset("cluster_ctas"), 4)
    absent = b.compare("icmp ne", b.op("lshr", named, b.vector(ctas)), 0)
    b.stop(ins, b.op("and", b.mask(absent), mask))
    loop = b.loop(b.constant("i32", 0))
    with loop as (rank,):
        bit = b.op("and", b.op("lshr", named, b.vector(rank)), 1)
        steps = b.op("shl", b.op("sub", rank, _rank(b, "i32")), _LOG2)

        def there(place: Value) -> Value:
            return b.op("add", b.op("and", place, CLUSTER_STRIDE - 1), b.vector(steps))

        yield there, b.op("and", mask, b.mask(b.compare("icmp ne", bit, 0)))
        more = b.op("add", rank, 1)
        loop.again_if(b.compare("icmp ult", more, ctas), more)


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
