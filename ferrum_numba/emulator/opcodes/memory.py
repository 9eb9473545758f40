"""Loads, stores, asynchronous copies. Source: PTX ISA, "Data Movement and Conversion".

Unchecked: an address is used as it is.  Generic and global addresses are the host's, shared ones
offsets into the CTA's buffer.  All accesses of several lanes are calls of the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import table
from ..builder import Builder, Place
from ..hooks import Access, Copy
from ..layout import LANES
from ..ptx import Address, Immediate, Instruction, Operand, Register, Symbol, elements_of
from ..table import rows_of
from ..values import Value, bits_of

lowers = rows_of("memory")

_SPACES = {"global": "global", "shared": "shared", "shared::cta": "shared", "param": "param"}
# Of another CTA of the cluster: an offset from this one's, which may be negative.
_SPACES |= {"shared::cluster": "shared"}
# Local memory and constants lie in the host's memory too.
_SPACES |= {"local": "global", "const": "global"}
_ORDER = "weak relaxed volatile mmio cta gpu sys cluster"
_CACHE = "ca cg cs lu cv nc wb wt level::cache_hint"
_OTHER = "v2 v4 v8 global shared shared::cta shared::cluster param local const"


def space_of(ins: Instruction) -> str:
    """The state space that an instruction names; generic addresses are global ones here."""
    spaces = {_SPACES[m] for m in ins.opcode.modifiers if m in _SPACES}
    return spaces.pop() if spaces else "global"


def _watched(b: Builder, at: Access) -> Value | None:
    """The lanes that may access memory."""
    look = b.hooks.local if "local" in at.ins.opcode.modifiers else b.hooks.access
    return look(b, at, b.condition(at.ins))


def address_of(b: Builder, ins: Instruction, operand: Operand, space: str) -> Value:
    """An address operand as i64 (global) or i32 (shared), its offset added."""
    if not isinstance(operand, Address):
        raise ins.refuse("expected an address in [ ]")
    if "local" in ins.opcode.modifiers:
        return _local_address(b, ins, operand)
    bits, base = (32 if space == "shared" else 64), operand.base
    if isinstance(base, Symbol) and base.name not in b.arrays:
        if space != "shared" or base.name not in b.shared:
            raise ins.refuse(f"{base.name}: not a shared array of this module")
        return b.constant("i32", b.shared[base.name] + operand.offset)
    if isinstance(base, Register) and base.bits < bits:
        raise ins.refuse(f"{base.name} is .{base.ptx_type}, a {space} address has {bits} bits")
    value = b.integer(base, bits, ins)
    return b.op("add", value, operand.offset) if operand.offset else value


def _local_address(b: Builder, ins: Instruction, operand: Address) -> Value:
    """An address in local memory, which counts from where the lane's begins.

    Its low 32 bits tell: compilers subtract an index from a narrow address, and add the rest.
    """
    value = b.integer(operand.base, 32, ins)
    value = b.op("add", value, operand.offset)
    return b.op("add", b.local_memory(), b.cast("zext", value, "i64"))


def vector_of(ins: Instruction, operand: Operand) -> tuple[Operand | None, ...]:
    """The registers of a vector, as many as .v2, .v4 or .v8 says."""
    elements = elements_of(operand)
    counts = [int(m[1:]) for m in ("v2", "v4", "v8") if m in ins.opcode.modifiers]
    if len(elements) != (counts[0] if counts else 1):
        raise ins.refuse(f"{len(elements)} registers do not fit .v2, .v4 or .v8")
    return elements


def _targets(ins: Instruction, operand: Operand) -> tuple[Operand | None, ...]:
    elements = vector_of(ins, operand)
    if len(elements) * _element_bits(ins) > 256:
        raise ins.refuse("the CPU device loads and stores at most 256 bits a lane")
    return elements


def _pieces(bits: int, count: int) -> Iterator[tuple[int, int]]:
    """Offset in bytes and number of elements of each access of up to 128 bits a lane."""
    most = 128 // bits
    for first in range(0, count, most):
        yield first * bits // 8, min(most, count - first)


def _element_bits(ins: Instruction) -> int:
    ptx_type = ins.opcode.type
    if ptx_type in ("f16x2", "bf16x2"):
        return 32
    if ptx_type in ("pred", "b128", "") or not ptx_type[1:].isdecimal():
        raise ins.refuse(f"the CPU device does not load or store .{ptx_type}")
    return int(ptx_type[1:])


@lowers("ld", "ldu", modifiers=f"{_ORDER} acquire {_CACHE} {_OTHER}", accesses=("load",))
def load(b: Builder, ins: Instruction) -> None:
    space, bits = space_of(ins), _element_bits(ins)
    if len(ins.operands) not in (2, 3):
        raise ins.refuse("expected a destination and an address")
    targets = _targets(ins, ins.operands[0])
    source = ins.operands[1]
    if space == "param" and isinstance(source, Address) and isinstance(source.base, Register):
        space = "global"  # the host's address of a parameter
    if space == "param":
        _write_loaded(b, ins, targets, _load_param(b, ins, bits, len(targets)))
        return
    address = address_of(b, ins, ins.operands[1], space)
    loaded: list[tuple[Sequence[Operand | None], list[Value]]] = []
    for offset, count in _pieces(bits, len(targets)):
        place = b.op("add", address, offset) if offset else address
        at = Access(ins, space, place, bits * count // 8, "load")
        condition = _watched(b, at)
        its = targets[8 * offset // bits :][:count]
        if address.n == 1 and (condition is None or condition.n == 1):
            loaded.append((its, _load_uniform(b, space, place, bits, count, condition)))
        elif bits == 32 and count == 4 and b.takes_fragment(ins, its):
            there = b.room_for(its)
            _load_planes(b, space, b.vector(place), condition, there)
            b.hold(its, there)
        else:
            loaded.append((its, load_lanes(b, space, b.vector(place), bits, count, condition)))
    if space == "global":
        b.hooks.acquires(b, ins)
        if table.is_strong(ins):
            b.polls(ins, address, condition)
    for part, values in loaded:
        _write_loaded(b, ins, part, values)


def _write_loaded(
    b: Builder, ins: Instruction, targets: Sequence[Operand | None], values: list[Value]
) -> None:
    for target, value in zip(targets, values, strict=True):
        if target is None:
            continue
        bits = bits_of(value.type)
        if ins.opcode.type[0] == "s" and isinstance(target, Register) and target.bits > bits:
            value = b.cast("sext", value, f"i{target.bits}")
        b.write_wide(target, value, ins)


def _load_param(b: Builder, ins: Instruction, bits: int, count: int) -> list[Value]:
    operand = ins.operands[1]
    if not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
        raise ins.refuse("expected [parameter] or [parameter+offset]")
    found = b.params.get(operand.base.name)
    if found is None:
        raise ins.refuse(f"{operand.base.name}: not a parameter of this entry")
    offset, size = found
    nbytes = bits // 8
    if not 0 <= operand.offset <= size - nbytes * count:
        raise ins.refuse(f"reads beyond the {size} bytes of {operand.base.name}")
    first = offset + operand.offset
    return [b.load(f"i{bits}", 1, "%params", first + i * nbytes, 1) for i in range(count)]


def _load_uniform(
    b: Builder, space: str, address: Value, bits: int, count: int, condition: Value | None
) -> list[Value]:
    """Load from one address for the whole warp. Where the guard fails, a zero is read instead."""
    if space == "global":
        place = b.emit(f"inttoptr {address} to ptr")
    else:
        place = b.emit(f"getelementptr i8, ptr %shared, {address}")
    if condition is not None:
        place = b.emit(f"select {condition}, ptr {place}, ptr @zeros")
    return [b.load(f"i{bits}", 1, place, i * bits // 8, 1) for i in range(count)]


def load_lanes(
    b: Builder, space: str, address: Value, bits: int, count: int, condition: Value | None
) -> list[Value]:
    """All elements of a lane in one access, then taken apart."""
    total = bits * count
    if total == 128:
        place = b.scratch(512)
        _load_planes(b, space, address, condition, (place, 0))
        planes = [b.load("i32", LANES, place, 128 * i, 64) for i in range(4)]
        if bits == 32:
            return planes
        low = [b.cast("zext", plane, "i64") for plane in planes]
        shift = b.constant("i64", 32)
        return [b.op("or", low[i], b.op("shl", low[i + 1], shift)) for i in (0, 2)]
    vector = f"<{LANES} x i{total}>"
    old = f"{vector} zeroinitializer"
    mask = b.mask(condition)
    text = b.call(f"load_{space}_{total}", vector, "ptr %shared", address, mask, old)
    whole = Value(text, f"i{total}", LANES)
    if count == 1:
        return [whole]
    parts = b.split(whole, f"i{bits}")
    return [b.shuffle(parts, None, range(i, LANES * count, count)) for i in range(count)]


def _load_planes(
    b: Builder, space: str, address: Value, condition: Value | None, place: Place
) -> None:
    """Load 16 bytes a lane into four planes in memory."""
    out = f"ptr {b.at(*place)}"
    b.call(f"load_{space}_128", "void", "ptr %shared", address, b.mask(condition), out)


@lowers("st", modifiers=f"{_ORDER} release {_CACHE} {_OTHER}", writes=0, accesses=("store",))
def store(b: Builder, ins: Instruction) -> None:
    space, bits = space_of(ins), _element_bits(ins)
    if len(ins.operands) not in (2, 3) or space == "param":
        raise ins.refuse("expected an address in global or shared memory, and a value")
    sources = _targets(ins, ins.operands[1])
    values = [as_bits(b, ins, source, bits) for source in sources]
    address = b.vector(address_of(b, ins, ins.operands[0], space))
    is_seen = "local" not in ins.opcode.modifiers  # by others
    for offset, count in _pieces(bits, len(values)):
        place = b.op("add", address, offset) if offset else address
        at = Access(ins, space, place, bits * count // 8, "store")
        condition = _watched(b, at)
        if is_seen:
            b.hooks.releases(b, ins)
        first = 8 * offset // bits
        part = [b.vector(value) for value in values[first : first + count]]
        whole = store_lanes(b, space, place, part, condition)
        if is_seen:
            b.hooks.stored(b, at, whole, condition)


def as_bits(b: Builder, ins: Instruction, source: Operand | None, bits: int) -> Value:
    """The bits of a value of any type, as an integer."""
    if isinstance(source, Immediate) and source.width == bits:  # as it is, in .f32 and .b32
        return b.constant(f"i{bits}", source.bits)
    return b.integer(source, bits, ins)


def store_lanes(
    b: Builder, space: str, address: Value, values: list[Value], condition: Value | None
) -> Value | None:
    """Store the elements of a lane in one access; return them as one, where 64 bits hold them."""
    mask, bits = b.mask(condition), bits_of(values[0].type)
    total = bits * len(values)
    if total == 128:
        place = b.scratch(512)
        for i, value in enumerate(values):
            if bits == 32:
                b.store(value, place, 128 * i, 64)
                continue
            high = b.op("lshr", value, 32)
            b.store(b.cast("trunc", value, "i32"), place, 256 * i, 64)
            b.store(b.cast("trunc", high, "i32"), place, 256 * i + 128, 64)
        b.call(f"store_{space}_128", "void", "ptr %shared", address, f"ptr {place}", mask)
        return None
    whole = values[0]
    n = LANES
    while len(values) > 1:  # interleave, two by two
        half = len(values) // 2
        values = [
            b.shuffle(
                values[i],
                values[i + half],
                [i for lane in range(n) for i in (lane, n + lane)],
            )
            for i in range(half)
        ]
        n *= 2
    if n > LANES:
        whole = b.join(values[0], f"i{total}")
    b.call(f"store_{space}_{total}", "void", "ptr %shared", address, whole, mask)
    return whole


_GROUPS = [frozenset({"async", m}) for m in ("commit_group", "wait_group", "wait_all")]
_ASYNC = "async ca cg shared shared::cta global level::cache_hint commit_group wait_group wait_all"


@rows_of("async copy")("cp", modifiers=_ASYNC, writes=0, accesses=("load", "store"), operands="b32")
def copy_async(b: Builder, ins: Instruction) -> None:
    """cp.async copies at once; waiting for it is then free."""
    modifiers = ins.opcode.modifiers
    if modifiers in _GROUPS:
        return _order_copies(b, ins)
    if "async" not in modifiers or "global" not in modifiers or len(ins.operands) < 3:
        raise ins.refuse("the CPU device copies from .global to .shared only")
    size = ins.operands[2]
    if not isinstance(size, Immediate) or size.bits not in (4, 8, 16):
        raise ins.refuse("expected 4, 8 or 16 bytes")
    to = b.vector(address_of(b, ins, ins.operands[0], "shared"))
    source = b.vector(address_of(b, ins, ins.operands[1], "global"))
    policies = any(m.endswith("::cache_hint") for m in modifiers)
    rest = ins.operands[3 : len(ins.operands) - policies]
    nbytes = b.constant("i32", size.bits)
    if len(rest) > 1:
        raise ins.refuse("expected at most one operand after the size")
    if rest and isinstance(rest[0], Register) and rest[0].bits == 1:  # ignore-src
        nbytes = b.select(b.predicate(rest[0], ins), b.constant("i32", 0), nbytes)
    elif rest:
        nbytes = b.intrinsic("llvm.umin", b.integer(rest[0], 32, ins), nbytes)
    mask, sizes = b.mask(b.condition(ins)), b.vector(nbytes)
    allowed = b.hooks.copy(b, Copy(ins, to, source, size.bits, sizes), mask)
    if allowed is not None:
        b.call(f"copy_{size.bits}", "void", "ptr %shared", to, source, allowed, sizes)
    return None


def _order_copies(b: Builder, ins: Instruction) -> None:
    """commit_group, wait_group, wait_all."""
    if "commit_group" in ins.opcode.modifiers:
        b.hooks.commit(b)
    elif "wait_all" in ins.opcode.modifiers:
        b.hooks.wait(b, -1)
    else:
        match ins.operands:
            case (Immediate(bits=keep),):
                b.hooks.wait(b, keep)
            case _:
                raise ins.refuse("expected the number of groups that may stay under way")


@lowers("createpolicy", types=("b64",), modifiers="fractional range")
def create_policy(b: Builder, ins: Instruction) -> None:
    """A cache policy changes no result."""
    b.write(ins.operands[0], b.constant("i64", 0), ins)


@lowers("prefetch", "prefetchu", "discard", modifiers="global tensormap L1 L2", writes=0)
def hint(b: Builder, ins: Instruction) -> None:
    """Hints to a cache change no result."""


_FENCES = "cta cluster gpu sys gl sc acq_rel acquire release proxy async alias tensormap::generic"


@rows_of("barrier")(
    "membar", "fence", modifiers=f"{_FENCES} global shared::cta mbarrier_init", writes=0
)
def fence(b: Builder, ins: Instruction) -> None:
    """Fences of all kinds and for all proxies: there is one memory here, and one way to it."""
    b.hooks.fence(b, ins)
    b.line("fence seq_cst")
