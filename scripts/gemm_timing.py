"""Floors, layers of any size, and graphs that take turns, for bench_gemm.py and tune.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.report.timing import cold_copies

ROOT = Path(__file__).resolve().parent.parent

READ_BYTES_PER_US = 4.39e6  # of an H200's memory, measured
FLOP_PER_US = 658e6  # of its tensor cores in float16, measured
_POOL_WORDS = 128 * 2**20
_POOL_SCALES = 16 * 2**20
_LAUNCHES = 24  # in a graph, or so many as take _LONG_ENOUGH: its own cost is then a small part
_LONG_ENOUGH = 3e3  # us
_TURN = 0.2  # seconds that all contenders' replays may take together, about


class Graph(Protocol):
    """Launches that can be replayed together."""

    def seconds(self, replays: int, /) -> list[float]: ...


def weight_bytes(N: int, K: int, group_size: int) -> int:
    """Packed weights, scales and zeros of one layer, bytes."""
    return K * N // 2 + -(-K // group_size) * (2 * N + N // 2)


def floor_us(M: int, N: int, K: int, group_size: int) -> float:
    """Time to read every operand once, or to multiply, whichever is longer."""
    read = (weight_bytes(N, K, group_size) + 2 * M * K) / READ_BYTES_PER_US
    return max(read, 2 * M * N * K / FLOP_PER_US)


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def rounds_of(copies: int, M: int, N: int, K: int) -> int:
    """Repetitions in a graph of a GEMM on each of so many copies of a layer."""
    about = 3 + 1.5 * floor_us(M, N, K, 128)
    return max(1, min(-(-_LAUNCHES // copies), int(_LONG_ENOUGH / about / copies)))


def by_turns(graphs: Mapping[str, tuple[Graph, int]], turns: int = 5) -> dict[str, float]:
    """Median microseconds of a launch in each of the graphs, which are replayed by turns.

    graphs: a graph and how many launches it has, by name.
    """
    once = {name: graph.seconds(2)[1] for name, (graph, _) in graphs.items()}
    turns = max(2, min(turns, int(_TURN / 2 / sum(once.values()))))
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(turns):
        for name, (graph, _) in graphs.items():
            times[name].append(graph.seconds(2)[1])  # the first has waited for the host besides
    return {name: statistics.median(its) / graphs[name][1] * 1e6 for name, its in times.items()}


class Layers:
    """Random layers on a GPU, as many as wanted, cut out of one pool so that setting up is free."""

    def __init__(self, device: fe.Device) -> None:
        self.device = device
        rng = np.random.default_rng(20261122)
        words = rng.integers(0, 2**63, _POOL_WORDS // 2, np.int64).view(np.int32)
        self.words = device.to_device(words)
        self.scales = device.to_device(rng.uniform(1e-3, 3e-3, _POOL_SCALES).astype(np.float16))

    def copies(self, N: int, K: int) -> int:
        """Number of places in which a layer lies."""
        return cold_copies(self.device, K * N // 2)

    @lru_cache(maxsize=1)  # noqa: B019
    def _rows(self, M: int, K: int) -> Any:
        x = np.random.default_rng(M).standard_normal((M, K), np.float32)
        return self.device.to_device(x.astype(np.float16))

    @lru_cache(maxsize=1)  # noqa: B019
    def _outs(self, M: int, N: int, count: int) -> list[Any]:
        return [self.device.empty((M, N), np.float16) for _ in range(count)]

    @lru_cache(maxsize=2)  # noqa: B019
    def weights(self, N: int, K: int, group_size: int, zero_bias: int = 1) -> list[fe.W4A16Weight]:
        """Layers in different places, that together pass the cache."""
        count = self.copies(N, K)
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
        weights = self.weights(N, K, group_size, bias)
        a, outs = self._rows(M, K), self._outs(M, N, len(weights))
        return [
            kernels.prepare_w4a16_gptq(kernel, a, weight, out, M)
            for weight, out in zip(weights, outs, strict=True)
        ]

    def graph(
        self, shipped: kernels.Artefact, M: int, N: int, K: int, group_size: int
    ) -> tuple[fe.LaunchGraph, int]:
        """A build's launches on all of the layers, a few times over, and how many those are."""
        launches = self.launches(shipped, M, N, K, group_size)
        rounds = rounds_of(len(launches), M, N, K)
        launches[0](None)  # loads what is loaded lazily, outside of the graph
        with self.device.capture() as graph:
            for _ in range(rounds):
                for launch in launches:
                    launch(graph.stream)
        return graph, rounds * len(launches)


def _cut(pool: Any, index: int, count: int, shape: tuple[int, int]) -> Any:
    """The index-th of `count` arrays in a pool, evenly spread; they overlap where it is small."""
    size = shape[0] * shape[1]
    start = (pool.size - size) // max(count - 1, 1) * index // 128 * 128
    return pool[start : start + size].reshape(shape)
