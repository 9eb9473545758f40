"""Random operands with all kinds of edge values among them."""

from __future__ import annotations

import numpy as np


def words(bits: int, n: int = 512, seed: int = 0, signed: bool = False) -> np.ndarray:
    """Random integers of a width, with all kinds of edge values among them."""
    random = np.random.default_rng(seed)
    edges = [0, 1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256]
    edges += [(1 << bits) - e for e in (1, 2, 3, 32)]
    edges += [(1 << bits - 1) + e for e in (-2, -1, 0, 1)]
    values = random.integers(0, 1 << bits, n, np.uint64, endpoint=False) if bits < 64 else None
    if values is None:
        values = random.integers(0, (1 << 64) - 1, n, np.uint64, endpoint=True)
    small = random.random(n) < 0.3
    values[small] >>= np.uint64(bits // 2)
    chosen = random.random(n) < 0.4
    table = np.array([e & ((1 << bits) - 1) for e in edges], np.uint64)
    values[chosen] = random.choice(table, int(chosen.sum()))
    unsigned = values.astype(f"u{bits // 8}")
    return unsigned.view(f"i{bits // 8}") if signed else unsigned


def floats(dtype: type, n: int = 1024, seed: int = 0) -> np.ndarray:
    """Random bit patterns: numbers of all sizes, denormals, infinities, NaN, both zeros, ties."""
    random = np.random.default_rng(seed)
    bits = np.dtype(dtype).itemsize * 8
    values = words(bits, n, seed).view(dtype)
    plain = random.random(n) < 0.5
    values[plain] = (random.standard_normal(n) * 8)[plain].astype(dtype)
    info = np.finfo(dtype)
    edges = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan]
    edges += [info.max, -info.max, info.tiny, -info.tiny, info.smallest_subnormal, 65504, 65519.9]
    edges += [65520.0, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e9, -1e9]
    chosen = random.random(n) < 0.3
    with np.errstate(over="ignore"):
        table = np.array(edges).astype(dtype)
    values[chosen] = random.choice(table, int(chosen.sum()))
    return values
