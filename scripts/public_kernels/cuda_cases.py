"""Cases of kernels.cu: block, grid, arguments, and what arrays become."""

from dataclasses import dataclass
from math import erfc

import numpy as np

RANDOM = np.random.default_rng(1)


@dataclass
class CudaCase:
    """One launch. expect: by the argument's place; shared: dynamic bytes."""

    name: str
    arguments: list
    grid: tuple
    block: tuple
    expect: dict
    tolerance: float = 2e-5
    shared: int = 0
    cooperative: bool = False


def normal(*shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


X, Y = normal(1000), normal(1000)
R, P = normal(5, 300), normal(70, 50)
INTS = RANDOM.integers(-9, 9, 256).astype(np.int32)
A, B = normal(40, 30), normal(30, 50)
BYTES = RANDOM.integers(0, 64, 3000).astype(np.uint8)
BODIES = normal(100, 4)
BODIES[:, 3] = np.abs(BODIES[:, 3])
IMAGE = RANDOM.integers(0, 256, (40, 60)).astype(np.uint8)
KEYS = RANDOM.integers(0, 1 << 32, 512, dtype=np.uint32)
AH, BH = normal(32, 64, dtype=np.float16), normal(64, 48, dtype=np.float16)
HX, HY = normal(256, dtype=np.float16), normal(256, dtype=np.float16)
FOUR = RANDOM.integers(-(1 << 31), 1 << 31, (2, 200)).astype(np.int32)

_d = BODIES[None, :, :3] - BODIES[:, None, :3]
_s = BODIES[:, 3] / ((_d**2).sum(-1) + 0.01) ** 1.5
FORCE = np.zeros((100, 4), np.float32)
FORCE[:, :3] = (_d * _s[..., None]).sum(1)


def blurred(image):
    w = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    p = np.pad(image.astype(float), 1, mode="edge")
    h, n = image.shape
    total = sum(w[i, j] * p[i : i + h, j : j + n] for i in range(3) for j in range(3))
    return np.floor(total + 0.5).astype(np.uint8)


def escapes(width, height, most):
    f = np.float32
    x, y = np.arange(width, dtype=f), np.arange(height, dtype=f)[:, None]
    cr = np.broadcast_to(f(-2) + f(3) * x / f(width), (height, width))
    ci = np.broadcast_to(f(-1) + f(2) * y / f(height), (height, width))
    zr, zi = np.zeros_like(cr), np.zeros_like(cr)
    count, inside = np.zeros(cr.shape, np.int32), np.ones(cr.shape, bool)
    for _ in range(most):
        inside &= zr * zr + zi * zi < 4
        count[inside] += 1
        zr, zi = (
            np.where(inside, zr * zr - zi * zi + cr, zr),
            np.where(inside, f(2) * zr * zi + ci, zi),
        )
    return count


def jacobi(a, rounds):
    for _ in range(rounds):
        p = np.pad(a, 1)
        a = np.float32(0.5) * (p[:-2] + p[2:])
    return a


def word_bits(v):
    m = (1 << 32) - 1
    out = []
    for x in v.tolist():
        a = (x ^ x >> 3 ^ x << 5) & m
        b = int.from_bytes(x.to_bytes(4, "little"), "big")
        c = (x >> 4 & 0xFFF) * 3 + 1
        first = (x & -x).bit_length()
        turned = int(f"{x:032b}"[::-1], 2)
        funnel = ((a << 32 | x) << 7 >> 32) & m
        out.append((a ^ b ^ c ^ x.bit_count() ^ 32 - x.bit_length() ^ first ^ turned ^ funnel) & m)
    return np.array(out, np.uint32)


def sparse():
    dense = normal(20, 64) * (RANDOM.random((20, 64)) < 0.3)
    rows = np.concatenate([[0], (dense != 0).sum(1).cumsum()]).astype(np.int32)
    columns = np.nonzero(dense)[1].astype(np.int32)
    return dense, rows, columns, dense[dense != 0].astype(np.float32)


DENSE, ROWS, COLUMNS, VALUES = sparse()
V64 = normal(64)
PRICE, STRIKE, YEARS = (
    RANDOM.uniform(a, b, 200).astype(np.float32) for a, b in ((5, 30), (1, 100), (0.2, 10))
)
_d1 = (np.log(PRICE / STRIKE) + (0.02 + 0.045) * YEARS) / (0.3 * np.sqrt(YEARS))
_phi = np.vectorize(lambda d: 0.5 * erfc(-d / np.sqrt(2)))
CALL = PRICE * _phi(_d1) - STRIKE * np.exp(-0.02 * YEARS) * _phi(_d1 - 0.3 * np.sqrt(YEARS))
_a4, _b4 = (v.view(np.int8).reshape(200, 4).astype(np.int32) for v in FOUR)
_sat = np.clip(_a4 + _b4, -128, 127).astype(np.int8).view(np.int32).reshape(200)
_x, _y = HX.astype(np.float32), HY.astype(np.float32)
POSITIVE = INTS[INTS > 0]

CASES = [
    CudaCase("saxpy", [2.5, X, Y.copy(), 1000], (3,), (128,), {2: 2.5 * X + Y}),
    CudaCase("reduce_tree", [X, zeros(1), 1000], (4,), (256,), {1: X.sum(keepdims=True)}, 1e-4),
    CudaCase("reduce_warps", [R, zeros(5), 300], (5,), (128,), {1: R.sum(1)}, 1e-4),
    CudaCase(
        "reduce_last_block",
        [X, zeros(6), zeros(1), zeros(1, dtype=np.uint32), 1000],
        (6,),
        (128,),
        {2: X.sum(keepdims=True)},
        1e-4,
    ),
    CudaCase(
        "scan_block",
        [INTS, zeros(256, dtype=np.int32)],
        (1,),
        (128,),
        {1: (INTS.cumsum() - INTS).astype(np.int32)},
        0,
        1024,
    ),
    CudaCase("transpose_tiles", [P, zeros(50, 70), 70, 50], (2, 3), (32, 8), {1: P.T.copy()}, 0),
    CudaCase("sgemm", [A, B, zeros(40, 50), 40, 50, 30], (4, 3), (16, 16), {2: A @ B}, 1e-4),
    CudaCase(
        "histogram_shared",
        [BYTES, zeros(64, dtype=np.uint32), 3000],
        (3,),
        (128,),
        {1: np.bincount(BYTES, minlength=64).astype(np.uint32)},
        0,
    ),
    CudaCase(
        "stencil",
        [X, zeros(1000), 1000],
        (8,),
        (128,),
        {1: np.convolve(X, np.ones(7, np.float32), "same")},
        1e-4,
    ),
    CudaCase("nbody", [BODIES, zeros(100, 4), 100], (2,), (64,), {1: FORCE}, 1e-3),
    CudaCase(
        "blur",
        [IMAGE, zeros(40, 60, dtype=np.uint8), 60, 40],
        (4, 5),
        (16, 8),
        {1: blurred(IMAGE)},
        0,
    ),
    CudaCase(
        "mandelbrot",
        [zeros(30, 50, dtype=np.int32), 50, 30, 40],
        (4, 4),
        (16, 8),
        {0: escapes(50, 30, 40)},
        0,
    ),
    CudaCase(
        "black_scholes",
        [PRICE, STRIKE, YEARS, zeros(200), 200, 0.02, 0.3],
        (2,),
        (128,),
        {3: CALL},
        1e-4,
    ),
    CudaCase(
        "jacobi",
        [X.copy(), zeros(1000), 1000, 6],
        (5,),
        (64,),
        {0: jacobi(X, 6)},
        1e-5,
        cooperative=True,
    ),
    CudaCase(
        "bitonic_sort",
        [KEYS.copy()],
        (2,),
        (256,),
        {0: np.sort(KEYS.reshape(2, 256), 1).ravel()},
        0,
    ),
    CudaCase(
        "wmma_gemm",
        [AH, BH, zeros(32, 48), 48, 64],
        (3, 2),
        (32,),
        {2: AH.astype(np.float32) @ BH.astype(np.float32)},
        1e-3,
    ),
    CudaCase(
        "spmv", [ROWS, COLUMNS, VALUES, V64, zeros(20), 20], (5,), (128,), {4: DENSE @ V64}, 1e-4
    ),
    CudaCase(
        "bits", [KEYS, zeros(512, dtype=np.uint32), 512], (4,), (128,), {1: word_bits(KEYS)}, 0
    ),
    CudaCase(
        "dot_bytes",
        [FOUR[0].copy(), FOUR[1].copy(), zeros(200, dtype=np.int32), 200],
        (2,),
        (128,),
        {2: ((_a4 * _b4).sum(1) + _sat).astype(np.int32)},
        0,
    ),
    CudaCase(
        "half_math",
        [HX, HY, zeros(256, dtype=np.float16), 128],
        (1,),
        (128,),
        {2: np.maximum(_x * _y + 0.5, _x * _x)},
        2e-3,
    ),
    CudaCase(
        "spin_chain",
        [zeros(9, dtype=np.int32), zeros(9, dtype=np.int32)],
        (9,),
        (32,),
        {1: np.arange(9)[::-1].astype(np.int32)},
        0,
    ),
    CudaCase(
        "vote_compact",
        [INTS, zeros(256, dtype=np.int32), zeros(1, dtype=np.int32), 256],
        (2,),
        (128,),
        {2: np.array([len(POSITIVE)], np.int32)},
        0,
    ),
]
