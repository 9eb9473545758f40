"""Kernels that work on rows: norms, softmax, reductions, scans, sorting."""

import triton
import triton.language as tl


@triton.jit
def layer_norm(x, w, b, y, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < n
    values = tl.load(x + row * n + at, inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / n
    centred = tl.where(inside, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / n + eps)
    weight = tl.load(w + at, inside, other=0.0).to(tl.float32)
    bias = tl.load(b + at, inside, other=0.0).to(tl.float32)
    tl.store(y + row * n + at, (centred * scale * weight + bias).to(y.dtype.element_ty), inside)


@triton.jit
def rms_norm(x, w, y, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * n + at, at < n, other=0.0).to(tl.float32)
        total += values * values
    scale = tl.rsqrt(tl.sum(total, 0) / n + eps)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * n + at, at < n, other=0.0).to(tl.float32)
        weight = tl.load(w + at, at < n, other=0.0).to(tl.float32)
        tl.store(y + row * n + at, (values * scale * weight).to(y.dtype.element_ty), at < n)


@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * n + at, at < n, other=-float("inf")).to(tl.float32)
    values = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * n + at, (values / tl.sum(values, 0)).to(y.dtype.element_ty), at < n)


@triton.jit
def reduce(x, out, places, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out (3, ROWS): sum, max, min; places (2, ROWS): where the largest and the least are."""
    rows = tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = (at < n)[None, :]
    values = tl.load(x + rows[:, None] * n + at[None, :], inside, other=0)
    tl.store(out + rows, tl.sum(values, 1))
    tl.store(out + ROWS + rows, tl.max(values, 1))
    tl.store(out + 2 * ROWS + rows, tl.min(values, 1))
    tl.store(places + rows, tl.argmax(values, 1))
    tl.store(places + ROWS + rows, tl.argmin(values, 1))


@triton.jit
def reduce_bits(x, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at, at < n, other=0)
    tl.store(out, tl.sum(values, 0))
    tl.store(out + 1, tl.max(values, 0))
    tl.store(out + 2, tl.min(values, 0))
    tl.store(out + 3, tl.xor_sum(values, 0))
    tl.store(out + 4, tl.reduce_or(values, 0))


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def scan(x, total, product, decayed, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + tl.program_id(0) * n + at, at < n, other=0.0)
    place = tl.program_id(0) * n + at
    tl.store(total + place, tl.cumsum(values, 0), at < n)
    tl.store(product + place, tl.cumprod(1 + values, 0, reverse=True), at < n)
    tl.store(decayed + place, tl.associative_scan(values, 0, _larger), at < n)


@triton.jit
def sort(x, y, top, ROWS: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr):
    rows = tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    values = tl.load(x + rows * BLOCK + at)
    tl.store(y + rows * BLOCK + at, tl.sort(values, 1))
    tl.store(top + rows * K + tl.arange(0, K)[None, :], tl.topk(values, K, 1))
