"""Loads, stores and copies of 32 lanes.

    load_<space>_<bits>(base, addresses, mask, old) -> <32 x i<bits>>, old where the mask is 0
    store_<space>_<bits>(base, addresses, values, mask)
    load_<space>_128(base, addresses, mask, out), store_<space>_128(base, addresses, in, mask):
        in memory as four planes, <32 x i32> each; a load leaves inactive lanes zero
    copy_<bytes>(base, to shared, from global, mask, source bytes): cp.async

space is "global" (64-bit host addresses; base is not used) or "shared" (32-bit offsets from base).
Addresses of neighbouring lanes are most often neighbours too: that is tried first.
"""

from __future__ import annotations

from collections.abc import Callable

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Text, Value

ADDRESS = {"global": "i64", "shared": "i32"}
ADDRESSES = {space: f"<{LANES} x {kind}>" for space, kind in ADDRESS.items()}


def place_of(r: Text, space: str, base: Value, address: Value) -> Value:
    """Addresses as pointers."""
    return r.pointer(address) if space == "global" else r.item("i8", base, address)


def in_a_row(r: Text, address: Value, mask: Value, nbytes: int) -> Value:
    """True if all active lanes lie one after another."""
    start = r.element(address, 0)
    expected = r.op("add", r.vector(start), r.iota(address.type, nbytes))
    strays = r.op("and", r.mask(r.compare("icmp ne", address, expected)), mask)
    return r.compare("icmp eq", strays, 0)


def in_runs(r: Text, address: Value, lanes: int, nbytes: int) -> Value:
    """Lanes that do not lie behind the first of every `lanes`, as a mask."""
    heads = r.shuffle(address, None, [lane // lanes * lanes for lane in range(LANES)])
    steps = r.numbers(address.type, (lane % lanes * nbytes for lane in range(LANES)))
    return r.mask(r.compare("icmp ne", address, r.op("add", heads, steps)))


@routine("load")
def load(r: Routine, space: str, bits: str) -> None:
    if bits == "128":
        return _load_wide(r, space)
    width = int(bits)
    base, address, mask, old = r.takes("ptr", ADDRESSES[space], "i32", f"<32 x i{bits}>")
    r.ret_if(r.compare("icmp eq", mask, 0), old)
    with r.when(in_a_row(r, address, mask, width // 8)):
        start = place_of(r, space, base, r.element(address, 0))
        r.ret_if(r.compare("icmp eq", mask, -1), r.load(f"i{bits}", LANES, start, 0, 1))
        r.ret(r.masked_load(start, r.lanes(mask), old))
    active = r.lanes(mask)
    if width >= 32:
        each = place_of(r, space, base, address)
        return r.ret(r.gather(f"i{bits}", each, active, old, 1))
    # CPUs gather words: take the aligned word around the value. It never crosses a page.
    each = place_of(r, space, base, r.op("and", address, -4))
    words = r.gather("i32", each, active, r.constant("i32", 0), 4)
    shift = r.op("shl", r.op("and", address, 3), 3)
    low = r.op("lshr", words, r.cast("trunc", shift, "i32"))
    return r.ret(r.select(active, r.cast("trunc", low, f"i{bits}"), old))


def _load_wide(r: Routine, space: str) -> None:
    base, address, mask, out = r.takes("ptr", ADDRESSES[space], "i32", "ptr")
    width = r.library.host.floats

    def load_from(place: Callable[[int], Value]) -> None:
        for first in range(0, LANES, width):
            rows = []
            for j in range(4):
                places = [place(lane) for lane in range(first + j, first + width, 4)]
                rows.append(r.joined([r.load("i32", 4, its, 0, 1) for its in places]))
            for i, plane in enumerate(_transposed(r, rows)):
                r.store(plane, out, 128 * i + 4 * first, 32)

    with r.when(r.compare("icmp eq", mask, -1)):
        its = r.spread(address)
        load_from(lambda lane: place_of(r, space, base, its(r.constant("i64", lane))))
        r.ret()
    zeros = r.room("<4 x i32>")
    r.store(Value("zeroinitializer", "i32", 4), zeros, 0, 16)
    places = r.room(f"[{LANES} x ptr]")
    r.store(r.select(r.lanes(mask), place_of(r, space, base, address), zeros), places, 0, 64)
    load_from(lambda lane: r.load("ptr", 1, places, 8 * lane, 8))


def _transposed(r: Routine, rows: list[Value]) -> list[Value]:
    """Element j of each four of row i becomes element i of those of row j."""

    def pairs(a: Value, b: Value, order: tuple[int, ...]) -> Value:
        n = a.n
        return r.shuffle(a, b, [q + i % 4 + i // 4 * n for q in range(0, n, 4) for i in order])

    low, high, first, second = (0, 4, 1, 5), (2, 6, 3, 7), (0, 1, 4, 5), (2, 3, 6, 7)
    found = []
    for half in (low, high):
        x, y = (pairs(rows[i], rows[i + 1], half) for i in (0, 2))
        found += [pairs(x, y, part) for part in (first, second)]
    return found


@routine("store")
def store(r: Routine, space: str, bits: str) -> None:
    """Swizzled tiles in shared memory are written in whole 16-byte chunks, in any order."""
    if bits == "128":
        return _store_wide(r, space)
    width, lanes = int(bits), 128 // int(bits)
    base, address, value, mask = r.takes("ptr", ADDRESSES[space], f"<32 x i{bits}>", "i32")
    r.ret_if(r.compare("icmp eq", mask, 0))
    strays = r.op("or", in_runs(r, address, lanes, width // 8), r.op("xor", mask, -1))
    with r.when(r.compare("icmp eq", strays, 0)):
        for head in range(0, LANES, lanes):
            chunk = r.shuffle(value, None, range(head, head + lanes))
            r.store(chunk, place_of(r, space, base, r.element(address, head)), 0, 1)
        r.ret()
    active = r.lanes(mask)
    with r.when(in_a_row(r, address, mask, width // 8)):
        start = place_of(r, space, base, r.element(address, 0))
        r.masked_store(value, start, active)
        r.ret()
    # Lane after lane: of lanes that store to one place the last wins.
    if width >= 32:
        return r.scatter(value, place_of(r, space, base, address), active, 1)
    addresses, values = r.spread(address), r.spread(value)
    with r.each_lane(mask) as (lane,):
        r.store(values(lane), place_of(r, space, base, addresses(lane)), 0, 1)
    return None


def _store_wide(r: Routine, space: str) -> None:
    base, address, source, mask = r.takes("ptr", ADDRESSES[space], "ptr", "i32")
    r.ret_if(r.compare("icmp eq", mask, 0))
    values = r.room(f"<{4 * LANES} x i32>")
    width = r.library.host.floats
    for first in range(0, LANES, width):
        planes = [r.load("i32", width, source, 128 * i + 4 * first, 32) for i in range(4)]
        for j, row in enumerate(_transposed(r, planes)):
            for q in range(0, width, 4):
                quad = r.shuffle(row, None, range(q, q + 4))
                r.store(quad, values, 16 * (first + q + j), 16)
    addresses = r.spread(address)

    def store_one(lane: Value) -> None:
        value = r.load("i32", 4, r.item("<4 x i32>", values, lane), 0, 16)
        r.store(value, place_of(r, space, base, addresses(lane)), 0, 1)

    with r.when(r.compare("icmp eq", mask, -1)):
        for number in range(LANES):
            store_one(r.constant("i64", number))
        r.ret()
    with r.each_lane(mask) as (lane,):
        store_one(lane)


@routine("copy")
def copy(r: Routine, nbytes: str) -> None:
    """cp.async: bytes beyond the source's are zeros in the destination."""
    base, to, source, mask, size = r.takes("ptr", VECTOR, ADDRESSES["global"], "i32", VECTOR)
    if nbytes != "16":
        bits = 8 * int(nbytes)
        some = r.compare("icmp ne", size, 0)
        parts = r.mask(r.compare("icmp ne", r.compare("icmp uge", size, int(nbytes)), some))
        with r.when(r.compare("icmp eq", parts, 0)):
            reads = r.op("and", r.mask(some), mask)
            zeros = f"<32 x i{bits}> zeroinitializer"
            name = f"load_global_{bits}"
            value = r.call(name, f"<32 x i{bits}>", "ptr null", source, reads, zeros)
            r.call(f"store_shared_{bits}", "void", base, to, Value(value, f"i{bits}", 32), mask)
            r.ret()
    _copy_lanes(r, int(nbytes), base, to, source, mask, size)


def _copy_lanes(
    r: Routine, nbytes: int, base: Value, to: Value, source: Value, mask: Value, size: Value
) -> None:
    """Copy lane after lane; a source shorter than nbytes is padded."""
    targets, sources, sizes = (r.spread(value) for value in (to, source, size))
    buffer = r.room(f"<{nbytes} x i8>")

    def places(lane: Value) -> tuple[Value, Value]:
        there = place_of(r, "shared", base, targets(lane))
        return there, place_of(r, "global", base, sources(lane))

    longer = r.mask(r.compare("icmp uge", size, nbytes))
    with r.when(r.compare("icmp eq", r.op("and", longer, mask), -1)):
        for number in range(LANES):
            there, here = places(r.constant("i32", number))
            r.store(r.load("i8", nbytes, here, 0, 1), there, 0, 1)
        r.ret()
    lanes = r.each_lane(mask)
    with lanes as (lane,):
        there, here = places(lane)
        length = sizes(lane)
        with r.when(r.compare("icmp uge", length, nbytes)):
            r.store(r.load("i8", nbytes, here, 0, 1), there, 0, 1)
            lanes.next()
        r.store(Value("zeroinitializer", "i8", nbytes), buffer, 0, 16)
        r.copy_bytes(buffer, here, r.cast("zext", length, "i64"))
        r.store(r.load("i8", nbytes, buffer, 0, 16), there, 0, 1)
