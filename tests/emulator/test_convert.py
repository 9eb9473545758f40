from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator.host import Host
from tests.campaigns.operands import floats, words

from .harness import PLAIN, assert_same, elementwise

HOSTS = pytest.mark.parametrize("host", [None, PLAIN], ids=["this", "plain"])
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)
INTEGERS = [f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64)]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's: overflow, invalid


def dtype_of(ptx_type: str) -> np.dtype:
    kinds = {"u": "u", "s": "i", "f": "f"}
    return np.dtype(f"{kinds[ptx_type[0]]}{int(ptx_type[1:]) // 8}")


@HOSTS
def test_every_half_to_float(host: Host | None) -> None:
    found = elementwise("cvt.f32.f16 %r, %a;", ALL_HALVES, result=np.float32, host=host)
    assert_same(found, ALL_HALVES.view(np.float16).astype(np.float32), ALL_HALVES)


@HOSTS
def test_floats_to_half(host: Host | None) -> None:
    halves = ALL_HALVES.view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2  # between neighbours: rounded to the even one
    near = np.concatenate([np.nextafter(ties, np.float32(s)) for s in (-np.inf, np.inf)])
    x = np.concatenate([ties, near, floats(np.float32, 1 << 14), halves]).astype(np.float32)
    found = elementwise("cvt.rn.f16.f32 %r, %a;", x, result=np.float16, host=host)
    assert_same(found, x.astype(np.float16), x)


@HOSTS
def test_pairs(host: Host | None) -> None:
    x, y = floats(np.float32), floats(np.float32, seed=1)
    found = elementwise("cvt.rn.f16x2.f32 %r, %a, %b;", x, y, result=np.uint32, host=host)
    assert_same((found >> 16).astype(np.uint16).view(np.float16), x.astype(np.float16), x)
    assert_same(found.astype(np.uint16).view(np.float16), y.astype(np.float16), y)
    found = elementwise("cvt.rn.bf16x2.f32 %r, %a, %b;", x, y, result=np.uint32, host=host)
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint32)
    expected[np.isnan(x)] = 0x7FFF
    assert_same(found >> 16, expected, x)


@HOSTS
def test_double_to_half_rounds_once(host: Host | None) -> None:
    halves = ALL_HALVES.view(np.float16).astype(np.float64)
    halves = halves[np.isfinite(halves)]
    ties = (halves[:-1] + halves[1:]) / 2
    x = np.concatenate([ties, np.nextafter(ties, -np.inf), np.nextafter(ties, np.inf)])
    found = elementwise("cvt.rn.f16.f64 %r, %a;", x, result=np.float16, host=host)
    assert_same(found, x.astype(np.float16), x)


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_floats(source: str) -> None:
    bits = int(source[1:])
    x = words(bits, signed=source[0] == "s")
    for to in ("f16", "f32", "f64"):
        found = elementwise(f"cvt.rn.{to}.{source} %r, %a;", x, result=dtype_of(to))
        assert_same(found, x.astype(dtype_of(to)), x)


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_integers(source: str) -> None:
    x = words(int(source[1:]), signed=source[0] == "s")
    for to in INTEGERS:
        found = elementwise(f"cvt.{to}.{source} %r, %a;", x, result=dtype_of(to))
        assert_same(found, x.astype(dtype_of(to)), x)
        found = elementwise(f"cvt.sat.{to}.{source} %r, %a;", x, result=dtype_of(to))
        info = np.iinfo(dtype_of(to))
        clamped = [max(info.min, min(info.max, v)) for v in x.tolist()]
        assert_same(found, np.array(clamped, dtype_of(to)), x)


def test_bytes() -> None:
    x = words(32)
    low = x.astype(np.uint8)
    found = elementwise("cvt.u32.u8 %r, %a;", x, result=np.uint32)
    assert_same(found, low.astype(np.uint32), x)
    found = elementwise("cvt.s32.s8 %r, %a;", x, result=np.int32)
    assert_same(found, low.view(np.int8).astype(np.int32), x)
    found = elementwise("cvt.s8.s32 %r, %a;", x, result=np.int32)
    assert_same(found, low.view(np.int8).astype(np.int32), x)


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_floats_to_integers(source: str, rounding: str) -> None:
    x = floats(dtype_of(source).type, 512)
    whole = ROUNDINGS[rounding](x.astype(np.float64))
    for to in INTEGERS:
        found = elementwise(f"cvt.{rounding}.{to}.{source} %r, %a;", x, result=dtype_of(to))
        info = np.iinfo(dtype_of(to))
        # Without NaN: 0, or where a type has 64 bits the number with the top bit alone.
        top = -(1 << 63) if to == "s64" else 1 << int(to[1:]) - 1
        top = -(1 << int(to[1:]) - 1) if to[0] == "s" else top
        odd = top if "64" in (to[1:], source[1:]) else 0
        expected = [odd if np.isnan(v) else _clamp(v, info.min, info.max) for v in whole]
        assert_same(found, np.array(expected, dtype_of(to)), x)
    found = elementwise(f"cvt.{rounding}.{source}.{source} %r, %a;", x, result=x.dtype)
    assert_same(found, ROUNDINGS[rounding](x), x)


def _clamp(value: float, low: int, high: int) -> int:
    if np.isinf(value):
        return high if value > 0 else low
    return max(low, min(high, int(value)))


def test_floats_to_floats() -> None:
    x = floats(np.float32)
    assert_same(elementwise("cvt.f64.f32 %r, %a;", x, result=np.float64), x.astype(np.float64), x)
    y = floats(np.float64)
    assert_same(elementwise("cvt.rn.f32.f64 %r, %a;", y, result=np.float32), y.astype(np.float32))
    found = elementwise("cvt.sat.f32.f32 %r, %a;", x, result=np.float32)
    assert_same(found, np.where(x > 0, np.minimum(x, 1), 0).astype(np.float32), x)
    bfloat = elementwise("cvt.f32.bf16 %r, %a;", ALL_HALVES, result=np.float32)
    assert_same(bfloat, (ALL_HALVES.astype(np.uint32) << 16).view(np.float32), ALL_HALVES)


def test_tf32() -> None:
    x = floats(np.float32)
    found = elementwise("cvt.rna.tf32.f32 %r, %a;", x, result=np.float32)
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)
    expected[~np.isfinite(x)] = x[~np.isfinite(x)]
    assert_same(found, expected, x)


@pytest.mark.parametrize("kind", ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"])
def test_pack(kind: str) -> None:
    bits, behind = int(kind[1:]), kind[1:] != "16"
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-(1 << bits), (1 << bits) + 1, 4096).astype(np.int32) for _ in range(2))
    a[:2], b[:2], c = (-(2**31), 2**31 - 1), (2**31 - 1, -1), rng.integers(0, 2**32, 4096, "u4")
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    ta, tb = (np.clip(x, low, high).astype(np.int64) & (1 << bits) - 1 for x in (a, b))
    expected = ta << bits | tb
    if behind:
        expected |= c.astype(np.int64) << 2 * bits & 0xFFFFFFFF
    opcode = f"cvt.pack.sat.{kind}.s32{'.b32' if behind else ''}"
    text = f"{opcode} %r, %a, %b{', %c' if behind else ''};"
    found = elementwise(text, a, b, *([c] if behind else []), result=np.uint32)
    np.testing.assert_array_equal(found, expected.astype(np.uint32))


@HOSTS
def test_nan_is_the_canonical_one(host: Host | None) -> None:
    nan = np.array([0x7E01, 0xFE00, 0x7C01, 0x3C00], np.uint16)
    one = np.full(4, 0x3C00, np.uint16)
    canonical = [0x7FFF] * 3
    for text in ("add.f16 %r, %a, %b;", "mul.f16 %r, %b, %a;", "fma.rn.f16 %r, %a, %b, %b;",
                 "fma.rn.relu.f16 %r, %a, %b, %b;", "max.NaN.f16 %r, %a, %b;",
                 "ex2.approx.f16 %r, %a;"):  # fmt: skip
        found = elementwise(text, nan, one, result=np.uint16, host=host)
        assert found[:3].tolist() == canonical, text
    floats_ = np.array([0x7FC00001, 0xFFC00000, 0x7F800001, 0xBF800000], np.uint32)
    for kind in ("f16", "bf16"):
        text = f"cvt.rn.relu.{kind}.f32 %r, %a;"
        found = elementwise(text, floats_.view(np.float32), result=np.uint16, host=host)
        assert found.tolist() == [*canonical, 0]
    bfloat = np.array([0x7FC1, 0xFFC0, 0x7F81, 0x3F80], np.uint16)
    ones = np.full(4, 0x3F80, np.uint16)
    found = elementwise("fma.rn.relu.bf16 %r, %a, %b, %b;", bfloat, ones, result="u2", host=host)
    assert found[:3].tolist() == canonical
