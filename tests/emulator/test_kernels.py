"""Triton's kernels of all kinds on every device; compile_test_kernels.py built them.

A model gets the arrays before the launch and returns what the last ones must be afterwards.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe

FOLDER = Path(__file__).parent / "data" / "kernels"
INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())
DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp32": np.float32,
    "fp64": np.float64,
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
TOLERANCES = {"fp16": 2e-3, "bf16": 1.6e-2, "fp32": 1e-5, "fp64": 1e-13}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's: overflow, invalid


@lru_cache(maxsize=1)
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def numbers(shape: int | tuple[int, ...], kind: str, scale: float = 1.0) -> np.ndarray:
    dtype = DTYPES[kind]
    if kind in ("i8", "i32", "i64"):
        return random().integers(-100, 101, shape).astype(dtype)
    return (random().standard_normal(shape) * scale).astype(dtype)


def launch(device: fe.Device, name: str, grid: tuple[int, ...], *arguments: Any) -> list[Any]:
    """Run a kernel; return its arrays as they are afterwards."""
    known = INDEX[name]
    text = (FOLDER / f"{name}.ptx").read_text()
    kernel = device.load_module(text).get_kernel(known["entry"])
    passed = [device.to_device(_bits(x)) if isinstance(x, np.ndarray) else x for x in arguments]
    config = fe.LaunchConfig(grid=grid, block=32 * known["warps"], shared_bytes=known["shared"])
    kernel.launch(config, *passed, None, None)  # two pointers to scratch that it does not use
    device.synchronize()
    return [
        np.asarray(device.to_host(p)).view(x.dtype) if isinstance(x, np.ndarray) else x
        for p, x in zip(passed, arguments, strict=True)
    ]


def _bits(x: np.ndarray) -> np.ndarray:
    """A copy, as integers where a device may not know the type."""
    return x.copy() if x.dtype.isbuiltin == 1 else x.view(f"u{x.itemsize}").copy()


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    wide = np.asarray(expected).astype(np.float64)
    finite = abs(wide[np.isfinite(wide)])
    scale = max(1.0, finite.max()) if finite.size else 1.0
    np.testing.assert_allclose(
        found.astype(np.float64), wide, rtol=tolerance, atol=tolerance * scale
    )


def names(prefix: str) -> list[str]:
    return [name for name in INDEX if name.startswith(prefix)]


GEMMS = {
    "fp16": ("fp16", "fp16", False),
    "bf16": ("bf16", "fp32", True),
    "tf32": ("fp32", "fp32", False),
    "i8": ("i8", "i32", True),
    "e4m3": ("e4m3", "fp32", True),
    "e5m2": ("e5m2", "fp32", True),
    "fp64": ("fp64", "fp64", False),
    "halfsum": ("fp16", "fp16", False),
    "scaled": ("fp16", "fp16", False),
    "splitk": ("fp16", "fp16", False),
}


@pytest.mark.parametrize("name", names("gemm_"))
def test_gemm(device: fe.Device, name: str) -> None:
    form = name.partition(".")[0].removeprefix("gemm_")
    element, result, transposed = GEMMS[form]
    M, N, K = 80, 48, 112
    a = numbers((M, K), element)
    b = numbers((N, K) if transposed else (K, N), element)
    c = np.zeros((M, N), DTYPES[result])
    columns = 16 if form == "fp64" else 32
    grid = (-(-M // 64), -(-N // columns), 2 if form == "splitk" else 1)
    *_, found, _, _, _ = launch(device, name, grid, a, b, c, M, N, K)
    x, y = a.astype(np.float64), b.astype(np.float64)
    exact = x @ (y.T if transposed else y) * (2 if form == "scaled" else 1)
    # tf32 has 10 bits of mantissa; tensor cores keep fewer bits of 8-bit products and of halves.
    loose = {"tf32": 2e-3, "e4m3": 1e-3, "e5m2": 1e-3, "halfsum": 6e-3, "splitk": 4e-3}
    assert_close(found, exact, loose.get(form, TOLERANCES.get(result, 0)))


def test_specialised_warps(device: fe.Device) -> None:
    """Warps that hand tiles to others through mbarriers, slot after slot."""
    M, N, K = 100, 48, 400
    a, b, c = numbers((M, K), "fp16"), numbers((N, K), "i8"), np.zeros((M, N), np.float32)
    found = launch(device, "specialised.sm_90a", (2, 2), a, b, c, M, N, K)[2]
    assert_close(found, a.astype(np.float64) @ b.T.astype(np.float64), 1e-5)


@pytest.mark.parametrize("name", names("attention"))
def test_attention(device: fe.Device, name: str) -> None:
    heads, n, d = 2, 100, 32
    q, k, v = (numbers((heads, n, d), "fp16") for _ in range(3))
    out, scale = np.zeros_like(q), np.float32(1 / math.sqrt(d))
    found = launch(device, name, (-(-n // 64), heads), q, k, v, out, scale, n)[3]
    scores = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1) * float(scale)
    scores[:, ~np.tri(n, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    assert_close(found, weights @ v.astype(np.float64), 2e-3)


def test_norms_and_softmax(device: fe.Device) -> None:
    x, w, b = numbers((3, 300), "fp16"), numbers(300, "fp16"), numbers(300, "fp16")
    wide = x.astype(np.float64)
    found = launch(device, "layer_norm_fp16.sm_80", (3,), x, w, b, np.zeros_like(x), 300, 1e-5)[3]
    spread = np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    expected = (wide - wide.mean(1, keepdims=True)) / spread * w.astype(float) + b.astype(float)
    assert_close(found, expected, 2e-3)
    found = launch(device, "softmax_fp16.sm_80", (3,), x, np.zeros_like(x), 300)[1]
    assert_close(found, np.exp(wide) / np.exp(wide).sum(1, keepdims=True), 2e-3)
    x, w = numbers((3, 600), "bf16"), numbers(600, "bf16")
    found = launch(device, "rms_norm_bf16.sm_80", (3,), x, w, np.zeros_like(x), 600, 1e-5)[2]
    wide = x.astype(np.float64)
    root = np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    assert_close(found, wide / root * w.astype(float), 1.6e-2)


@pytest.mark.parametrize("kind", ["fp32", "i64"])
def test_reductions_along_rows(device: fe.Device, kind: str) -> None:
    x = numbers((4, 120), kind)
    out, places = np.zeros((3, 4), x.dtype), np.zeros((2, 4), np.int32)
    found = launch(device, f"reduce_{kind}.sm_80", (1,), x, out, places, 120)
    padded = np.pad(x, ((0, 0), (0, 8)))
    assert_close(found[1], np.stack([x.sum(1), padded.max(1), padded.min(1)]), 1e-5)
    assert (found[2] == np.stack([padded.argmax(1), padded.argmin(1)])).all()


def test_reductions_of_bits(device: fe.Device) -> None:
    x = random().integers(-(2**31), 2**31, 200).astype(np.int32)
    found = launch(device, "reduce_bits_i32.sm_80", (1,), x, np.zeros(5, np.int32), 200)[1]
    folded = [np.bitwise_xor.reduce(x), np.bitwise_or.reduce(x)]
    assert found.tolist() == [x.sum(dtype=np.int32), x.max(), x.min(), *folded]


def test_scan_and_sort(device: fe.Device) -> None:
    x = numbers((2, 240), "fp32", 0.05)
    out = [np.zeros_like(x) for _ in range(3)]
    _, total, product, largest, _ = launch(device, "scan_fp32.sm_80", (2,), x, *out, 240)
    assert_close(total, np.cumsum(x, 1, dtype=float), 1e-5)
    assert_close(product, np.cumprod((1.0 + x)[:, ::-1], 1)[:, ::-1], 1e-4)
    assert (largest == np.maximum.accumulate(x, 1)).all()
    x = numbers((2, 64), "fp16")
    top = np.zeros((2, 8), np.float16)
    _, found, best = launch(device, "sort_fp16.sm_80", (1,), x, np.zeros_like(x), top)
    assert (found == np.sort(x, 1)).all()
    assert (best == np.sort(x, 1)[:, ::-1][:, :8]).all()


erf = np.vectorize(math.erf)
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda v: 0.5 * v * (1 + erf(v * 0.7071067811865476)),
    "gelu_tanh": lambda v: 0.5 * v * (1 + np.tanh(0.7978845608028654 * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1 + np.exp(-v)),
    "softplus": lambda v: np.log1p(np.exp(v)),
    "trigonometry": lambda v: (
        np.sin(v) + np.cos(v) + np.log(abs(v) + 1) + np.log2(abs(v) + 2) + np.exp2(v)
    ),
    "roots": lambda v: np.sqrt(abs(v)) + v / 3.1 + np.floor(v) + np.ceil(v) + v * v + v,
    "approximate": np.tanh,
    "power": lambda v: (abs(v) + 0.5) ** v + np.expm1(v) + np.rint(v) + np.arctan(v),
    "called": lambda v: v + np.repeat([2 * v[:128].sum() + 1, 2 * v[128:].sum() + 1], (128, 112)),
    "clamped": lambda v: np.clip(v, -1.5, 1.5) + np.minimum(v, 2.5),
}


@pytest.mark.parametrize("name", names("activation_"))
def test_activations(device: fe.Device, name: str) -> None:
    """Lanes take different ways: erf, tanh and pow branch, sin of large numbers loops."""
    x, kind = numbers(240, "fp32", 3), name.partition(".")[0].removeprefix("activation_")
    if kind == "trigonometry":
        # Beyond what a short reduction of the angle can do; all words of 2 / pi are needed.
        x[::5] *= np.float32(-10.0) ** np.arange(6, 30, dtype=np.float32).repeat(2)
    found = launch(device, name, (2,), x, np.zeros_like(x), 240)[1]
    expected = ACTIVATIONS[kind](x.astype(np.float64)).astype(np.float32)
    tolerance = 6e-4 if kind == "approximate" else 2e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def cut(x: np.ndarray, bits: int) -> np.ndarray:
    """Without what does not fit in so many bits after the first."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.trunc(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)


@pytest.mark.parametrize("name", names("convert_"))
def test_conversions(device: fe.Device, name: str) -> None:
    source, to, result = name.partition(".")[0].split("_")[1:4]
    types = {"fp8e4nv": "e4m3", "fp8e5": "e5m2", "int64": "i64"}
    to = types.get(to, to)
    x = numbers(500, source, 20)
    x[:4] = np.array([0.0, -0.0, 448, -17.5]).astype(x.dtype)
    found = launch(device, name, (1,), x, np.zeros(500, DTYPES[result]), 500)[1]
    if "rtz" in name:
        expected = cut(x, {"fp16": 10, "bf16": 7}[to])
    elif name == "convert_fp32_fp8e4nv_fp16.sm_89":  # Triton cuts to fp16 first here
        expected = cut(x, 10).astype(DTYPES[to]).astype(np.float64)
    elif (source, to) == ("fp16", "e5m2"):  # Triton rounds ties away from zero here
        upper = (x.view(np.uint16) & 0xFFFE) + np.uint16(0x80) & 0xFF00
        expected = upper.view(np.float16).astype(np.float64)
    else:
        expected = x.astype(np.float64).astype(DTYPES[to]).astype(np.float64)
    assert (found.astype(np.float64) == expected).all()


@pytest.mark.parametrize("kind", ["i32", "i64"])
def test_integers(device: fe.Device, kind: str) -> None:
    x, y = numbers(200, kind), numbers(200, kind)
    y[y == 0] = 3
    bits = 8 * x.itemsize
    mask = (1 << bits) - 1
    expected = []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        r = quotient + (a - b * quotient) * 3 + (a & b) - (a ^ b << 2) + (a >> 3) + abs(a)
        r += ((a & mask) * (b & mask) >> bits) + min(a, b) * max(a, 7)
        expected.append((r if a > b else ~r) & mask)
    found = launch(device, f"integers_{kind}.sm_80", (2,), x, y, np.zeros_like(x), 200)[2]
    assert found.view(f"u{x.itemsize}").tolist() == expected


def test_dropout(device: fe.Device) -> None:
    x = np.ones(4000, np.float32)
    found = launch(device, "dropout.sm_80", (32,), x, np.zeros_like(x), 5, 0.25, 4000)[1]
    assert set(found.tolist()) == {0.0, np.float32(1 / np.float32(0.75))}
    assert abs((found == 0).mean() - 0.25) < 0.03


def test_gathers(device: fe.Device) -> None:
    table, index = numbers((20, 300), "fp16"), random().integers(0, 20, 7)
    out = np.zeros((7, 300), np.float16)
    found = launch(device, "embedding.sm_80", (7,), table, index, out, 300)[2]
    assert (found == table[index]).all()
    x, index = numbers((16, 16), "fp16"), random().integers(0, 16, (16, 16)).astype(np.int32)
    out = np.zeros((2, 16, 16), np.float16)
    found = launch(device, "gather.sm_80", (1,), x, index, out)[2]
    assert (found[0] == np.take_along_axis(x, index, 0)).all()
    assert (found[1] == x.T[:, ::-1]).all()


def test_histogram_and_lock(device: fe.Device) -> None:
    x = random().integers(0, 64, 1000).astype(np.int32)
    empty = np.zeros(64, np.int32)
    found = launch(device, "histogram.sm_80", (8,), x, empty, empty, 1000)
    assert (found[1] == np.bincount(x, minlength=64)).all()
    assert (found[2] == found[1]).all()
    ones = np.ones(1000, np.float32)
    empty = np.zeros(1, np.float32)
    found = launch(device, "locked.sm_80", (8,), ones, empty, np.zeros(1, np.int32), 1000)
    assert found[1][0] == 1000
    assert found[2][0] == 0


UFUNCS = {
    "add": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.bitwise_and,
    "xor": np.bitwise_xor,
}


@pytest.mark.parametrize("name", names("atomic_"))
def test_atomics(device: fe.Device, name: str) -> None:
    operation, kind = name.partition(".")[0].split("_")[1:]
    x, out = numbers(200, kind), numbers(8, kind)
    if kind in ("fp16", "bf16"):  # sums that are exact in any order
        x, out = (v.astype(np.float32).round().astype(v.dtype) for v in (x, out))
    _, found, old, _ = launch(device, name, (2,), x, out, np.zeros_like(x), 200)
    slots = np.arange(200) % 8
    if operation == "xchg":  # of what was there and what was put there one is left
        for slot in range(8):
            there = [out[slot], *x[slots == slot]]
            assert sorted([found[slot], *old[slots == slot]]) == sorted(there)
        return
    wide = out.astype(np.float64) if kind in ("fp16", "bf16") else out.copy()
    UFUNCS[operation].at(wide, slots, x.astype(wide.dtype))
    assert_close(found, wide, 1e-6 if kind == "fp32" else 0)


def test_a_wait_by_the_clock_ends(device: fe.Device) -> None:
    x = numbers(128, "i32")
    (found, _) = launch(device, "wait_ns.sm_80", (3,), x.copy(), 2_000_000)
    assert (found >= x + 1).all()  # three CTAs, at the same elements


def test_what_a_kernel_prints(device: fe.Device, capfd: pytest.CaptureFixture[str]) -> None:
    x = numbers(128, "i32")
    (found, _) = launch(device, "prints.sm_80", (1, 1, 2), x.copy(), 100)
    assert (found[:100] > x[:100]).all()
    lines = [f"pid (0, 0, {z}) idx ({i:3}) v: " for z in range(2) for i in range(128)]
    ctypes.CDLL(None).fflush(None)  # a GPU's driver prints by way of C
    printed = capfd.readouterr().out.splitlines()
    assert sorted(line[: len(lines[0])] for line in printed) == sorted(lines)
    assert any(line.endswith(f" idx (  5) v: {x[5]}") for line in printed)


def test_a_checked_launch_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    device = fe.open_device("cpu", checks=("memory", "init", "race", "order"))
    launch(device, "prints.sm_80", (2,), numbers(128, "i32"), 0)
    assert len(capsys.readouterr().out.splitlines()) == 256


def test_an_assertion_that_fails(device: fe.Device) -> None:
    x = np.full(128, 99, np.int32)
    (found, _) = launch(device, "asserts.sm_80", (1,), x.copy(), 128)
    assert (found == 100).all()
    if device.name != "cpu":
        return  # a GPU's context is of no use to other tests after it
    x[[70, 75, 99]] = 100
    message = (
        r"CTA \(0, 0, 0\), warp 2, thread \(70, 0, 0\) and 1 more of its warp: "
        r"the assertion failed: v is too large, at launched\.py:\d+, in unknown"
    )
    with pytest.raises(fe.LaunchError, match=message):
        launch(device, "asserts.sm_80", (1,), x, 128)
