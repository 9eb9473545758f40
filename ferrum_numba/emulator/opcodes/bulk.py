"""Bulk copies between global and shared memory, and to shared memory of another CTA of the cluster.

They are done at once.  To shared memory an mbarrier counts the bytes; to global memory they come in
groups.  Copies by
tensor maps are not among them.  Source: PTX ISA, "cp.async.bulk".
"""

from __future__ import annotations

from ..builder import Builder
from ..hooks import Run
from ..ptx import Immediate, Instruction
from ..table import rows_of
from ..values import Value
from .cluster import each_target
from .mbarrier import change, place_of
from .memory import address_of

lowers = rows_of("async copy")

_REDUCED = {
    "add": ("u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"),
    "min": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "max": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "inc": ("u32",),
    "dec": ("u32",),
}
_SPACES = "shared::cluster shared::cta global mbarrier::complete_tx::bytes bulk_group"
_NO_CTA = "the mask of CTAs names some that the cluster does not have"
_GROUPS = ({"commit_group"}, {"wait_group"}, {"wait_group", "read"})


@lowers(
    "cp.async.bulk",
    modifiers=f"{_SPACES} level::cache_hint commit_group wait_group read prefetch L2"
    " multicast::cluster",
    writes=0,
    orders=True,
    fault=_NO_CTA,
)
def copy(b: Builder, ins: Instruction) -> None:
    """Operands: [to], [from], bytes; for a copy to shared memory [mbarrier], and with .multicast a
    mask of CTAs."""
    modifiers = ins.opcode.modifiers
    if modifiers in _GROUPS:
        return _order(b, ins)
    if "prefetch" in modifiers:  # changes no result
        return None
    inward, spread = "mbarrier::complete_tx::bytes" in modifiers, "multicast::cluster" in modifiers
    least = (4 + spread) if inward else 3
    if inward == ("bulk_group" in modifiers) or len(ins.operands) < least:
        raise ins.refuse("the CPU device copies with an mbarrier to shared memory, or in a group")
    if inward and "global" not in modifiers and not spread:
        return _pass_on(b, ins)
    if "global" not in modifiers or (spread and not inward):
        raise ins.refuse("the CPU device copies between shared and global memory")
    shared, far = ins.operands[:2] if inward else ins.operands[1::-1]
    near = b.vector(address_of(b, ins, shared, "shared"))
    address = b.vector(address_of(b, ins, far, "global"))
    sizes = b.vector(b.integer(ins.operands[2], 32, ins))
    mask = b.mask(b.condition(ins))
    run = Run(ins, address, sizes, "load" if inward else "store")
    if not inward:
        mask = b.hooks.far(b, run, b.hooks.near(b, Run(ins, near, sizes, "load"), mask))
        b.call("bulk_out", "void", "ptr %shared", near, address, sizes, mask)
        return None
    # What counts as written does so even where the copy may not read what it would.
    some = b.mask(b.compare("icmp ne", sizes, 0))
    may_read = b.hooks.far(b, run, b.op("and", mask, some))
    place = place_of(b, ins, ins.operands[3])
    come = b.op("sub", b.constant("i32", 0), sizes)
    with each_target(b, ins, ins.operands[4] if spread else None, mask) as (there, lanes):
        to = there(near)
        allowed = b.hooks.near(b, Run(ins, to, sizes, "store"), lanes)
        allowed = b.op("and", allowed, may_read)
        b.call("bulk_in", "void", "ptr %shared", to, address, sizes, allowed)
        change(b, ins, there(place), nbytes=come, publishes="copies", among=lanes)
    return None


def _pass_on(b: Builder, ins: Instruction) -> None:
    """Copy this CTA's shared memory to another one's, whose mbarrier counts the bytes."""
    near, source = (b.vector(address_of(b, ins, o, "shared")) for o in ins.operands[:2])
    sizes = b.vector(b.integer(ins.operands[2], 32, ins))
    mask = b.mask(b.condition(ins))
    allowed = b.hooks.near(b, Run(ins, source, sizes, "load"), mask)
    allowed = b.hooks.near(b, Run(ins, near, sizes, "store"), allowed)
    start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
    address = b.op("add", b.cast("sext", source, "i64"), start)
    b.call("bulk_in", "void", "ptr %shared", near, address, sizes, allowed)
    come = b.op("sub", b.constant("i32", 0), sizes)
    change(b, ins, place_of(b, ins, ins.operands[3]), nbytes=come, publishes="copies", among=mask)


def _order(b: Builder, ins: Instruction) -> None:
    """commit_group, wait_group."""
    if "commit_group" in ins.opcode.modifiers:
        b.hooks.bulk_commit(b, ins)
        return
    match ins.operands:
        case (Immediate(bits=keep),):
            b.hooks.bulk_wait(b, ins, keep)
        case _:
            raise ins.refuse("expected the number of groups that may stay under way")


@lowers(
    "cp.reduce.async.bulk",
    modifiers=f"global shared::cta bulk_group noftz level::cache_hint {' '.join(_REDUCED)}",
    writes=0,
)
def combine(b: Builder, ins: Instruction) -> None:
    """Operands: [global], [shared], bytes: each element by an atomic operation."""
    operations = ins.opcode.modifiers & _REDUCED.keys()
    name, kind = min(operations, default=""), ins.opcode.type
    if len(operations) != 1 or kind not in _REDUCED[name] or len(ins.operands) < 3:
        raise ins.refuse("the CPU device does not have this operation on this type")
    if not ins.opcode.modifiers >= {"bulk_group", "global", "shared::cta"}:
        raise ins.refuse("the CPU device reduces from the CTA's shared to global memory, in groups")
    address = b.vector(address_of(b, ins, ins.operands[0], "global"))
    near = b.vector(address_of(b, ins, ins.operands[1], "shared"))
    sizes = b.vector(b.integer(ins.operands[2], 32, ins))
    mask = b.mask(b.condition(ins))
    mask = b.hooks.near(b, Run(ins, near, sizes, "load"), mask)
    mask = b.hooks.far(b, Run(ins, address, sizes, "atomic"), mask)
    b.call(f"bulkreduce_{name}_{kind}", "void", "ptr %shared", near, address, sizes, mask)
