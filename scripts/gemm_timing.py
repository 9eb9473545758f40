"""Shapes, peers, and layers of any size, for bench_gemm.py and tune.py."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.report.timing import cold_copies

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "scripts" / "peers_h200.csv"
READ_BYTES_PER_US = 4.39e6  # of an H200's memory, measured
FLOP_PER_US = 658e6  # of its tensor cores in float16, measured
_POOL_WORDS = 128 * 2**20
_POOL_SCALES = 16 * 2**20


@dataclass(frozen=True)
class Peer:
    """One row of the peers' table: a shape, an M, and microseconds (None: not measured)."""

    shape: str
    N: int
    K: int
    M: int
    marlin: float | None
    cublas: float | None
    tinygemm: float | None
    canonical: float | None
    best: float
    floor: float


def peers(path: Path = PEERS) -> list[Peer]:
    """The table of peers, measured once on one H200."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [
        Peer(row[0], *map(int, row[1:4]), *(float(v) if v else None for v in row[4:]))  # type: ignore[arg-type]
        for row in rows
    ]


def weight_bytes(N: int, K: int, group_size: int) -> int:
    """Packed weights, scales and zeros of one layer, bytes."""
    return K * N // 2 + -(-K // group_size) * (2 * N + N // 2)


def floor_us(M: int, N: int, K: int, group_size: int) -> float:
    """Least time to read every operand once, or to multiply."""
    read = (weight_bytes(N, K, group_size) + 2 * M * K) / READ_BYTES_PER_US
    return max(read, 2 * M * N * K / FLOP_PER_US)


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


class Layers:
    """Random layers on a GPU, as many as wanted, cut out of one pool so that setting up is free."""

    def __init__(self, device: fe.Device) -> None:
        self.device = device
        rng = np.random.default_rng(20261122)
        words = rng.integers(0, 2**63, _POOL_WORDS // 2, np.int64).view(np.int32)
        self.words = device.to_device(words)
        self.scales = device.to_device(rng.uniform(1e-3, 3e-3, _POOL_SCALES).astype(np.float16))

    def weights(self, N: int, K: int, group_size: int, zero_bias: int = 1) -> list[fe.W4A16Weight]:
        """Layers in different places, that together pass the cache."""
        count = cold_copies(self.device, K * N // 2)
        groups = -(-K // group_size)
        return [
            fe.W4A16Weight(
                _cut(self.words, i, count, (K // 8, N)),
                _cut(self.scales, i, count, (groups, N)),
                _cut(self.words, count - 1 - i, count, (groups, N // 8)),
                *(K, N, group_size, zero_bias),
            )
            for i in range(count)
        ]

    def launches(
        self, shipped: kernels.Artefact, M: int, N: int, K: int, group_size: int
    ) -> list[fe.PreparedLaunch]:
        """One launch on each of the layers, with an activation and an output of its own."""
        bias = (shipped.sidecar.constants or {}).get("ZERO_BIAS", 1)
        kernel = shipped.kernel(self.device)
        x = np.random.default_rng(M).standard_normal((M, K)).astype(np.float16)
        a = self.device.to_device(x)
        return [
            kernels.prepare_w4a16_gptq(kernel, a, weight, self.device.empty((M, N), np.float16), M)
            for weight in self.weights(N, K, group_size, bias)
        ]


def _cut(pool: Any, index: int, count: int, shape: tuple[int, int]) -> Any:
    """The index-th of `count` arrays in a pool, evenly spread; they overlap where it is small."""
    size = shape[0] * shape[1]
    start = (pool.size - size) // max(count - 1, 1) * index // 128 * 128
    return pool[start : start + size].reshape(shape)
