"""Matrix instructions of one warp.

    ldmatrix_<count>[_trans](base, addresses, out), stmatrix_<count>[_trans](base, addresses, in)
    prepare_a_<type>_<registers>[_held](out, registers…), prepare_b_<type>_<registers>[_held](…):
        the operands of one or more mma as numbers in the order in which mma wants them; _held: of
        registers at addresses
    mma_<float|int>_<elements>_<registers of B>_<count>(a, b0, c0, d0, b1, …):
        count products with the same A; `elements` of it lie in a register; C and D are 4 planes

Lane l = 4g + t of a warp holds: of C (16 x 8) the elements (g, 2t), (g, 2t+1), (g+8, 2t),
(g+8, 2t+1); of A (16 x k) and B (k x 8) E elements along k in each register, k = E (4j + t) + h
for element h of register pair j of A and of register j of B.  Source: PTX ISA, "Matrix Fragments
for mma.m16n8k16" and those of the other shapes, which all follow this rule.

Prepared A: planes [register][h] of 32 numbers, then an i32 that is 0 where all of A is zero.
Prepared B: [j][h][t][column & 1][column >> 1] numbers, then two i32: 0 where all of B is finite,
and 0 where its columns are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Value
from .access import place_of

# How many elements of a type lie in a 32-bit register.
ELEMENTS = {"f16": 2, "bf16": 2, "tf32": 1, "e4m3": 4, "e5m2": 4, "s8": 4, "u8": 4}
# In 32 bits of elements: those that say whether one is not zero; all that are set in NaN and
# infinity (of e4m3, which has no infinity, in NaN).
_MAGNITUDE = {"f16": 0x7FFF7FFF, "bf16": 0x7FFF7FFF, "tf32": 0x7FFFE000, "e4m3": 0x7F7F7F7F}
_MAGNITUDE |= {"e5m2": 0x7F7F7F7F, "s8": -1, "u8": -1}
_SPECIAL = {"f16": 0x7C00, "bf16": 0x7F80, "tf32": 0x7F800000, "e4m3": 0x7F, "e5m2": 0x7C}


def plane_bytes(kind: str, registers: int) -> int:
    """Size of prepared A or B without the flags that follow it."""
    return registers * ELEMENTS[kind] * 128


def number_type(kind: str) -> str:
    """Type in which the elements of a type are multiplied."""
    return "i32" if kind in ("s8", "u8") else "float"


@routine("ldmatrix")
def ldmatrix(r: Routine, count: str, trans: str = "") -> None:
    base, address, out = r.takes("ptr", VECTOR, "ptr")
    for m in range(int(count)):
        rows = [
            r.load("i16", 8, place_of(r, "shared", base, r.element(address, 8 * m + row)), 0, 1)
            for row in range(8)
        ]
        tile = r.joined(rows)
        if trans:
            order = [(2 * (lane % 4) + h) * 8 + lane // 4 for lane in range(LANES) for h in (0, 1)]
            tile = r.shuffle(tile, None, order)
        r.store(tile, out, 128 * m, 64)


@routine("stmatrix")
def stmatrix(r: Routine, count: str, trans: str = "") -> None:
    base, address, source = r.takes("ptr", VECTOR, "ptr")
    for m in range(int(count)):
        tile = r.load("i16", 64, source, 128 * m, 64)
        for row in range(8):
            order = list(range(8 * row, 8 * row + 8))
            if trans:  # lane 4g + t holds (2t, g) and (2t + 1, g)
                order = [(4 * g + row // 2) * 2 + row % 2 for g in range(8)]
            place = place_of(r, "shared", base, r.element(address, 8 * m + row))
            r.store(r.shuffle(tile, None, order), place, 0, 1)


@routine("prepare")
def prepare(r: Routine, operand: str, kind: str, registers: str, held: str = "") -> None:
    count, elements = int(registers), ELEMENTS[kind]
    out, *given = r.takes("ptr", *["ptr" if held else VECTOR] * count)
    if held:
        given = [r.load("i32", LANES, place, 0, 64) for place in given]
    flags = [_some(r, given, kind)]
    if operand == "b":
        flags = [_special(r, given, kind), _unlike(r, given)]
    # Of B, lane 4n + t holds column n: order by t, then odd columns after even ones.
    order = [4 * (2 * n + odd) + t for t in range(4) for odd in (0, 1) for n in range(4)]
    for i, register in enumerate(given):
        source = register if operand == "a" else r.shuffle(register, None, order)
        for h in range(elements):
            r.store(_number(r, source, kind, h), out, (elements * i + h) * 128, 64)
    for i, flag in enumerate(flags):
        r.store(flag, out, plane_bytes(kind, count) + 4 * i, 4)


def _number(r: Routine, source: Value, kind: str, h: int) -> Value:
    """Element h (0: the lowest) of each register, as a number."""
    if kind == "tf32":  # the multiplier does not look at the other 13 bits
        return r.bitcast(r.op("and", source, -8192), "float")
    if kind == "bf16":
        return r.bitcast(r.op("and", source, -65536) if h else r.op("shl", source, 16), "float")
    if kind in ("s8", "u8"):
        return r.op("ashr" if kind == "s8" else "lshr", r.op("shl", source, 24 - 8 * h), 24)
    bits = 32 // ELEMENTS[kind]
    part = r.cast("trunc", r.op("lshr", source, bits * h) if h else source, f"i{bits}")
    if kind == "f16" and r.library.host.half_conversion:
        return r.cast("fpext", r.bitcast(part, "half"), "float")
    name = "widen_half" if kind == "f16" else f"widen_{kind}"
    return Value(r.call(name, f"<{LANES} x float>", part), "float", LANES)


def _some(r: Routine, registers: Sequence[Value], kind: str) -> Value:
    """0 where all elements are zero."""
    every = reduce(lambda x, y: r.op("or", x, y), registers)
    return r.reduce("or", r.op("and", every, _MAGNITUDE[kind]))


def _special(r: Routine, registers: Sequence[Value], kind: str) -> Value:
    """0 where all elements are finite."""
    if kind not in _SPECIAL:
        return r.constant("i32", 0)
    n, special = LANES * ELEMENTS[kind], _SPECIAL[kind]
    found = []
    for register in registers:
        elements = r.split(register, f"i{32 // ELEMENTS[kind]}") if n > LANES else register
        bad = r.compare("icmp eq", r.op("and", elements, special), special)
        found.append(Value(r.emit(f"bitcast {bad} to i{n}"), f"i{n}"))
    every = reduce(lambda x, y: r.op("or", x, y), found)
    return r.cast("zext", r.compare("icmp ne", every, 0), "i32")


def _unlike(r: Routine, registers: Sequence[Value]) -> Value:
    """0 where the elements of all columns are those of the first."""
    first = [lane % 4 for lane in range(LANES)]
    found = (r.op("xor", register, r.shuffle(register, None, first)) for register in registers)
    return r.reduce("or", reduce(lambda x, y: r.op("or", x, y), found))


@routine("mma")
def mma(r: Routine, numbers: str, elements: str, registers: str, count: str) -> None:
    """D = C + A B for `count` triples of B, C and D, which may be C.

    Where A is all zero and the B's are finite nothing is multiplied: kernels pad their last rows
    so.  Adding +0 is what is left, for it turns -0 into +0.  Where all columns are alike, of C too,
    one is multiplied: kernels have a single row so, and read it in place of those beyond.
    """
    tiles, number = int(count), {"float": "float", "int": "i32"}[numbers]
    e, steps, width = int(elements), 4 * int(elements) * int(registers), r.library.host.floats
    a, *others = r.takes(*["ptr"] * (1 + 3 * tiles))
    bs, sources, targets = (others[i::3] for i in range(3))
    planes = [(tile, 128 * i) for tile in range(tiles) for i in range(4)]
    flags = [r.load("i32", 1, a, 64 * steps, 4)]
    flags += [r.load("i32", 1, b, 32 * steps, 4) for b in bs]
    some = reduce(lambda x, y: r.op("or", x, y), flags)
    with r.when(r.compare("icmp eq", some, 0)):
        for tile, place in planes:
            c = r.load(number, LANES, sources[tile], place, 64)
            c = c if number == "i32" else r.op("fadd", c, Value("0.0", "float"))
            r.store(c, targets[tile], place, 64)
        r.ret()
    if tiles == 1:
        unlike = r.load("i32", 1, bs[0], 32 * steps + 4, 4)
        with (
            r.when(r.compare("icmp eq", unlike, 0)),
            r.when(r.compare("icmp eq", _columns_unlike(r, sources[0]), 0)),
        ):
            _multiply_column(r, number, e, steps, a, bs[0], sources[0], targets[0])
            r.ret()
    # A register's width of lanes at a time, so that their sums stay in registers.
    part = r.loop(r.constant("i64", 0))
    with part as (start,):
        its_a, *its_others = (r.item("i8", place, start) for place in (a, *sources, *targets))
        its_sources, its_targets = its_others[:tiles], its_others[tiles:]
        sums = [r.load(number, width, its_sources[tile], at, 32) for tile, at in planes]
        for step in range(steps):
            j, h = divmod(step // 4, e)
            quad = [lane // 4 * 4 + step % 4 for lane in range(width)]
            halves = []
            for half in (0, 1):
                plane = r.load(number, width, its_a, ((2 * j + half) * e + h) * 128, 32)
                halves.append(r.shuffle(plane, None, quad))
            for n, b in enumerate(bs):
                for odd in (0, 1):
                    place = (((j * e + h) * 4 + step % 4) * 2 + odd) * 16
                    four = r.load(number, 4, b, place, 16)
                    column = r.shuffle(four, None, [lane % 4 for lane in range(width)])
                    for half in (0, 1):
                        i = 4 * n + 2 * half + odd
                        sums[i] = _accumulated(r, sums[i], halves[half], column)
        for (tile, at), value in zip(planes, sums, strict=True):
            r.store(value, its_targets[tile], at, 32)
        more = r.op("add", start, 4 * width)
        part.again_if(r.compare("icmp ult", more, 4 * LANES), more)


def _accumulated(r: Routine, c: Value, a: Value, b: Value) -> Value:
    if c.type == "i32":
        return r.op("add", c, r.op("mul", a, b))
    return r.intrinsic("llvm.fmuladd", a, b, c)


def _columns_unlike(r: Routine, c: Value) -> Value:
    """0 where the eight columns of C are alike, bit by bit."""
    n, found = r.library.host.floats, []
    first = [lane // 4 * 4 for lane in range(n)]
    for place in (256 * half + start for half in (0, 1) for start in range(0, 4 * LANES, 4 * n)):
        even, odd = (r.load("i32", n, c, place + at, 32) for at in (0, 128))
        found += [r.op("xor", even, odd), r.op("xor", even, r.shuffle(even, None, first))]
    return r.reduce("or", reduce(lambda x, y: r.op("or", x, y), found))


def _multiply_column(
    r: Routine, number: str, e: int, steps: int, a: Value, b: Value, source: Value, target: Value
) -> None:
    """All columns, which are alike: the first is computed, in the same order as else."""
    n = r.library.host.floats
    parts = [(half, start) for half in (0, 1) for start in range(0, 4 * LANES, 4 * n)]
    for four in (parts[i : i + 4] for i in range(0, len(parts), 4)):
        places = [256 * half + start for half, start in four]
        total = _turned(r, [r.load(number, n, source, place, 32) for place in places])[0]
        for jh in range(steps // 4):
            j, h = divmod(jh, e)
            its = [((2 * j + half) * e + h) * 128 + start for half, start in four]
            by_t = _turned(r, [r.load(number, n, a, place, 32) for place in its])
            for t, rows in enumerate(by_t):
                factor = r.vector(r.load(number, 1, b, (4 * jh + t) * 32, 4), n)
                total = _accumulated(r, total, rows, factor)
        for place, value in zip(places, _turned(r, [total] * 4), strict=True):
            for at in (0, 128):
                r.store(value, target, place + at, 32)


def _turned(r: Routine, rows: Sequence[Value]) -> list[Value]:
    """Lane t of all of four rows, for each four lanes: a transposition, its own inverse."""
    n = rows[0].n

    def mixed(x: Value, y: Value, order: Sequence[int]) -> Value:
        return r.shuffle(x, y, [4 * q + i % 4 + i // 4 * n for q in range(n // 4) for i in order])

    orders = (0, 4, 1, 5), (2, 6, 3, 7), (0, 1, 4, 5), (2, 3, 6, 7)
    pairs = [mixed(rows[i], rows[i + 1], order) for i in (0, 2) for order in orders[:2]]
    return [mixed(pairs[i], pairs[i + 2], order) for i in (0, 1) for order in orders[2:]]
