"""Timing of a device's work: medians of graphs, over weights that no cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..devices import Device, LaunchGraph

REPLAYS = 7
_LAUNCHES = 24  # in a graph, or so many as take _LONG_ENOUGH: its own cost is then a small part
_LONG_ENOUGH = 3e-3  # seconds
_AT_MOST = 1.0  # seconds of replays, where one of them does not take longer
_COLD_BYTES = 200 * 10**6  # read between two uses of the same weights: three times an H200's L2
_MOST_COPIES = 128  # of layers so small that launching them costs more than reading them


def cold_copies(device: Device, nbytes: int) -> int:
    """Count of copies of a layer of so many bytes with which going round finds it cold.

    One on the CPU device, whose kernels are bound by arithmetic.
    """
    if device.name == "cpu":
        return 1
    return max(2, min(_MOST_COPIES, _COLD_BYTES // nbytes + 1))


def device_seconds(device: Device, jobs: Sequence[Callable[[Any], object]]) -> float:
    """Median time of one of `jobs`, all of them in turn, over and over, as a graph.

    jobs: each launches its work on the stream that it is given.  Raises LaunchError as a capture
    and a launch do.
    """
    jobs[0](None)  # loads what is loaded lazily, outside of the graph
    device.synchronize()
    graph = _captured(device, jobs, 1)
    (once,) = graph.seconds(1)
    rounds = rounds_of(len(jobs), once)
    if rounds > 1:
        graph = _captured(device, jobs, rounds)
    return statistics.median(graph.seconds(1 + _replays(rounds * once))[1:]) / (rounds * len(jobs))


def host_seconds(job: Callable[[], object]) -> float:
    """Median wall time of a call of `job`, after one to warm up."""

    def once() -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(_replays(once())))


def rounds_of(jobs: int, once: float) -> int:
    """Repetitions of a graph's jobs, all of which take `once` seconds."""
    return max(1, min(-(-_LAUNCHES // jobs), int(_LONG_ENOUGH / once)))


def _replays(seconds: float) -> int:
    """Repetitions of what takes so long."""
    return max(1, min(REPLAYS, int(_AT_MOST / seconds)))


def _captured(device: Device, jobs: Sequence[Callable[[Any], object]], rounds: int) -> LaunchGraph:
    with device.capture() as graph:
        for _ in range(rounds):
            for job in jobs:
                job(graph.stream)
    return graph
