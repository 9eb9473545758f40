"""Kernels as libraries of Triton kernels have them, written anew; each with a case and its result.

`CASES` lists them: function, constants, arguments, grid, and what arrays become.
"""

from dataclasses import dataclass, field
from math import erf
from typing import Any

import ml_dtypes
import numpy as np
import triton
import triton.language as tl

RANDOM = np.random.default_rng(0)


@dataclass
class TritonCase:
    """One launch. expect: by the argument's name; capability, options: of the build.

    types: of arguments whose value does not tell it.
    """

    function: Any
    constants: dict[str, Any]
    arguments: dict[str, Any]
    grid: tuple[int, ...]
    expect: dict[str, np.ndarray]
    tolerance: float = 2e-5
    capability: int = 80
    options: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def signature(self) -> dict[str, str]:
        """Triton's type of each parameter, the constants among them."""
        of_values = {name: triton_type(value) for name, value in self.arguments.items()}
        names = self.function.arg_names
        return dict.fromkeys(names, "constexpr") | of_values | self.types


CASES: list[TritonCase] = []


def normal(*shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


def triton_type(value):
    """Triton's name for the type of an argument."""
    if not isinstance(value, np.ndarray):
        return "fp32" if isinstance(value, float) else "i32"
    name = value.dtype.name
    for ours, its in (("bfloat", "bf"), ("float", "fp"), ("uint", "u"), ("int", "i")):
        name = name.replace(ours, its)
    return f"*{name}"


def case(function, constants, arguments, grid, expect, **options):
    CASES.append(TritonCase(function, constants, arguments, grid, expect, **options))


# -- rows and elements


@triton.jit
def vector_add(x, y, out, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    there = at < n
    tl.store(out + at, tl.load(x + at, there) + tl.load(y + at, there), there)


X, Y = normal(1000), normal(1000)
case(
    vector_add,
    {"B": 256},
    {"x": X, "y": Y, "out": np.zeros_like(X), "n": 1000},
    (4,),
    {"out": X + Y},
)


@triton.jit
def gelu(x, out, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + at, at < n, other=0.0)
    tl.store(out + at, 0.5 * v * (1 + tl.erf(v * 0.7071067811865476)), at < n)


ERF = np.vectorize(erf)
case(
    gelu,
    {"B": 512},
    {"x": X, "out": np.zeros_like(X), "n": 1000},
    (2,),
    {"out": (0.5 * X * (1 + ERF(X / np.sqrt(2)))).astype(np.float32)},
)


@triton.jit
def swiglu(gate, up, out, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    g = tl.load(gate + at, at < n, other=0.0).to(tl.float32)
    u = tl.load(up + at, at < n, other=0.0).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(tl.float16), at < n)


G, U = normal(700, dtype=np.float16), normal(700, dtype=np.float16)
G32 = G.astype(np.float32)
case(
    swiglu,
    {"B": 256},
    {"gate": G, "up": U, "out": np.zeros_like(G), "n": 700},
    (3,),
    {"out": (G32 / (1 + np.exp(-G32)) * U.astype(np.float32)).astype(np.float16)},
    tolerance=2e-3,
)


@triton.jit
def row_softmax(x, out, stride, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * stride + at, at < n, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(out + row * stride + at, e / tl.sum(e, 0), at < n)


R = normal(7, 300)
E_ = np.exp(R - R.max(1, keepdims=True))
SOFTMAX = E_ / E_.sum(1, keepdims=True)
case(
    row_softmax,
    {"B": 512},
    {"x": R, "out": np.zeros_like(R), "stride": 300, "n": 300},
    (7,),
    {"out": SOFTMAX},
)


@triton.jit
def layer_norm(x, w, b, out, mean, rstd, n, eps, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=0.0)
    m = tl.sum(v, 0) / n
    d = tl.where(at < n, v - m, 0.0)
    r = 1 / tl.sqrt(tl.sum(d * d, 0) / n + eps)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)
    y = d * r * tl.load(w + at, at < n, other=0.0) + tl.load(b + at, at < n, other=0.0)
    tl.store(out + row * n + at, y, at < n)


W, BIAS = normal(300), normal(300)
MEAN, VAR = R.mean(1), R.var(1)
RSTD = 1 / np.sqrt(VAR + 1e-5)
case(
    layer_norm,
    {"B": 512},
    {
        "x": R,
        "w": W,
        "b": BIAS,
        "out": np.zeros_like(R),
        "mean": np.zeros(7, np.float32),
        "rstd": np.zeros(7, np.float32),
        "n": 300,
        "eps": 1e-5,
    },
    (7,),
    {"out": (R - MEAN[:, None]) * RSTD[:, None] * W + BIAS, "mean": MEAN, "rstd": RSTD},
)


@triton.jit
def layer_norm_backward(dy, x, w, mean, rstd, dx, dw, n, B: tl.constexpr):
    """dx by rows; dw by atomic additions of all rows."""
    row = tl.program_id(0)
    at = tl.arange(0, B)
    there = at < n
    g = tl.load(dy + row * n + at, there, other=0.0)
    v = tl.load(x + row * n + at, there, other=0.0)
    xhat = tl.where(there, (v - tl.load(mean + row)) * tl.load(rstd + row), 0.0)
    gw = g * tl.load(w + at, there, other=0.0)
    c1 = tl.sum(gw * xhat, 0) / n
    c2 = tl.sum(gw, 0) / n
    tl.store(dx + row * n + at, (gw - xhat * c1 - c2) * tl.load(rstd + row), there)
    tl.atomic_add(dw + at, g * xhat, there)


DY = normal(7, 300)
XHAT = (R - MEAN[:, None]) * RSTD[:, None]
GW = DY * W
DX = (GW - XHAT * (GW * XHAT).mean(1, keepdims=True) - GW.mean(1, keepdims=True)) * RSTD[:, None]
case(
    layer_norm_backward,
    {"B": 512},
    {
        "dy": DY,
        "x": R,
        "w": W,
        "mean": MEAN,
        "rstd": RSTD,
        "dx": np.zeros_like(R),
        "dw": np.zeros(300, np.float32),
        "n": 300,
    },
    (7,),
    {"dx": DX, "dw": (DY * XHAT).sum(0)},
    tolerance=1e-4,
)


@triton.jit
def rms_norm(x, w, out, n, eps, B: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((B,), tl.float32)
    for start in range(0, n, B):
        at = start + tl.arange(0, B)
        v = tl.load(x + row * n + at, at < n, other=0.0).to(tl.float32)
        total += v * v
    scale = tl.rsqrt(tl.sum(total, 0) / n + eps)
    for start in range(0, n, B):
        at = start + tl.arange(0, B)
        v = tl.load(x + row * n + at, at < n, other=0.0).to(tl.float32)
        y = v * scale * tl.load(w + at, at < n, other=0.0)
        tl.store(out + row * n + at, y.to(tl.bfloat16), at < n)


BF16 = ml_dtypes.bfloat16
RB = R.astype(BF16)
RB32 = RB.astype(np.float32)
case(
    rms_norm,
    {"B": 128},
    {"x": RB, "w": W, "out": np.zeros(R.shape, BF16), "n": 300, "eps": 1e-6},
    (7,),
    {"out": RB32 / np.sqrt((RB32**2).mean(1, keepdims=True) + 1e-6) * W},
    tolerance=8e-3,
)


@triton.jit
def cross_entropy(logits, targets, loss, stride, n, B: tl.constexpr):
    row = tl.program_id(0)
    top = -float("inf")
    total = 0.0
    for start in range(0, n, B):
        at = start + tl.arange(0, B)
        v = tl.load(logits + row * stride + at, at < n, other=-float("inf"))
        more = tl.maximum(top, tl.max(v, 0))
        total = total * tl.exp(top - more) + tl.sum(tl.exp(v - more), 0)
        top = more
    target = tl.load(targets + row)
    its = tl.load(logits + row * stride + target)
    tl.store(loss + row, tl.where(target < 0, 0.0, tl.log(total) + top - its))


T = RANDOM.integers(0, 300, 7).astype(np.int64)
LOSS = np.log(E_.sum(1)) + R.max(1) - R[np.arange(7), T]
case(
    cross_entropy,
    {"B": 128},
    {"logits": R, "targets": T, "loss": np.zeros(7, np.float32), "stride": 300, "n": 300},
    (7,),
    {"loss": LOSS},
)


@triton.jit
def rotary(x, cosines, sines, heads, D: tl.constexpr):
    """Turn halves of each head, in place."""
    token = tl.program_id(0)
    at = tl.arange(0, D // 2)
    c = tl.load(cosines + token * (D // 2) + at)
    s = tl.load(sines + token * (D // 2) + at)
    for head in range(heads):
        base = x + (token * heads + head) * D
        a = tl.load(base + at)
        b = tl.load(base + D // 2 + at)
        tl.store(base + at, a * c - b * s)
        tl.store(base + D // 2 + at, b * c + a * s)


Q = normal(5, 3, 64)
ANGLE = normal(5, 32)
COS, SIN = np.cos(ANGLE), np.sin(ANGLE)
TURNED = np.concatenate(
    [
        Q[..., :32] * COS[:, None] - Q[..., 32:] * SIN[:, None],
        Q[..., 32:] * COS[:, None] + Q[..., :32] * SIN[:, None],
    ],
    -1,
)
case(
    rotary,
    {"D": 64},
    {"x": Q.copy(), "cosines": COS, "sines": SIN, "heads": 3},
    (5,),
    {"x": TURNED},
    options={"num_warps": 1},
)


@triton.jit
def dropout(x, out, n, p, seed, B: tl.constexpr):
    """Dropout: the kept elements, which are not known here, are scaled."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    keep = tl.rand(seed, at) > p
    v = tl.load(x + at, at < n, other=0.0)
    tl.store(out + at, tl.where(keep, v / (1 - p), 0.0), at < n)


def philox_uniform(seed, offsets):
    """tl.rand: Philox 4x32-10, the first word as a number in [0, 1)."""
    c = [offsets.astype(np.uint64), *(np.zeros(len(offsets), np.uint64) for _ in range(3))]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            b & mask,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            a & mask,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    x = c[0].astype(np.uint32).view(np.int32)
    x = np.where(x < 0, -x.astype(np.int64) - 1, x)
    return x * np.float32(4.6566127342e-10)


KEPT = philox_uniform(1234, np.arange(1000)) > 0.3
case(
    dropout,
    {"B": 256},
    {"x": X, "out": np.zeros_like(X), "n": 1000, "p": 0.3, "seed": 1234},
    (4,),
    {"out": np.where(KEPT, X / np.float32(0.7), 0).astype(np.float32)},
    types={"seed": "i64"},
)


@triton.jit
def adamw(p, g, m, v, lr, beta1, beta2, eps, decay, step1, step2, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    there = at < n
    grad = tl.load(g + at, there, other=0.0)
    first = beta1 * tl.load(m + at, there, other=0.0) + (1 - beta1) * grad
    second = beta2 * tl.load(v + at, there, other=0.0) + (1 - beta2) * grad * grad
    w = tl.load(p + at, there, other=0.0) * (1 - lr * decay)
    w -= lr * (first / step1) / (tl.sqrt(second / step2) + eps)
    tl.store(p + at, w, there)
    tl.store(m + at, first, there)
    tl.store(v + at, second, there)


M1, V1 = normal(1000), np.abs(normal(1000))
FIRST, SECOND = 0.9 * M1 + 0.1 * Y, 0.99 * V1 + 0.01 * Y * Y
case(
    adamw,
    {"B": 256},
    {
        "p": X.copy(),
        "g": Y,
        "m": M1.copy(),
        "v": V1.copy(),
        "lr": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "eps": 1e-8,
        "decay": 0.01,
        "step1": 0.1,
        "step2": 0.01,
        "n": 1000,
    },
    (4,),
    {
        "p": X * (1 - 0.001) - 0.1 * (FIRST / 0.1) / (np.sqrt(SECOND / 0.01) + 1e-8),
        "m": FIRST,
        "v": SECOND,
    },
    tolerance=1e-4,
)


@triton.jit
def quantise_rows(x, q, scales, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=0.0)
    scale = tl.max(tl.abs(v), 0) / 127
    r = v / scale
    r = tl.where(r >= 0, tl.floor(r + 0.5), tl.ceil(r - 0.5))
    tl.store(q + row * n + at, r.to(tl.int8), at < n)
    tl.store(scales + row, scale)


SCALE = (np.abs(R).max(1) / np.float32(127)).astype(np.float32)
RATIO = R / SCALE[:, None]
case(
    quantise_rows,
    {"B": 512},
    {"x": R, "q": np.zeros(R.shape, np.int8), "scales": np.zeros(7, np.float32), "n": 300},
    (7,),
    {
        "q": np.where(RATIO >= 0, np.floor(RATIO + 0.5), np.ceil(RATIO - 0.5)).astype(np.int8),
        "scales": SCALE,
    },
)


# -- reductions, scans, sorting


@triton.jit
def argmax_rows(x, index, value, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=-float("inf"))
    top, where = tl.max(v, 0, return_indices=True)
    tl.store(index + row, where)
    tl.store(value + row, top)


case(
    argmax_rows,
    {"B": 512},
    {"x": R, "index": np.zeros(7, np.int32), "value": np.zeros(7, np.float32), "n": 300},
    (7,),
    {"index": R.argmax(1).astype(np.int32), "value": R.max(1)},
)


@triton.jit
def cumulative_sum(x, out, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=0.0)
    tl.store(out + row * n + at, tl.cumsum(v, 0), at < n)


case(
    cumulative_sum,
    {"B": 512},
    {"x": R, "out": np.zeros_like(R), "n": 300},
    (7,),
    {"out": R.cumsum(1)},
    tolerance=1e-4,
)


@triton.jit
def _join(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def linear_recurrence(a, b, out, n, B: tl.constexpr):
    """h[t] = a[t] * h[t - 1] + b[t], as state-space models have it."""
    row = tl.program_id(0)
    at = tl.arange(0, B)
    decay = tl.load(a + row * n + at, at < n, other=1.0)
    value = tl.load(b + row * n + at, at < n, other=0.0)
    _, h = tl.associative_scan((decay, value), 0, _join)
    tl.store(out + row * n + at, h, at < n)


DECAY = RANDOM.uniform(0.5, 1, (7, 300)).astype(np.float32)
H = np.zeros((7, 301), np.float32)
for _t in range(300):
    H[:, _t + 1] = DECAY[:, _t] * H[:, _t] + R[:, _t]
case(
    linear_recurrence,
    {"B": 512},
    {"a": DECAY, "b": R, "out": np.zeros_like(R), "n": 300},
    (7,),
    {"out": H[:, 1:]},
    tolerance=1e-4,
)


@triton.jit
def sort_rows(x, out, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    tl.store(out + row * B + at, tl.sort(tl.load(x + row * B + at), descending=True))


S = normal(3, 128)
case(
    sort_rows,
    {"B": 128},
    {"x": S, "out": np.zeros_like(S)},
    (3,),
    {"out": -np.sort(-S, 1)},
    tolerance=0,
)


@triton.jit
def histogram(x, out, n, B: tl.constexpr, BINS: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + at, at < n, other=0)
    counts = tl.histogram(v, BINS, at < n)
    tl.atomic_add(out + tl.arange(0, BINS), counts)


KEYS = RANDOM.integers(0, 32, 1000).astype(np.int32)
case(
    histogram,
    {"B": 256, "BINS": 32},
    {"x": KEYS, "out": np.zeros(32, np.int32), "n": 1000},
    (4,),
    {"out": np.bincount(KEYS, minlength=32).astype(np.int32)},
    tolerance=0,
)


@triton.jit
def _merge(mean1, m1, n1, mean2, m2, n2):
    d = mean2 - mean1
    n = n1 + n2
    share = tl.where(n == 0, 0.0, n2 / n)
    return mean1 + d * share, m1 + m2 + d * d * n1 * share, n


@triton.jit
def welford(x, mean, variance, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=0.0)
    count = (at < n).to(tl.float32)
    m, s, c = tl.reduce((v, tl.zeros_like(v), count), 0, _merge)
    tl.store(mean + row, m)
    tl.store(variance + row, s / c)


case(
    welford,
    {"B": 512},
    {"x": R, "mean": np.zeros(7, np.float32), "variance": np.zeros(7, np.float32), "n": 300},
    (7,),
    {"mean": MEAN, "variance": VAR},
    tolerance=1e-4,
)


# -- moving


@triton.jit
def transpose(x, out, M, N, B: tl.constexpr):
    rows = tl.program_id(0) * B + tl.arange(0, B)
    columns = tl.program_id(1) * B + tl.arange(0, B)
    there = (rows[:, None] < M) & (columns[None, :] < N)
    v = tl.load(x + rows[:, None] * N + columns[None, :], there)
    tl.store(out + columns[:, None] * M + rows[None, :], tl.trans(v), tl.trans(there))


P = normal(70, 50)
case(
    transpose,
    {"B": 32},
    {"x": P, "out": np.zeros((50, 70), np.float32), "M": 70, "N": 50},
    (3, 2),
    {"out": P.T.copy()},
    tolerance=0,
)


@triton.jit
def gather_rows(table, ids, out, n, B: tl.constexpr):
    row = tl.program_id(0)
    source = tl.load(ids + row)
    at = tl.arange(0, B)
    tl.store(out + row * n + at, tl.load(table + source * n + at, at < n), at < n)


IDS = RANDOM.integers(0, 70, 9).astype(np.int64)
case(
    gather_rows,
    {"B": 64},
    {"table": P, "ids": IDS, "out": np.zeros((9, 50), np.float32), "n": 50},
    (9,),
    {"out": P[IDS]},
    tolerance=0,
)


@triton.jit
def scatter_add(x, ids, out, n, B: tl.constexpr):
    row = tl.program_id(0)
    to = tl.load(ids + row)
    at = tl.arange(0, B)
    tl.atomic_add(
        out + to * n + at, tl.load(x + row * n + at, at < n, other=0.0), at < n, sem="relaxed"
    )


ADDED = np.zeros((4, 50), np.float32)
ROWS = RANDOM.integers(0, 4, 70).astype(np.int32)
np.add.at(ADDED, ROWS, P)
case(
    scatter_add,
    {"B": 64},
    {"x": P, "ids": ROWS, "out": np.zeros((4, 50), np.float32), "n": 50},
    (70,),
    {"out": ADDED},
    tolerance=1e-4,
)


@triton.jit
def causal_conv(x, w, out, n, B: tl.constexpr, WIDTH: tl.constexpr):
    channel = tl.program_id(0)
    at = tl.program_id(1) * B + tl.arange(0, B)
    total = tl.zeros((B,), tl.float32)
    for i in tl.static_range(WIDTH):
        back = at - (WIDTH - 1 - i)
        v = tl.load(x + channel * n + back, (back >= 0) & (at < n), other=0.0)
        total += v * tl.load(w + channel * WIDTH + i)
    tl.store(out + channel * n + at, total * tl.sigmoid(total), at < n)


KERNEL = normal(7, 4)
PADDED = np.pad(R, ((0, 0), (3, 0)))
CONV = sum(PADDED[:, i : i + 300] * KERNEL[:, i : i + 1] for i in range(4))
case(
    causal_conv,
    {"B": 128, "WIDTH": 4},
    {"x": R, "w": KERNEL, "out": np.zeros_like(R), "n": 300},
    (7, 3),
    {"out": CONV / (1 + np.exp(-CONV))},
)


@triton.jit
def unpack_int4(words, scales, out, n, B: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, B)
    word = tl.load(words + row * (n // 8) + at // 8, at < n, other=0)
    nibble = (word >> ((at % 8) * 4)) & 15
    tl.store(
        out + row * n + at,
        ((nibble - 8).to(tl.float32) * tl.load(scales + row)).to(tl.float16),
        at < n,
    )


NIBBLES = RANDOM.integers(0, 16, (6, 64)).astype(np.uint32)
PACKED = (NIBBLES.reshape(6, 8, 8) << (4 * np.arange(8, dtype=np.uint32))).sum(-1).astype(np.uint32)
SC = np.abs(normal(6))
case(
    unpack_int4,
    {"B": 64},
    {"words": PACKED.view(np.int32), "scales": SC, "out": np.zeros((6, 64), np.float16), "n": 64},
    (6,),
    {"out": ((NIBBLES.astype(np.int32) - 8) * SC[:, None]).astype(np.float16)},
    tolerance=1e-3,
)


@triton.jit
def cast_fp8(x, out, back, n, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + at, at < n, other=0.0).to(tl.float8e4nv)
    tl.store(out + at, v.to(tl.int8, bitcast=True), at < n)
    tl.store(back + at, v.to(tl.float16), at < n)


F8 = X.astype(ml_dtypes.float8_e4m3fn)
case(
    cast_fp8,
    {"B": 256},
    {"x": X, "out": np.zeros(1000, np.int8), "back": np.zeros(1000, np.float16), "n": 1000},
    (4,),
    {"out": F8.view(np.int8), "back": F8.astype(np.float16)},
    tolerance=0,
    capability=90,
)


# -- products


@triton.jit
def matmul(
    a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr
):
    pid = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    first = pid // (GROUP * tiles_n) * GROUP
    size = min(tiles_m - first, GROUP)
    pm = first + pid % (GROUP * tiles_n) % size
    pn = pid % (GROUP * tiles_n) // size
    rm = pm * BM + tl.arange(0, BM)
    rn = pn * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        rk = k + tl.arange(0, BK)
        x = tl.load(a + rm[:, None] * K + rk, (rm[:, None] < M) & (rk < K), other=0.0)
        y = tl.load(b + rk[:, None] * N + rn, (rk[:, None] < K) & (rn < N), other=0.0)
        total = tl.dot(x, y, total)
    tl.store(c + rm[:, None] * N + rn, total.to(c.dtype.element_ty), (rm[:, None] < M) & (rn < N))


A16, B16 = normal(100, 96, dtype=np.float16), normal(96, 72, dtype=np.float16)
PRODUCT = A16.astype(np.float32) @ B16.astype(np.float32)
TILE = {"BM": 32, "BN": 32, "BK": 32, "GROUP": 2}
for _capability in (75, 80, 89, 90):
    case(
        matmul,
        TILE if _capability != 90 else TILE | {"BM": 64},
        {"a": A16, "b": B16, "c": np.zeros((100, 72), np.float16), "M": 100, "N": 72, "K": 96},
        (12 if _capability != 90 else 6,),
        {"c": PRODUCT},
        tolerance=4e-3,
        capability=_capability,
    )
A8, B8 = (RANDOM.integers(-100, 100, s).astype(np.int8) for s in ((64, 64), (64, 64)))


@triton.jit
def matmul_int8(a, b, c, B: tl.constexpr):
    r, k = tl.arange(0, B), tl.arange(0, B)
    x = tl.load(a + r[:, None] * B + k)
    y = tl.load(b + k[:, None] * B + r)
    tl.store(c + r[:, None] * B + r, tl.dot(x, y))


case(
    matmul_int8,
    {"B": 64},
    {"a": A8, "b": B8, "c": np.zeros((64, 64), np.int32)},
    (1,),
    {"c": A8.astype(np.int32) @ B8.astype(np.int32)},
    tolerance=0,
)


@triton.jit
def matmul_tf32(a, b, c, B: tl.constexpr):
    r, k = tl.arange(0, B), tl.arange(0, B)
    x = tl.load(a + r[:, None] * B + k)
    y = tl.load(b + k[:, None] * B + r)
    tl.store(c + r[:, None] * B + r, tl.dot(x, y, input_precision="tf32x3"))


AF, BF = normal(32, 32), normal(32, 32)
case(
    matmul_tf32,
    {"B": 32},
    {"a": AF, "b": BF, "c": np.zeros((32, 32), np.float32)},
    (1,),
    {"c": AF @ BF},
    tolerance=1e-4,
)


@triton.jit
def split_k(
    a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr
):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(tl.program_id(2) * BK, K, BK * SPLIT):
        rk = k + tl.arange(0, BK)
        x = tl.load(a + rm[:, None] * K + rk, rm[:, None] < M, other=0.0)
        y = tl.load(b + rk[:, None] * N + rn, rn < N, other=0.0)
        total = tl.dot(x, y, total)
    tl.atomic_add(c + rm[:, None] * N + rn, total, (rm[:, None] < M) & (rn < N), sem="relaxed")


case(
    split_k,
    {"BM": 32, "BN": 32, "BK": 32, "SPLIT": 3},
    {"a": A16, "b": B16, "c": np.zeros((100, 72), np.float32), "M": 100, "N": 72, "K": 96},
    (4, 3, 3),
    {"c": PRODUCT},
    tolerance=1e-3,
)


@triton.jit
def split_k_locked(a, b, c, parts, locks, N, K, B: tl.constexpr, SPLIT: tl.constexpr):
    """The last to arrive at a tile adds up what the others have left in `parts`."""
    rm, rn = tl.arange(0, B), tl.program_id(0) * B + tl.arange(0, B)
    which = tl.program_id(1)
    total = tl.zeros((B, B), tl.float32)
    for k in range(which * B, K, B * SPLIT):
        rk = k + tl.arange(0, B)
        total = tl.dot(tl.load(a + rm[:, None] * K + rk), tl.load(b + rk[:, None] * N + rn), total)
    flat = tl.arange(0, B)[:, None] * B + tl.arange(0, B)
    tl.store(parts + (tl.program_id(0) * SPLIT + which) * B * B + flat, total)
    tl.debug_barrier()
    if tl.atomic_add(locks + tl.program_id(0), 1, sem="acq_rel") == SPLIT - 1:
        tl.debug_barrier()
        added = tl.zeros((B, B), tl.float32)
        for i in range(SPLIT):
            added += tl.load(
                parts + (tl.program_id(0) * SPLIT + i) * B * B + flat, cache_modifier=".cg"
            )
        tl.store(c + rm[:, None] * N + rn, added)


AL, BL = normal(32, 128, dtype=np.float16), normal(128, 64, dtype=np.float16)
case(
    split_k_locked,
    {"B": 32, "SPLIT": 4},
    {
        "a": AL,
        "b": BL,
        "c": np.zeros((32, 64), np.float32),
        "parts": np.zeros((2, 4, 1024), np.float32),
        "locks": np.zeros(2, np.int32),
        "N": 64,
        "K": 128,
    },
    (2, 4),
    {"c": AL.astype(np.float32) @ BL.astype(np.float32)},
    tolerance=1e-3,
)


@triton.jit
def attention(q, k, v, out, scale, n, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """Causal, one head a CTA along y, by blocks with a running maximum."""
    head = tl.program_id(1)
    rm, rd = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    base = head * n * D
    x = tl.load(q + base + rm[:, None] * D + rd, rm[:, None] < n, other=0.0)
    top = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for start in range(0, tl.minimum((tl.program_id(0) + 1) * BM, n), BN):
        rn = start + tl.arange(0, BN)
        y = tl.load(k + base + rn[None, :] * D + rd[:, None], rn[None, :] < n, other=0.0)
        s = tl.dot(x, y) * scale
        s = tl.where((rm[:, None] >= rn) & (rn < n), s, -1e9)
        more = tl.maximum(top, tl.max(s, 1))
        p = tl.exp(s - more[:, None])
        fall = tl.exp(top - more)
        total = total * fall + tl.sum(p, 1)
        z = tl.load(v + base + rn[:, None] * D + rd, rn[:, None] < n, other=0.0)
        acc = tl.dot(p.to(tl.float16), z, acc * fall[:, None])
        top = more
    y = (acc / total[:, None]).to(tl.float16)
    tl.store(out + base + rm[:, None] * D + rd, y, rm[:, None] < n)


QH, KH, VH = (normal(2, 50, 32, dtype=np.float16) for _ in range(3))
SCORES = np.einsum("hid,hjd->hij", QH.astype(np.float32), KH.astype(np.float32)) / np.sqrt(32)
SCORES = np.where(np.tri(50, dtype=bool), SCORES, -np.inf)
PROBS = np.exp(SCORES - SCORES.max(-1, keepdims=True))
PROBS /= PROBS.sum(-1, keepdims=True)
for _capability in (80, 90):
    case(
        attention,
        {"BM": 64 if _capability == 90 else 16, "BN": 32, "D": 32},
        {"q": QH, "k": KH, "v": VH, "out": np.zeros_like(QH), "scale": 32**-0.5, "n": 50},
        (1 if _capability == 90 else 4, 2),
        {"out": PROBS @ VH.astype(np.float32)},
        tolerance=4e-3,
        capability=_capability,
    )


@triton.jit
def paged_decode(
    q, pages, table, lengths, out, scale, PAGE: tl.constexpr, D: tl.constexpr, MOST: tl.constexpr
):
    """One query a sequence, over pages of keys and values side by side."""
    row = tl.program_id(0)
    rd, rp = tl.arange(0, D), tl.arange(0, PAGE)
    x = tl.load(q + row * D + rd)
    length = tl.load(lengths + row)
    top, total = -float("inf"), 0.0
    acc = tl.zeros((D,), tl.float32)
    for i in range(tl.cdiv(length, PAGE)):
        base = pages + tl.load(table + row * MOST + i) * PAGE * 2 * D
        there = i * PAGE + rp < length
        y = tl.load(base + rp[:, None] * 2 * D + rd, there[:, None], other=0.0)
        s = tl.where(there, tl.sum(x * y, 1) * scale, -float("inf"))
        more = tl.maximum(top, tl.max(s, 0))
        p = tl.exp(s - more)
        fall = tl.exp(top - more)
        z = tl.load(base + rp[:, None] * 2 * D + D + rd, there[:, None], other=0.0)
        acc = acc * fall + tl.sum(p[:, None] * z, 0)
        total = total * fall + tl.sum(p, 0)
        top = more
    tl.store(out + row * D + rd, acc / total)


PAGES, LENGTHS = normal(9, 16, 2, 32), np.array([5, 33, 16], np.int32)
TABLE = np.array([[4, 0, 0], [1, 7, 2], [8, 0, 0]], np.int32)
QD = normal(3, 32)
DECODED = []
for _row in range(3):
    _kv = PAGES[TABLE[_row]].reshape(-1, 2, 32)[: LENGTHS[_row]]
    _s = _kv[:, 0] @ QD[_row] / np.sqrt(32)
    _p = np.exp(_s - _s.max())
    DECODED.append(_p @ _kv[:, 1] / _p.sum())
case(
    paged_decode,
    {"PAGE": 16, "D": 32, "MOST": 3},
    {
        "q": QD,
        "pages": PAGES,
        "table": TABLE,
        "lengths": LENGTHS,
        "out": np.zeros((3, 32), np.float32),
        "scale": 32**-0.5,
    },
    (3,),
    {"out": np.stack(DECODED)},
    tolerance=1e-4,
)


# -- CTAs that wait for each other


@triton.jit
def look_back(x, out, flags, sums, n, B: tl.constexpr):
    """A scan in one pass: each CTA waits for the sum of all before it."""
    pid = tl.program_id(0)
    at = pid * B + tl.arange(0, B)
    v = tl.load(x + at, at < n, other=0)
    before = 0
    if pid > 0:
        while tl.atomic_add(flags + pid - 1, 0, sem="acquire") == 0:
            pass
        before = tl.load(sums + pid - 1)
    tl.store(sums + pid, before + tl.sum(v, 0))
    tl.debug_barrier()
    tl.atomic_xchg(flags + pid, 1, sem="release")
    tl.store(out + at, before + tl.cumsum(v, 0), at < n)


INTS = RANDOM.integers(-50, 50, 1000).astype(np.int32)
case(
    look_back,
    {"B": 128},
    {
        "x": INTS,
        "out": np.zeros_like(INTS),
        "flags": np.zeros(8, np.int32),
        "sums": np.zeros(8, np.int32),
        "n": 1000,
    },
    (8,),
    {"out": INTS.cumsum().astype(np.int32)},
    tolerance=0,
)


@triton.jit
def locked_update(x, out, lock, count, n, B: tl.constexpr):
    """Rows are added to one by CTAs that take a lock in turn, as in layer norm's backward pass."""
    row = tl.program_id(0)
    at = tl.arange(0, B)
    v = tl.load(x + row * n + at, at < n, other=0.0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    seen = tl.load(count)
    if seen == 0:
        tl.store(count, 1)
    else:
        v += tl.load(out + at, at < n, other=0.0)
    tl.store(out + at, v, at < n)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


case(
    locked_update,
    {"B": 512},
    {
        "x": R,
        "out": np.zeros(300, np.float32),
        "lock": np.zeros(1, np.int32),
        "count": np.zeros(1, np.int32),
        "n": 300,
    },
    (7,),
    {"out": R.sum(0)},
    tolerance=1e-4,
)
