"""Kernels as people write them first, with the sizes and strides that launches get wrong."""

import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer


@triton.jit
def vector_add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) + tl.load(y + at, at < n), at < n)


@triton.jit
def strided_softmax(out, x, out_stride, x_stride, n, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * x_stride + at, at < n, other=-float("inf"))
    values = tl.exp(values - tl.max(values, 0))
    tl.store(out + row * out_stride + at, values / tl.sum(values, 0), at < n)


@triton.jit
def strided_gemm(
    a, b, c, M, N, K, a_m, a_k, b_k, b_n, c_m, c_n,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One axis of the grid for both tiles, as the tutorials have it."""
    tiles = tl.cdiv(N, BN)
    rows = tl.program_id(0) // tiles * BM + tl.arange(0, BM)
    columns = tl.program_id(0) % tiles * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        inside = ks + k < K
        x = tl.load(
            a + rows[:, None] * a_m + (ks + k)[None, :] * a_k,
            (rows < M)[:, None] & inside[None, :],
            other=0.0,
        )
        y = tl.load(
            b + (ks + k)[:, None] * b_k + columns[None, :] * b_n,
            inside[:, None] & (columns < N)[None, :],
            other=0.0,
        )
        total = tl.dot(x, y, total)
    place = c + rows[:, None] * c_m + columns[None, :] * c_n
    tl.store(place, total.to(c.dtype.element_ty), (rows < M)[:, None] & (columns < N)[None, :])


@triton.jit
def take_rows(table, indices, out, rows, width, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(table + tl.load(indices + row) * width + at, at < width)
    tl.store(out + row * width + at, values * scale, at < width)


@triton.jit
def rotary(x, cos, sin, out, positions, heads, width, BLOCK: tl.constexpr):
    position, head, at = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    half = width // 2
    start = (position * heads + head) * width
    left = tl.load(x + start + at, at < half).to(tl.float32)
    right = tl.load(x + start + half + at, at < half).to(tl.float32)
    c = tl.load(cos + position * half + at, at < half)
    s = tl.load(sin + position * half + at, at < half)
    tl.store(out + start + at, (left * c - right * s).to(out.dtype.element_ty), at < half)
    tl.store(out + start + half + at, (right * c + left * s).to(out.dtype.element_ty), at < half)


@triton.jit
def scalars(out, h, b, f, d, flag, i8, u8, i16, i64):
    """out[0..8] = the nine scalars as float64."""
    tl.store(out + 0, h.to(tl.float64))
    tl.store(out + 1, b.to(tl.float64))
    tl.store(out + 2, f.to(tl.float64))
    tl.store(out + 3, d)
    tl.store(out + 4, flag.to(tl.float64))
    tl.store(out + 5, i8.to(tl.float64))
    tl.store(out + 6, u8.to(tl.float64))
    tl.store(out + 7, i16.to(tl.float64))
    tl.store(out + 8, i64.to(tl.float64))


@triton.jit
def wait_ns(x, ns, BLOCK: tl.constexpr):
    """Wait ns nanoseconds by the clock, then add 1."""
    start = globaltimer()
    while globaltimer() - start < ns:
        pass
    at = tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at) + 1)


@triton.jit
def prints(x, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at, at < n, other=0)
    tl.device_print("v", values)
    tl.store(x + at, values + 1, at < n)


@triton.jit
def asserts(x, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    values = tl.load(x + at, at < n, other=0)
    tl.device_assert(values < 100, "v is too large")
    tl.store(x + at, values + 1, at < n)


@triton.jit
def copy_boxes(x_map, x, out, M, N, across, boxes, BOX: tl.constexpr):
    """out (M, N) float16 = x, or -1 where x is NULL; across: boxes of a row, boxes: in all."""
    box = tl.program_id(0)
    if box < boxes:
        row, column = (box // across * BOX).to(tl.int32), (box % across * BOX).to(tl.int32)
        values = tl.full([BOX, BOX], -1, tl.float16)
        if x.to(tl.int64) != 0:
            values = x_map.load([row, column])
        rows, columns = row + tl.arange(0, BOX), column + tl.arange(0, BOX)
        inside = (rows < M)[:, None] & (columns < N)[None, :]
        tl.store(out + rows[:, None] * N + columns[None, :], values, inside)
