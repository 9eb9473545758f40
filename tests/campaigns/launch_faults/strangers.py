"""Faults of launches of other people's kernels: no sidecar, no names, only the expected result."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ferrum_numba.debug.case import Case

from .fault import Fault, stranger

_GEMM = "a b c M N K"


def gemm(
    values: Callable[[int, int, int], tuple[int, ...]] = lambda M, N, K: (M, N, K),
    layout: str = "<3Q3i4x2Q",
    names: str = f"{_GEMM} s1 s2",
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict,
    order: str = "a b c",
    text: Callable[[str], str] = str,
) -> Callable[[int], Case]:
    """c (M, N) = a (M, K) b (K, N) of float16, rows contiguous."""

    def make(shape: int) -> Case:
        M, N, K = ((80, 48, 112), (48, 96, 160), (96, 32, 64))[shape % 3]
        rng = np.random.default_rng(shape)
        a, b = (rng.standard_normal(s).astype(np.float16) for s in ((M, K), (K, N)))
        expected = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)
        arrays = change({"a": a, "b": b, "c": np.zeros((M, N), np.float16)})
        numbers = values(M, N, K)
        scratch = (0,) * names.count("s")
        grid = (-(-M // 64), -(-N // 32), 1)
        case = stranger(
            "gemm_fp16.sm_80", layout, names, (*numbers, *scratch), arrays, {"c": expected}, grid
        )
        return replace(_reordered(case, order), ptx=text(case.ptx))

    return make


def _reordered(case: Case, order: str) -> Case:
    """The three addresses in another order in the block."""
    addresses = dict(zip("abc", struct.unpack("<3Q", case.block[:24]), strict=True))
    moved = struct.pack("<3Q", *(addresses[n] for n in order.split()))
    return replace(case, block=moved + case.block[24:])


def _rms_norm(eps: Any, n: Callable[[int], int] = lambda n: n) -> Callable[[int], Case]:
    """y = x / sqrt(mean(x^2) + eps) * w, of bfloat16, a row a CTA."""

    def make(shape: int) -> Case:
        import ml_dtypes

        rows, width = 6, (300, 200, 450)[shape % 3]
        rng = np.random.default_rng(shape)
        x, w = ((rng.standard_normal(s) * 0.1).astype(ml_dtypes.bfloat16)
                for s in ((rows, width), (width,)))  # fmt: skip
        wide = x.astype(np.float32)
        root = np.sqrt((wide * wide).mean(axis=1, keepdims=True) + 1.0)
        expected = (wide / root * w.astype(np.float32)).astype(ml_dtypes.bfloat16)
        word = struct.unpack("<i", eps if isinstance(eps, bytes) else struct.pack("<f", eps))[0]
        return stranger(
            "rms_norm_bf16.sm_80", "<3Q2i2Q", "x w y n eps s1 s2", (n(width), word, 0, 0),
            {"x": x, "w": w, "y": np.zeros_like(x)}, {"y": expected}, (rows, 1, 1),
        )  # fmt: skip

    return make


def gemm_without(index: int) -> Callable[[int], Case]:
    """A parameter left out, what lies behind it moved up, the end 0."""

    def make(shape: int) -> Case:
        case = gemm()(shape)
        values = list(struct.unpack("<3Q3i4x2Q", case.block))
        del values[index]
        layout = "<2Q3i4x2Q" if index < 3 else "<3Q2i2Q"
        return replace(case, block=struct.pack(layout, *values).ljust(len(case.block), b"\0"))

    return make


FAULTS = [
    Fault("gemm-m-n-swapped", "sizes-swapped", "M and N", gemm(lambda M, N, K: (N, M, K))),
    Fault("gemm-n-k-swapped", "sizes-swapped", "N and K", gemm(lambda M, N, K: (M, K, N))),
    Fault("gemm-a-b-swapped", "pointers-swapped", "a and b", gemm(order="b a c")),
    Fault("gemm-b-c-swapped", "pointers-swapped", "b and c", gemm(order="a c b")),
    Fault(
        "gemm-no-scratch",
        "scratch-missing",
        "the block ends behind K",
        gemm(layout="<3Q3i", names=_GEMM),
    ),
    Fault("gemm-k-in-bytes", "strides-in-bytes", "2 K for K", gemm(lambda M, N, K: (M, N, 2 * K))),
    Fault("gemm-k-short", "size-wrong", "K - 16 for K", gemm(lambda M, N, K: (M, N, K - 16))),
    Fault(
        "gemm-b-transposed",
        "operand-transposed",
        "b stored as [N, K]",
        gemm(change=lambda x: {**x, "b": np.ascontiguousarray(x["b"].T)}),
    ),
    Fault(
        "gemm-wait-removed",
        "missing-wait",
        "every cp.async.wait_group is left out",
        gemm(text=lambda t: re.sub(r"\tcp\.async\.wait_group[^;]*;", "", t)),
    ),
    Fault(
        "gemm-integers-64-bit",
        "integers-too-wide",
        "M, N and K as 8 bytes",
        gemm(layout="<3Q3q2Q"),
    ),
    Fault(
        "norm-eps-integer",
        "number-bits",
        "eps written as the integer 1",
        _rms_norm(struct.pack("<i", 1)),
    ),
    Fault("norm-n-short", "size-wrong", "100 columns for all", _rms_norm(1.0, lambda n: 100)),
]
