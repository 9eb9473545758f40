"""mbarrier: barriers in shared memory that count arrivals and bytes, phase after phase.

A warp that waits in vain gives the others a turn, as the flow analysis has it ("yield"): then it
comes to the wait again, if the kernel lets it.  See runtime/mbarriers.py for what a word holds.
Source: PTX ISA, "Parallel Synchronization: mbarrier", "cp.async.mbarrier.arrive".
"""

from __future__ import annotations

from ..builder import Builder
from ..hooks import Access
from ..layout import LANES, WAIT_ADDRESS, WAIT_PARITY, state_offset
from ..ptx import Address, Instruction, Operand, Symbol
from ..runtime.mbarriers import COUNT, PHASE
from ..table import rows_of
from ..values import Value
from .memory import address_of

lowers = rows_of("barrier")

_SPACE = "shared shared::cta shared::cluster"
_ORDER = "release acquire relaxed cta cluster"
_SURPLUS = "more arrivals than the mbarrier's phase expects"


def place_of(b: Builder, ins: Instruction, operand: Operand) -> Value:
    """The offset of an mbarrier in shared memory; a generic address is the host's."""
    if any(m.startswith("shared") for m in ins.opcode.modifiers):
        return address_of(b, ins, operand, "shared")
    if isinstance(operand, Address) and isinstance(operand.base, Symbol):
        return address_of(b, ins, operand, "shared")
    start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
    return b.cast("trunc", b.op("sub", address_of(b, ins, operand, "global"), start), "i32")


@lowers("mbarrier.init", types=("b64",), modifiers=_SPACE, writes=0, orders=True)
def begin(b: Builder, ins: Instruction) -> None:
    """Operands: [address], the number of arrivals that each phase expects."""
    address, count = _operands(ins, 2)
    expected = b.cast("zext", b.integer(count, 32, ins), "i64")
    expected = b.op("and", expected, COUNT)
    word = b.op("or", expected, b.op("shl", expected, COUNT.bit_length()))
    _set(b, ins, place_of(b, ins, address), word)


@lowers("mbarrier.inval", types=("b64",), modifiers=_SPACE, writes=0, orders=True)
def end(b: Builder, ins: Instruction) -> None:
    (address,) = _operands(ins, 1)
    _set(b, ins, place_of(b, ins, address), b.constant("i64", 0))


def _set(b: Builder, ins: Instruction, address: Value, word: Value) -> None:
    condition = b.condition(ins)
    address = b.vector(address)
    condition = b.hooks.mbarrier(b, Access(ins, "shared", address, 8, "renew"), condition)
    mask = b.mask(condition)
    b.call("store_shared_64", "void", "ptr %shared", address, b.vector(word), mask)


def _operands(ins: Instruction, *counts: int) -> tuple[Operand, ...]:
    if len(ins.operands) not in counts:
        expected = " or ".join(map(str, counts))
        raise ins.refuse(f"expected {expected} operands, found {len(ins.operands)}")
    return ins.operands


@lowers(
    "mbarrier.expect_tx",
    "mbarrier.complete_tx",
    types=("b64",),
    modifiers=f"{_SPACE} {_ORDER}",
    writes=0,
    orders=True,
)
def transfer(b: Builder, ins: Instruction) -> None:
    """Operands: [address], a number of bytes that are still to come, or that have come."""
    address, amount = _operands(ins, 2)
    nbytes = b.integer(amount, 32, ins)
    if ins.opcode.base.startswith("mbarrier.complete"):
        nbytes = b.op("sub", b.constant("i32", 0), nbytes)
    change(b, ins, place_of(b, ins, address), nbytes=nbytes)


@lowers(
    "mbarrier.arrive",
    "mbarrier.arrive_drop",
    types=("b64",),
    modifiers=f"{_SPACE} {_ORDER} expect_tx noComplete",
    varying=True,
    orders=True,
    fault=_SURPLUS,
)
def arrive(b: Builder, ins: Instruction) -> None:
    """Operands: the state before or _, [address], arrivals (1) or bytes for .expect_tx."""
    target, address, *rest = _operands(ins, 2, 3)
    one, amount = b.constant("i32", 1), None
    if rest:
        amount = b.integer(rest[0], 32, ins)
    transfers = "expect_tx" in ins.opcode.modifiers
    if amount is None and (transfers or "noComplete" in ins.opcode.modifiers):
        raise ins.refuse("expected a number after the address")
    arrivals = one if transfers or amount is None else amount
    words = change(
        b,
        ins,
        place_of(b, ins, address),
        arrivals,
        dropped=arrivals if ins.opcode.base.endswith("drop") else None,
        nbytes=amount if transfers else None,
    )
    b.write(None if target == Symbol("_") else target, words, ins)


def change(
    b: Builder,
    ins: Instruction,
    address: Value,
    arrivals: Value | None = None,
    dropped: Value | None = None,
    nbytes: Value | None = None,
    publishes: str = "publish",
    among: Value | None = None,
) -> Value:
    """Arrivals and bytes of each lane; the words before, as i64.  None: there are none.

    among: lanes that act at all, as a mask; None: all.
    publishes: what comes before the phase's end: "publish", all that the warp did; or "copies".
    """
    condition = b.condition(ins) if among is None else b.lanes(among)
    address = b.vector(address)
    condition = b.hooks.mbarrier(b, Access(ins, "shared", address, 8, publishes), condition)
    mask = b.mask(condition)
    zero = b.constant("i32", 0)
    come, less, more = (b.vector(x or zero) for x in (arrivals, dropped, nbytes))
    text = b.call("mbarrier", "<32 x i64>", "ptr %shared", address, come, less, more, mask)
    words = Value(text, "i64", LANES)
    b.store(zero, "%state", state_offset("idle"), 4)
    if arrivals is not None:
        pending = b.cast("trunc", b.op("and", words, COUNT), "i32")
        surplus = b.mask(b.compare("icmp ult", pending, come))
        b.stop(ins, b.op("and", surplus, mask))
    b.hooks.changed(b, address, mask)
    return words


@rows_of("async copy")(
    "cp",
    types=("b64",),
    modifiers=f"async mbarrier arrive noinc {_SPACE}",
    writes=0,
    fault=_SURPLUS,
)
def arrive_after_copies(b: Builder, ins: Instruction) -> None:
    """An arrival when all copies of the lane until here have landed, which they have by now.

    Without .noinc one more arrival is expected for it, in this phase.
    """
    (address,) = _operands(ins, 1)
    if not {"mbarrier", "arrive"} <= ins.opcode.modifiers:
        raise ins.refuse("expected cp.async.mbarrier.arrive")
    b.hooks.land(b)
    arrivals = b.constant("i32", 1 if "noinc" in ins.opcode.modifiers else 0)
    change(b, ins, place_of(b, ins, address), arrivals, publishes="copies")


@lowers(
    "mbarrier.test_wait",
    "mbarrier.try_wait",
    types=("b64",),
    modifiers=f"{_SPACE} {_ORDER} parity",
    ends="wait",
    orders=True,
)
def wait(b: Builder, ins: Instruction) -> None:
    """Operands: whether the phase is over, [address], its parity or a state; a time is ignored."""
    target, address, phase, *_ = _operands(ins, 3, 4)
    place = place_of(b, ins, address)
    condition = b.hooks.mbarrier(b, Access(ins, "shared", place, 8, "wait"), b.condition(ins))
    bits = 32 if "parity" in ins.opcode.modifiers else 64
    asked = b.integer(phase, bits, ins)
    if bits == 64:
        asked = b.cast("trunc", b.op("lshr", asked, PHASE), "i32")
    parity = b.op("and", asked, 1)
    now = b.op("lshr", _word(b, place, condition), PHASE)
    now = b.op("and", b.cast("trunc", now, "i32"), 1)
    over = b.hooks.tries(b, ins, b.compare("icmp ne", now, parity))
    acts = b.mask(condition)
    passed = b.op("and", b.mask(over), acts)
    b.write(target, b.hooks.passes(b, place, over, acts, passed), ins)
    b.waits = b.compare("icmp ne", passed, acts)
    for value, where in ((place, WAIT_ADDRESS), (parity, WAIT_PARITY)):
        b.store(_first(b, value), "%ctx", where, 4)


def _first(b: Builder, value: Value) -> Value:
    """The first lane's."""
    if value.n == 1:
        return value
    return b.element(value, 0)


def _word(b: Builder, place: Value, condition: Value | None) -> Value:
    if place.n == 1:
        where = b.emit(f"getelementptr i8, ptr %shared, {place}")
        if condition is not None:
            some = b.compare("icmp ne", b.mask(condition), 0)
            where = b.emit(f"select {some}, ptr {where}, ptr @zeros")
        return b.load("i64", 1, where, 0, 1)
    vector = f"<{LANES} x i64>"
    mask, zeros = b.mask(condition), f"{vector} zeroinitializer"
    text = b.call("load_shared_64", vector, "ptr %shared", place, mask, zeros)
    return Value(text, "i64", LANES)


@lowers("mbarrier.pending_count", types=("b64",), orders=True)
def pending_count(b: Builder, ins: Instruction) -> None:
    """The arrivals that were missing in a state."""
    target, state = _operands(ins, 2)
    count = b.op("and", b.integer(state, 64, ins), COUNT)
    b.write(target, b.cast("trunc", count, "i32"), ins)
