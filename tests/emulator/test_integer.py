from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.campaigns.operands import words

from .harness import assert_same, elementwise

TYPES = ["u16", "s16", "u32", "s32", "u64", "s64"]


def bits_of(ptx_type: str) -> int:
    return int(ptx_type[1:])


def limits(ptx_type: str) -> tuple[int, int]:
    bits = bits_of(ptx_type)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if ptx_type[0] == "s" else (0, (1 << bits) - 1)


def check(
    instruction: str, ptx_type: str, count: int, function: Callable[..., int], result: int = 0
) -> None:
    """Compare an instruction with a function of Python integers, element by element."""
    bits, signed = bits_of(ptx_type), ptx_type[0] == "s"
    inputs = [words(bits, seed=seed, signed=signed) for seed in range(count)]
    wide = result or bits
    found = elementwise(instruction, *inputs, result=f"u{wide // 8}")
    mask = (1 << wide) - 1
    rows = zip(*(x.tolist() for x in inputs), strict=True)
    expected = np.array([function(*row) & mask for row in rows], found.dtype)
    assert_same(found, expected, *inputs)


@pytest.mark.parametrize("ptx_type", TYPES)
def test_add_sub_mul(ptx_type: str) -> None:
    check(f"add.{ptx_type} %r, %a, %b;", ptx_type, 2, lambda a, b: a + b)
    check(f"sub.{ptx_type} %r, %a, %b;", ptx_type, 2, lambda a, b: a - b)
    check(f"mul.lo.{ptx_type} %r, %a, %b;", ptx_type, 2, lambda a, b: a * b)
    bits = bits_of(ptx_type)
    check(f"mul.hi.{ptx_type} %r, %a, %b;", ptx_type, 2, lambda a, b: a * b >> bits)
    check(f"mad.lo.{ptx_type} %r, %a, %b, %c;", ptx_type, 3, lambda a, b, c: a * b + c)
    check(f"mad.hi.{ptx_type} %r, %a, %b, %c;", ptx_type, 3, lambda a, b, c: (a * b >> bits) + c)


@pytest.mark.parametrize("ptx_type", ["u16", "s16", "u32", "s32"])
def test_wide(ptx_type: str) -> None:
    twice = 2 * bits_of(ptx_type)
    check(f"mul.wide.{ptx_type} %r, %a, %b;", ptx_type, 2, lambda a, b: a * b, twice)
    kind = f"{ptx_type[0]}{twice}"
    body = f".reg .b{twice} %w; cvt.{kind}.{ptx_type} %w, %c; mad.wide.{ptx_type} %r, %a, %b, %w;"
    check(body, ptx_type, 3, lambda a, b, c: a * b + c, twice)


def quotient(a: int, b: int) -> int:
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("ptx_type", TYPES)
def test_division(ptx_type: str) -> None:
    check(f"div.{ptx_type} %r, %a, %b;", ptx_type, 2, quotient)
    remainder = lambda a, b: a if b == 0 else a - b * quotient(a, b)  # noqa: E731
    check(f"rem.{ptx_type} %r, %a, %b;", ptx_type, 2, remainder)
    for divisor in (0, 1, 3, 8, -1, -7):
        if divisor >= 0 or ptx_type[0] == "s":
            text = f"div.{ptx_type} %r, %a, {divisor};"
            check(text, ptx_type, 1, lambda a, d=divisor: quotient(a, d))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1)), min_size=1))
def test_division_of_any_words(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, np.uint32).T.copy()
    assert_same(elementwise("div.u32 %r, %a, %b;", x, y, result=np.uint32), x // y, x, y)


@pytest.mark.parametrize("ptx_type", TYPES)
def test_min_max_sad(ptx_type: str) -> None:
    check(f"min.{ptx_type} %r, %a, %b;", ptx_type, 2, min)
    check(f"max.{ptx_type} %r, %a, %b;", ptx_type, 2, max)
    check(f"sad.{ptx_type} %r, %a, %b, %c;", ptx_type, 3, lambda a, b, c: abs(a - b) + c)
    if ptx_type[0] == "s":
        check(f"abs.{ptx_type} %r, %a;", ptx_type, 1, abs)
        check(f"neg.{ptx_type} %r, %a;", ptx_type, 1, lambda a: -a)


def test_saturation() -> None:
    low, high = limits("s32")
    clamp = lambda x: max(low, min(high, x))  # noqa: E731
    check("add.sat.s32 %r, %a, %b;", "s32", 2, lambda a, b: clamp(a + b))
    check("sub.sat.s32 %r, %a, %b;", "s32", 2, lambda a, b: clamp(a - b))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits: int) -> None:
    kind = f"u{bits}"
    check(f"and.b{bits} %r, %a, %b;", kind, 2, lambda a, b: a & b)
    check(f"or.b{bits} %r, %a, %b;", kind, 2, lambda a, b: a | b)
    check(f"xor.b{bits} %r, %a, %b;", kind, 2, lambda a, b: a ^ b)
    check(f"not.b{bits} %r, %a;", kind, 1, lambda a: ~a)
    check(f"cnot.b{bits} %r, %a;", kind, 1, lambda a: int(a == 0))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts(bits: int) -> None:
    amounts = words(32, seed=9)
    for kind in ("b", "u", "s"):
        x = words(bits, signed=kind == "s")
        left = [
            (v << min(n, 64)) & ((1 << bits) - 1)
            for v, n in zip(x.tolist(), amounts.tolist(), strict=True)
        ]
        right = [
            v >> min(n, 64) & ((1 << bits) - 1)
            for v, n in zip(x.tolist(), amounts.tolist(), strict=True)
        ]
        out = f"u{bits // 8}"
        if kind == "b":
            found = elementwise(f"shl.b{bits} %r, %a, %b;", x, amounts, result=out)
            assert_same(found, np.array(left, found.dtype), x, amounts)
        found = elementwise(f"shr.{kind}{bits} %r, %a, %b;", x, amounts, result=out)
        assert_same(found, np.array(right, found.dtype), x, amounts)
        for n in (0, 5, bits - 1, bits, 200):
            found = elementwise(f"shr.{kind}{bits} %r, %a, {n};", x, result=out)
            mask = (1 << bits) - 1
            assert_same(found, np.array([v >> n & mask for v in x.tolist()], found.dtype), x)


@pytest.mark.parametrize("table", [0x00, 0x80, 0xE8, 0x96, 0xCA, 0xF0, 0x17, 0xFF, 0x1E])
def test_lop3(table: int) -> None:
    def expected(a: int, b: int, c: int) -> int:
        bit = lambda i: table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1  # noqa: E731
        return sum(bit(i) << i for i in range(32))

    check(f"lop3.b32 %r, %a, %b, %c, {table};", "u32", 3, expected)


@pytest.mark.parametrize("direction", ["l", "r"])
@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shift(direction: str, mode: str) -> None:
    def expected(a: int, b: int, n: int) -> int:
        n = min(n, 32) if mode == "clamp" else n & 31
        wide = b << 32 | a
        return (wide << n) >> 32 if direction == "l" else wide >> n

    check(f"shf.{direction}.{mode}.b32 %r, %a, %b, %c;", "u32", 3, expected)


def extracted(value: int, position: int, length: int, ptx_type: str) -> int:
    """bfe as the PTX ISA writes it in pseudocode."""
    bits, signed = bits_of(ptx_type), ptx_type[0] == "s"
    most = bits - 1
    if bits == 32:  # the 64-bit forms take large ones as they are
        position, length = position & 255, length & 255
    sign = 0 if not signed or length == 0 else value >> min(position + length - 1, most) & 1
    result = 0
    for i in range(bits):
        inside = i < length and position + i <= most
        result |= (value >> min(position + i, most) & 1 if inside else sign) << i
    return result


@pytest.mark.parametrize("ptx_type", ["u32", "s32", "u64", "s64"])
def test_bfe(ptx_type: str) -> None:
    bits = bits_of(ptx_type)
    x, position, length = words(bits), words(32, seed=1), words(32, seed=2)
    rows = list(zip(x.tolist(), position.tolist(), length.tolist(), strict=True))
    found = elementwise(f"bfe.{ptx_type} %r, %a, %b, %c;", x, position, length, result=x.dtype)
    assert_same(
        found,
        np.array([extracted(*r, ptx_type) for r in rows], x.dtype),
        *map(np.array, (x, position, length)),
    )
    for p, n in [(4, 1), (6, 1), (0, bits), (bits - 4, 4), (bits - 4, 9), (3, 0), (bits, 3)]:
        found = elementwise(f"bfe.{ptx_type} %r, %a, {p}, {n};", x, result=x.dtype)
        assert_same(found, np.array([extracted(v, p, n, ptx_type) for v in x.tolist()], x.dtype), x)


@pytest.mark.parametrize("bits", [32, 64])
def test_bfi(bits: int) -> None:
    def expected(a: int, b: int, position: int, length: int) -> int:
        limit = 255 if bits == 32 else 0xFFFFFFFF
        for i in range(min(length & limit, 64)):
            place = (position & limit) + i
            if place < bits:
                b = b & ~(1 << place) | (a >> i & 1) << place
        return b

    x, y, position, length = words(bits), words(bits, seed=3), words(32, seed=1), words(32, seed=2)
    rows = zip(x.tolist(), y.tolist(), position.tolist(), length.tolist(), strict=True)
    found = elementwise(f"bfi.b{bits} %r, %a, %b, %c, %d;", x, y, position, length, result=x.dtype)
    assert_same(found, np.array([expected(*r) for r in rows], x.dtype), x, y, position, length)


@pytest.mark.parametrize("bits", [32, 64])
def test_counting(bits: int) -> None:
    kind = f"u{bits}"
    check(f"popc.b{bits} %r, %a;", kind, 1, lambda a: a.bit_count(), 32)
    check(f"clz.b{bits} %r, %a;", kind, 1, lambda a: bits - a.bit_length(), 32)
    check(f"brev.b{bits} %r, %a;", kind, 1, lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    check(f"bfind.u{bits} %r, %a;", kind, 1, lambda a: a.bit_length() - 1, 32)
    top = lambda a: (a if a >= 0 else ~a).bit_length() - 1  # noqa: E731
    check(f"bfind.s{bits} %r, %a;", f"s{bits}", 1, top, 32)
    shift = lambda a: -1 if a == 0 else bits - a.bit_length()  # noqa: E731
    check(f"bfind.shiftamt.u{bits} %r, %a;", kind, 1, shift, 32)


def permuted(a: int, b: int, selectors: int) -> int:
    wide, result = b << 32 | a, 0
    for i in range(4):
        selector = selectors >> 4 * i & 15
        byte = wide >> 8 * (selector & 7) & 255
        if selector & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << 8 * i
    return result


def test_prmt() -> None:
    check("prmt.b32 %r, %a, %b, %c;", "u32", 3, permuted)
    for selectors in (0x5410, 0x7632, 0x3210, 0x0123, 0x4444, 0xBA98, 0x7F2E):
        expected = lambda a, b, s=selectors: permuted(a, b, s)  # noqa: E731
        check(f"prmt.b32 %r, %a, %b, {selectors};", "u32", 2, expected)


def test_mul24() -> None:
    low = lambda a: a & 0xFFFFFF  # noqa: E731
    check("mul24.lo.u32 %r, %a, %b;", "u32", 2, lambda a, b: low(a) * low(b))


RELATIONS = {
    "eq": "__eq__",
    "ne": "__ne__",
    "lt": "__lt__",
    "le": "__le__",
    "gt": "__gt__",
    "ge": "__ge__",
}


@pytest.mark.parametrize("ptx_type", TYPES)
@pytest.mark.parametrize("relation", RELATIONS)
def test_setp(ptx_type: str, relation: str) -> None:
    body = f"setp.{relation}.{ptx_type} %p1|%p2, %a, %b; selp.b32 %r, 1, 0, %p1; @%p2 add.s32 %r, %r, 2;"  # noqa: E501
    expected = lambda a, b: 1 if getattr(a, RELATIONS[relation])(b) else 2  # noqa: E731
    check(body, ptx_type, 2, expected, 32)


def test_predicates() -> None:
    body = """setp.lt.s32 %p1, %a, %b; setp.gt.or.s32 %p2|%p3, %a, %c, !%p1;
    and.pred %p4, %p2, %p3; or.pred %p5, %p2, %p3; xor.pred %p6, %p1, %p2; not.pred %p7, %p6;
    mov.pred %p8, -1; mov.u32 %r, 0; @%p1 or.b32 %r, %r, 1; @%p2 or.b32 %r, %r, 2;
    @%p3 or.b32 %r, %r, 4; @%p4 or.b32 %r, %r, 8; @%p5 or.b32 %r, %r, 16;
    @!%p7 or.b32 %r, %r, 32; @%p8 or.b32 %r, %r, 64; set.lt.u32.s32 %t9, %a, %b;
    and.b32 %t9, %t9, 128; or.b32 %r, %r, %t9; slct.s32.s32 %t9, 256, 512, %a;
    or.b32 %r, %r, %t9;"""

    def expected(a: int, b: int, c: int) -> int:
        p1 = a < b
        p2, p3 = (a > c) or not p1, (not a > c) or not p1
        bits = [p1, p2, p3, p2 and p3, p2 or p3, p1 != p2, True, p1, a >= 0, a < 0]
        return sum(bool(bit) << i for i, bit in enumerate(bits))

    check(body, "s32", 3, expected)


def test_packing() -> None:
    body = "mov.b32 {%h1, %h2}, %a; mov.b32 {%h3, _}, %b; mov.b32 %t9, {%h2, %h3}; mov.b64 %r, {%t9, %b};"  # noqa: E501
    expected = lambda a, b: a >> 16 | (b & 0xFFFF) << 16 | b << 32  # noqa: E731
    check(body, "u32", 2, expected, 64)
