"""Atomic operations of 32 lanes, one lane after another.

    atomic_<operation>_<type>_<space>(base, addresses, values, others, mask) -> <32 x i<bits>>:
        what was there before; others: what cas stores

Lanes that hit one place do so in order.  Threads of the host may run CTAs side by side, hence
atomic instructions.  Source: PTX ISA, "atom".
"""

from __future__ import annotations

from ..routine import Routine, routine
from ..values import Value
from .access import ADDRESSES, place_of

_INSTRUCTIONS = {"exch": "xchg", "inc": "uinc_wrap", "dec": "udec_wrap"}
_FLOATS = ("f16", "bf16", "f32", "f64")


@routine("atomic")
def atomic(r: Routine, operation: str, ptx_type: str, space: str) -> None:
    bits = 16 if ptx_type == "bf16" else int(ptx_type[1:])
    item, vector = f"i{bits}", f"<32 x i{bits}>"
    base, address, value, other, mask = r.takes("ptr", ADDRESSES[space], vector, vector, "i32")
    addresses, values, others = (r.spread(v) for v in (address, value, other))
    olds = r.room(vector)
    r.store(Value("zeroinitializer", item, 32), olds, 0, 64)
    with r.each_lane(mask) as (lane,):
        there, its = place_of(r, space, base, addresses(lane)), values(lane)
        if operation == "cas":
            old, _ = _exchange(r, there, its, others(lane))
        elif ptx_type in _FLOATS:
            start = r.emit(f"load atomic {item}, {there} monotonic, align {bits // 8}")
            loop = r.loop(Value(start, item))
            with loop as (seen,):
                new = _changed(r, operation, ptx_type, space, seen, its)
                old, same = _exchange(r, there, seen, new)
                loop.again_if(r.invert(same), old)
            (old,) = loop.results
        else:
            unsigned = "u" if operation in ("min", "max") and ptx_type[0] == "u" else ""
            name = _INSTRUCTIONS.get(operation, unsigned + operation)
            text = r.emit(f"atomicrmw {name} {there}, {its} seq_cst, align {bits // 8}")
            old = Value(text, item)
        r.store(old, r.item(item, olds, lane), 0, bits // 8)
    r.ret(r.load(item, 32, olds, 0, 64))


def _exchange(r: Routine, there: Value, expected: Value, new: Value) -> tuple[Value, Value]:
    """Compare and swap: what was there, and whether it was what was expected."""
    kind = expected.type
    order = f"seq_cst seq_cst, align {int(kind[1:]) // 8}"
    pair = r.emit(f"cmpxchg {there}, {expected}, {new} {order}")
    old, same = (r.emit(f"extractvalue {{ {kind}, i1 }} {pair}, {i}") for i in (0, 1))
    return Value(old, kind), Value(same, "i1")


def _changed(
    r: Routine, operation: str, ptx_type: str, space: str, seen: Value, its: Value
) -> Value:
    """The sum, or the lesser or greater, of two numbers, as bits."""
    if ptx_type == "f64":
        x, y = (r.bitcast(v, "double") for v in (seen, its))
        return r.bitcast(r.op("fadd", x, y), "i64")
    if ptx_type == "f32":
        # In global memory .f32 flushes denormals; in shared memory it does not.
        flushes = space == "global"
        words = [_flushed(r, v) if flushes else v for v in (seen, its)]
        total = r.bitcast(r.op("fadd", *(r.bitcast(v, "float") for v in words)), "i32")
        return _flushed(r, total) if flushes else total
    if ptx_type == "bf16":
        x, y = (r.bitcast(r.op("shl", r.cast("zext", v, "i32"), 16), "float") for v in (seen, its))
        if operation != "add":
            return _chosen(r, operation, x, y, seen, its)
        total = r.op("fadd", x, y)
        word = r.bitcast(total, "i32")
        odd = r.op("and", r.op("lshr", word, 16), 1)
        rounded = r.op("add", r.op("add", word, 0x7FFF), odd)
        nan = r.compare("fcmp uno", total, total)
        kept = r.select(nan, r.constant("i32", 0x7FFF0000), rounded)
        return r.cast("trunc", r.op("lshr", kept, 16), "i16")
    x, y = (_widened(r, v) for v in (seen, its))
    if operation != "add":
        return _chosen(r, operation, x, y, seen, its)
    total = r.op("fadd", x, y)
    if r.library.host.half_conversion:
        return r.bitcast(r.cast("fptrunc", total, "half"), "i16")
    text = r.call("narrow_half", "<32 x i16>", r.vector(total))
    return r.element(Value(text, "i16", 32), 0)


def _widened(r: Routine, half: Value) -> Value:
    """Bits of a binary16 as float."""
    if r.library.host.half_conversion:
        return r.cast("fpext", r.bitcast(half, "half"), "float")
    return r.element(Value(r.call("widen_half", "<32 x float>", r.vector(half)), "float", 32), 0)


def _chosen(r: Routine, operation: str, x: Value, y: Value, seen: Value, its: Value) -> Value:
    """The lesser or greater of two numbers; of a number and NaN the number; -0 is less than +0."""
    least = operation == "min"
    first = r.op("or", r.compare("fcmp olt" if least else "fcmp ogt", x, y), _is_nan(r, y))
    both = r.op("or" if least else "and", seen, its)
    return r.select(r.compare("fcmp oeq", x, y), both, r.select(first, seen, its))


def _is_nan(r: Routine, value: Value) -> Value:
    return r.compare("fcmp uno", value, value)


def _flushed(r: Routine, bits: Value) -> Value:
    """A float's bits, of a denormal those of zero with its sign."""
    denormal = r.compare("icmp eq", r.op("and", bits, 0x7F800000), 0)
    return r.select(denormal, r.op("and", bits, -0x80000000), bits)
