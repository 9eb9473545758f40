from __future__ import annotations

import math
from fractions import Fraction

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest

from ferrum_numba.emulator.host import Host
from tests.campaigns.operands import floats

from .harness import PLAIN, assert_same, elementwise

KINDS = {"f32": np.float32, "f64": np.float64}
_THIS = dict(llvm.get_host_cpu_features())
# This CPU's like with vectors of 256 bits, and without arithmetic of halves.
NARROW = Host.of(
    llvm.get_host_cpu_name(),
    {
        name: on and not name.startswith(("avx512", "avx10", "fullfp16"))
        for name, on in _THIS.items()
    },
    llvm.get_process_triple(),
)
HOSTS = pytest.mark.parametrize("host", [None, PLAIN], ids=["this", "plain"])
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's: overflow, invalid


@pytest.mark.parametrize("kind", KINDS)
@HOSTS
def test_arithmetic(kind: str, host: Host | None) -> None:
    dtype = KINDS[kind]
    x, y = floats(dtype), floats(dtype, seed=1)
    for name, expected in (("add", x + y), ("sub", x - y), ("mul", x * y), ("div", x / y)):
        found = elementwise(f"{name}.rn.{kind} %r, %a, %b;", x, y, result=dtype, host=host)
        assert_same(found, expected, x, y)
    found = elementwise(f"sqrt.rn.{kind} %r, %a;", x, result=dtype, host=host)
    assert_same(found, np.sqrt(x), x)
    found = elementwise(f"rcp.rn.{kind} %r, %a;", x, result=dtype, host=host)
    assert_same(found, dtype(1) / x, x)
    assert_same(elementwise(f"neg.{kind} %r, %a;", x, result=dtype, host=host), -x, x)
    assert_same(elementwise(f"abs.{kind} %r, %a;", x, result=dtype, host=host), abs(x), x)


@HOSTS
def test_fma_rounds_once(host: Host | None) -> None:
    x, y, z = (floats(np.float32, 512, seed) for seed in range(3))
    z[:128] = -(x[:128].astype(np.float64) * y[:128]).astype(np.float32)
    # Infinities and NaN; finite ones follow.
    expected = (x.astype(np.float64) * y + z).astype(np.float32)
    for i, row in enumerate(zip(x.tolist(), y.tolist(), z.tolist(), strict=True)):
        if all(map(math.isfinite, row)):
            a, b, c = map(Fraction, row)
            expected[i] = rounded_to_float(a * b + c) if a * b + c else expected[i]
    found = elementwise("fma.rn.f32 %r, %a, %b, %c;", x, y, z, result=np.float32, host=host)
    assert_same(found, expected, x, y, z)


def rounded_to_float(exact: Fraction) -> np.float32:
    """Nearest float, ties to even, of an exact number that is not zero."""
    size = abs(exact)
    exponent = max(size.numerator.bit_length() - size.denominator.bit_length(), -127)
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    result = round(size / unit) * unit
    bounded = float(result) if result < Fraction(2) ** 128 else math.inf
    return np.float32(math.copysign(bounded, exact))


@pytest.mark.parametrize("kind", KINDS)
def test_min_max(kind: str) -> None:
    dtype = KINDS[kind]
    x, y = floats(dtype), floats(dtype, seed=1)
    zeros = (x == 0) & (y == 0)
    for name, pick, pick_nan in (("min", np.fmin, np.minimum), ("max", np.fmax, np.maximum)):
        expected = pick(x, y)
        sign = np.logical_or if name == "min" else np.logical_and
        zero = np.where(sign(np.signbit(x), np.signbit(y)), dtype(-0.0), dtype(0.0))
        expected[zeros] = zero[zeros]
        assert_same(elementwise(f"{name}.{kind} %r, %a, %b;", x, y, result=dtype), expected, x, y)
        expected = pick_nan(x, y)
        expected[zeros] = zero[zeros]
        found = elementwise(f"{name}.NaN.{kind} %r, %a, %b;", x, y, result=dtype)
        assert_same(found, expected, x, y)


def test_flush_and_saturation() -> None:
    x, y = floats(np.float32), floats(np.float32, seed=1)

    def flush(v: np.ndarray) -> np.ndarray:
        return np.where(abs(v) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), v), v)

    found = elementwise("mul.ftz.f32 %r, %a, %b;", x, y, result=np.float32)
    assert_same(found, flush(flush(x) * flush(y)), x, y)
    found = elementwise("add.sat.f32 %r, %a, %b;", x, y, result=np.float32)
    total = x + y
    expected = np.where(total > 0, np.minimum(total, 1), np.float32(0)).astype(np.float32)
    assert_same(found, expected, x, y)


def test_comparisons_with_nan() -> None:
    x, y = floats(np.float32), floats(np.float32, seed=1)
    unordered = np.isnan(x) | np.isnan(y)
    relations = {"eq": x == y, "ne": (x != y) & ~unordered, "lt": x < y, "gt": x > y}
    relations |= {"equ": (x == y) | unordered, "neu": x != y, "leu": (x <= y) | unordered}
    relations |= {"num": ~unordered, "nan": unordered}
    for relation, expected in relations.items():
        body = f"setp.{relation}.f32 %p1, %a, %b; selp.b32 %r, 1, 0, %p1;"
        found = elementwise(body, x, y, result=np.uint32)
        assert_same(found, expected.astype(np.uint32), x, y)


@pytest.mark.parametrize(
    ("name", "function", "low", "high"),
    [
        ("ex2.approx.ftz.f32", np.exp2, -120, 120),
        ("lg2.approx.f32", np.log2, 1e-30, 1e30),
        ("sin.approx.f32", np.sin, -3, 3),
        ("cos.approx.f32", np.cos, -3, 3),
        ("tanh.approx.f32", np.tanh, -12, 12),
        ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x), 1e-30, 1e30),
        ("sqrt.approx.f32", np.sqrt, 0, 1e30),
        ("rcp.approx.f32", np.reciprocal, 0.1, 100),
    ],
)
def test_approximate_functions(name: str, function: np.ufunc, low: float, high: float) -> None:
    x = np.random.default_rng(0).uniform(low, high, 512).astype(np.float32)
    found = elementwise(f"{name} %r, %a;", x, result=np.float32)
    np.testing.assert_allclose(found, function(x.astype(np.float64)), rtol=3e-7, atol=1e-7)


def test_tanh_of_special_values() -> None:
    x = np.array([0.0, -0.0, 1e-38, -1e-20, 100, -100, np.inf, -np.inf, np.nan], np.float32)
    found = elementwise("tanh.approx.f32 %r, %a;", x, result=np.float32)
    np.testing.assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=1e-6, atol=1e-16)
    assert np.signbit(found[1])


@HOSTS
def test_half_arithmetic(host: Host | None) -> None:
    x, y, z = (floats(np.float16, 2048, seed) for seed in range(3))
    for name, expected in (("add.rn", x + y), ("sub", x - y), ("mul", x * y), ("neg", -x)):
        operands = "%a" if name == "neg" else "%a, %b"
        found = elementwise(f"{name}.f16 %r, {operands};", x, y, result=np.float16, host=host)
        assert_same(found, expected, x, y)
    found = elementwise("fma.rn.f16 %r, %a, %b, %c;", x, y, z, result=np.float16, host=host)
    exact = x.astype(np.longdouble) * y.astype(np.longdouble) + z.astype(np.longdouble)
    assert_same(found, exact.astype(np.float16), x, y, z)
    found = elementwise("max.f16 %r, %a, %b;", x, y, result=np.float16, host=host)
    usual = (x != 0) | (y != 0)
    assert_same(found[usual], np.fmax(x, y)[usual], x[usual], y[usual])
    found = elementwise("min.NaN.f16 %r, %a, %b;", x, y, result=np.float16, host=host)
    assert_same(found[usual], np.minimum(x, y)[usual], x[usual], y[usual])


@HOSTS
def test_pairs_of_halves(host: Host | None) -> None:
    x, y, z = (floats(np.float16, 2048, seed).view(np.uint32) for seed in range(3))
    a, b, c = (v.view(np.float16) for v in (x, y, z))
    for name, expected in (("add", a + b), ("sub.rn", a - b), ("mul", a * b), ("neg", -a)):
        operands = "%a" if name == "neg" else "%a, %b"
        found = elementwise(
            f"{name}.f16x2 %r, {operands};", x, y, result=np.uint32, view=np.float16, host=host
        )
        assert_same(found, expected, a, b)
    found = elementwise(
        "fma.rn.f16x2 %r, %a, %b, %c;", x, y, z, result=np.uint32, view=np.float16, host=host
    )
    exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
    assert_same(found, exact.astype(np.float16), a, b, c)
    found = elementwise(
        "fma.rn.relu.f16x2 %r, %a, %b, %c;", x, y, z, result=np.uint32, view=np.float16, host=host
    )
    relu = np.where(exact <= 0, 0, exact).astype(np.float16)
    relu[np.signbit(relu) & (relu == 0)] = 0
    assert_same(found, relu, a, b, c)
    constant = elementwise(
        "mul.f16x2 %r, %a, 0x3C004000;", x, result=np.uint32, view=np.float16, host=host
    )
    assert_same(constant, a * np.tile(np.array([2, 1], np.float16), len(x)), a)


@HOSTS
def test_fused_halves_beside_a_tie(host: Host | None) -> None:
    """Sums that are ties in binary32, but not exactly: just above or just below."""
    units = np.array([(1 + 2**-10, 1 - 2**-10), (1 + 2**-10, 1 + 2**-10), (1, 1)])
    signs = np.array([(1, 1), (-1, 1)])
    wide = 2.0 ** np.arange(-14, 5, 3)  # down to where z is denormal
    x, y, z = (
        part.ravel().astype(np.float16)
        for part in np.broadcast_arrays(
            signs[:, :1, None, None] * units[:, 0, None, None] / 64,
            signs[:, 1:, None, None] * units[:, 1, None, None] * wide[:, None] / 32,
            (1 + np.arange(6) * 2**-10) * wide[:, None],
        )
    )
    exact = x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)
    found = elementwise("fma.rn.f16 %r, %a, %b, %c;", x, y, z, result=np.float16, host=host)
    assert_same(found, exact.astype(np.float16), x, y, z)
    assert (found != (x.astype(np.float32) * y + z).astype(np.float16)).any()


@pytest.mark.parametrize("exponent", [-14, -4, 0, 15])
@HOSTS
def test_fused_halves_with_a_power_of_two(exponent: int, host: Host | None) -> None:
    x, z = (floats(np.float16, 2048, seed).view(np.uint32) for seed in (1, 2))
    a, c = (v.view(np.float16).astype(np.longdouble) for v in (x, z))
    (factor,) = np.array([2.0**exponent, 2.0**exponent], np.float16).view(np.uint32)
    ptx = f"mov.b32 %t9, {factor}; fma.rn.f16x2 %r, %a, %t9, %b;"
    found = elementwise(ptx, x, z, result=np.uint32, view=np.float16, host=host)
    with np.errstate(all="ignore"):
        assert_same(found, (a * 2.0**exponent + c).astype(np.float16))


_SCALED = {
    "add.f16x2 %t9, %a, %b; mul.f16x2 %r, %t9, %c;": 1,
    "sub.f16x2 %t9, %a, %b; mul.f16x2 %r, %c, %t9;": -1,
    "mov.b32 %t8, 0x2C002C00; fma.rn.f16x2 %t9, %a, %t8, %b; mul.f16x2 %r, %t9, %c;": 0,
}


@pytest.mark.parametrize("ptx", _SCALED)
@pytest.mark.parametrize("host", [None, PLAIN, NARROW], ids=["this", "plain", "narrow"])
def test_a_sum_of_halves_times_a_factor(ptx: str, host: Host | None) -> None:
    """Both are rounded: 4-bit weights are made so. With a lane a warp the two are apart."""
    words = [floats(np.float16, 4096, seed).view(np.uint32) for seed in range(3)]
    a, b, c = (word.view(np.float16) for word in words)
    exact = a.astype(np.longdouble)
    with np.errstate(all="ignore"):
        exact = (
            exact / 16 + b if _SCALED[ptx] == 0 else exact + _SCALED[ptx] * b.astype(exact.dtype)
        )
        expected = exact.astype(np.float16) * c
    given = {"result": np.uint32, "view": np.float16, "host": host}
    found = elementwise(ptx, *words, **given)
    assert_same(found, expected, a, b, c)
    assert (found.view(np.uint16)[np.isnan(found)] == 0x7FFF).all()


@pytest.mark.parametrize(
    "ptx",
    [
        "add.f16x2 %t9, %a, %b; xor.b32 %t7, %t9, 5; mul.f16x2 %r, %t9, %c; xor.b32 %r, %r, %t7;",
        "add.f16x2 %t9, %a, %b; mul.f16x2 %r, %t9, %c; xor.b32 %t9, %t9, 5; xor.b32 %r, %r, %t9;",
        "add.f16x2 %t9, %a, %b; mul.f16x2 %r, %t9, %c; mul.f16x2 %t9, %t9, %a; or.b32 %r, %r, %t9;",
        "add.f16x2 %t9, %a, %b; mul.f16x2 %r, %t9, %t9; xor.b32 %r, %r, 5;",
        "add.f16x2 %t9, %a, %b; mul.f16x2 %t9, %t9, %c; mul.f16x2 %r, %t9, %b;",
        """mov.u32 %t4, 0; add.f16x2 %t9, %a, %b; mul.f16x2 %r, %t9, %c;
        LOOP: xor.b32 %r, %r, %t9; add.u32 %t4, %t4, 1; add.u32 %r, %r, %t4;
        setp.lt.u32 %p1, %t4, 2; @%p1 bra LOOP;""",
    ],
)
def test_a_sum_of_halves_that_others_read(ptx: str) -> None:
    """As with a lane a warp, where no two instructions are one."""
    words = (floats(np.float16, 512, seed).view(np.uint32) for seed in range(3))
    assert elementwise(ptx, *words, result=np.uint32).any()


@HOSTS
def test_bfloat(host: Host | None) -> None:
    bits = [floats(np.float32, 2048, seed).view(np.uint32) >> 16 for seed in range(3)]
    x, y, z = (v.astype(np.uint16).view(ml_dtypes.bfloat16) for v in bits)
    a, b, _ = (v.astype(np.float64) for v in (x, y, z))
    for name, expected in (("add", a + b), ("mul", a * b), ("sub.rn", a - b)):
        ptx = f"{name}.bf16 %r, %a, %b;"
        found = elementwise(ptx, *(v.view(np.uint16) for v in (x, y)), result=np.uint16, host=host)
        assert_bfloat(found, expected, x, y)
    raw = [v.view(np.uint16) for v in (x, y, z)]
    found = elementwise("fma.rn.bf16 %r, %a, %b, %c;", *raw, result=np.uint16, host=host)
    with np.errstate(all="ignore"):
        wide = [v.astype(np.longdouble) for v in (x, y, z)]
        assert_bfloat(found, wide[0] * wide[1] + wide[2], x, y, z)


def assert_bfloat(found: np.ndarray, exact: np.ndarray, *context: np.ndarray) -> None:
    """Against exact values, rounded here to 8 bits, ties to even."""
    size = np.abs(exact)
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.frexp(np.where(np.isfinite(size), size, 1))[1] - 1, -126)
        unit = np.ldexp(np.ones_like(size), exponent - 7)
        rounded = np.where(np.isfinite(size), np.rint(size / unit) * unit, size)
        bits = np.copysign(rounded, exact).astype(np.float32).view(np.uint32)
    nan = np.isnan(exact)
    values = found.view(ml_dtypes.bfloat16)
    assert np.isnan(values[nan].astype(np.float32)).all()
    wrong = np.flatnonzero((found != bits >> 16) & ~nan)[:5]
    assert not len(wrong), (values[wrong], exact[wrong], [c[wrong] for c in context])


@pytest.mark.parametrize("kind", ["f32", "f16"])
@HOSTS
def test_min_max_of_magnitudes(kind: str, host: Host | None) -> None:
    """.xorsign.abs, by which Triton clamps on sm_90."""
    dtype = {"f32": np.float32, "f16": np.float16}[kind]
    x, y = floats(dtype), floats(dtype, seed=1)
    sign = np.signbit(x) != np.signbit(y)
    for name, pick in (("min", np.fmin), ("max", np.fmax), ("min.NaN", np.minimum)):
        ptx = f"{name}.xorsign.abs.{kind} %r, %a, %b;"
        size = pick(abs(x), abs(y))
        assert_same(
            elementwise(ptx, x, y, result=dtype, host=host), np.where(sign, -size, size), x, y
        )


def next_to(value: float, mode: str, exact: Fraction) -> float:
    """The nearest double, or its neighbour where `mode` asks for that."""
    if math.isinf(value):
        away = -math.inf if value > 0 else math.inf
        inward = mode == "rz" or (mode == "rm") == (value > 0)
        return math.nextafter(value, away) if inward else value
    if not exact:
        return value
    down = mode == "rm" or (mode == "rz" and exact > 0)
    if down and Fraction(value) > exact:
        return math.nextafter(value, -math.inf)
    return math.nextafter(value, math.inf) if not down and Fraction(value) < exact else value


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_sums_of_doubles(mode: str) -> None:
    x, y = floats(np.float64, 512), floats(np.float64, 512, seed=1)
    y[:64], x[64:96], y[64:96] = -x[:64], np.finfo(np.float64).max, 1e300
    for name, sign in (("add", 1), ("sub", -1)):
        expected = x + sign * y
        for i, (a, b) in enumerate(zip(x.tolist(), (sign * y).tolist(), strict=True)):
            if math.isfinite(a) and math.isfinite(b):
                expected[i] = next_to(expected[i], mode, Fraction(a) + Fraction(b))
                if mode == "rm" and expected[i] == 0 and (np.signbit(a) or np.signbit(b)):
                    expected[i] = -0.0
        found = elementwise(f"{name}.{mode}.f64 %r, %a, %b;", x, y, result=np.float64)
        assert_same(found, expected, x, y)


def test_set_of_halves() -> None:
    x, y = floats(np.float16), floats(np.float16, seed=1)
    y[::3] = x[::3]
    one = (x == y).astype(np.float16)
    assert_same(elementwise("set.eq.f16.f16 %r, %a, %b;", x, y, result=np.float16), one, x, y)
    ones = np.where(x <= y, 0xFFFF, 0).astype(np.uint16)
    assert_same(elementwise("set.le.u16.f16 %r, %a, %b;", x, y, result=np.uint16), ones, x, y)
    pairs = (v.view(np.uint32) for v in (x, y))
    found = elementwise("set.eq.f16x2.f16x2 %r, %a, %b;", *pairs, result=np.uint32, view=np.float16)
    assert_same(found, one, x, y)


@HOSTS
def test_one_constant_for_pairs_and_for_words(host: Host | None) -> None:
    """Pairs are vectors twice as long; what is the same in all of them is kept for each length."""
    x = (floats(np.float32, 512).view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)
    body = "add.bf16x2 %r, %a, %a; and.b32 %t5, %a, 1; add.u32 %t5, %t5, 1; xor.b32 %r, %r, %t5;"
    plain = elementwise("add.bf16x2 %r, %a, %a;", x, result=np.uint32, host=host)
    assert_same(elementwise(body, x, result=np.uint32, host=host), plain ^ ((x & 1) + 1), x)
