"""Elementwise kernels: activations, conversions, random numbers, gathers, atomics."""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit(noinline=True)
def _scaled(total, factor):
    return total * factor + 1


@triton.jit
def activation(x, y, n, BLOCK: tl.constexpr, KIND: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0.0).to(tl.float32)
    if KIND == "gelu":
        r = 0.5 * v * (1 + tl.erf(v * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        r = 0.5 * v * (1 + libdevice.tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))
    elif KIND == "silu":
        r = v * tl.sigmoid(v)
    elif KIND == "softplus":
        r = libdevice.log1p(tl.exp(v))
    elif KIND == "trigonometry":
        r = tl.sin(v) + tl.cos(v) + tl.log(tl.abs(v) + 1) + tl.log2(tl.abs(v) + 2) + tl.exp2(v)
    elif KIND == "roots":
        r = tl.sqrt_rn(tl.abs(v)) + tl.div_rn(v, 3.1) + tl.floor(v) + tl.ceil(v) + tl.fma(v, v, v)
    elif KIND == "approximate":
        r = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=r,r", [v], dtype=tl.float32, is_pure=True, pack=1
        )
    elif KIND == "power":
        r = (
            libdevice.pow(tl.abs(v) + 0.5, v)
            + libdevice.expm1(v)
            + libdevice.rint(v)
            + libdevice.atan(v)
        )
    elif KIND == "clamped":
        r = tl.clamp(v, -1.5, 1.5) + tl.minimum(v, 2.5, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == "called":
        r = v + _scaled(tl.sum(v, 0), 2.0)
    tl.store(y + at, r.to(y.dtype.element_ty), at < n)


@triton.jit
def convert(x, y, n, BLOCK: tl.constexpr, TO: tl.constexpr, ROUND: tl.constexpr):
    """To another type and on to the result's."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0)
    v = v.to(TO, fp_downcast_rounding=ROUND)
    if y.dtype.element_ty != TO:
        v = v.to(y.dtype.element_ty)
    tl.store(y + at, v, at < n)


@triton.jit
def integers(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + at, at < n, other=1)
    b = tl.load(y + at, at < n, other=1)
    r = a // b + a % b * 3 + (a & b) - (a ^ (b << 2)) + (a >> 3) + tl.abs(a) + tl.umulhi(a, b)
    r += tl.minimum(a, b) * tl.maximum(a, 7)
    tl.store(out + at, tl.where(a > b, r, ~r), at < n)


@triton.jit
def dropout(x, y, seed, p, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0.0)
    keep = tl.rand(seed, at) > p
    tl.store(y + at, tl.where(keep, v / (1 - p), 0.0) + tl.randn(seed + 1, at) * 0.0, at < n)


@triton.jit
def embedding(table, index, out, width, BLOCK: tl.constexpr):
    row = tl.load(index + tl.program_id(0))
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(table + row * width + at, (at < width) & (row >= 0), other=0.0)
        tl.store(out + tl.program_id(0) * width + at, v, at < width)


@triton.jit
def gather(x, index, out, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[i, j] = x[index[i, j], j] by tl.gather, and a transpose, a flip and a join of it."""
    rows = tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    values = tl.load(x + rows * BLOCK + at)
    found = tl.gather(values, tl.load(index + rows * BLOCK + at), 0)
    tl.store(out + rows * BLOCK + at, found)
    flipped = tl.flip(tl.trans(values), 1)
    size: tl.constexpr = ROWS * BLOCK
    place = tl.arange(0, BLOCK)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    tl.store(out + size + place, flipped)


@triton.jit
def histogram(x, counts, more, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0)
    tl.atomic_add(counts + v, 1, at < n)
    local = tl.histogram(v, BINS, mask=at < n)
    tl.atomic_add(more + tl.arange(0, BINS), local, sem="relaxed")


@triton.jit
def atomics(x, out, old, n, BLOCK: tl.constexpr, KIND: tl.constexpr, SLOTS: tl.constexpr):
    """Lane i works on out[i % SLOTS]; `old` gets what was there."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0)
    place = out + at % SLOTS
    if KIND == "add":
        r = tl.atomic_add(place, v, at < n)
    elif KIND == "max":
        r = tl.atomic_max(place, v, at < n)
    elif KIND == "min":
        r = tl.atomic_min(place, v, at < n)
    elif KIND == "and":
        r = tl.atomic_and(place, v, at < n)
    elif KIND == "or":
        r = tl.atomic_or(place, v, at < n)
    elif KIND == "xor":
        r = tl.atomic_xor(place, v, at < n)
    elif KIND == "xchg":
        r = tl.atomic_xchg(place, v, at < n)
    tl.store(old + at, r, at < n)


@triton.jit
def locked(x, total, lock, n, BLOCK: tl.constexpr):
    """A lock taken by compare-and-swap and given back by exchange, around an addition."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(x + at, at < n, other=0.0), 0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total) + part)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)
