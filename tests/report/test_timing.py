"""Times of what a device, or the host, does over and over."""

from __future__ import annotations

import time

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.report.timing import (
    REPLAYS,
    cold_copies,
    device_seconds,
    host_seconds,
    rounds_of,
)
from tests.ptx import IOTA


def test_jobs_run_in_turn_and_each_of_them_does(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    outs = [device.to_device(np.full(128, -1, np.int32)) for _ in range(3)]
    calls = [kernel.prepare(fe.LaunchConfig(1, 128), out, 100) for out in outs]
    assert 0 < device_seconds(device, calls) < 1
    device.synchronize()
    for out in outs:
        host = device.to_host(out)
        np.testing.assert_array_equal(host[:100], np.arange(100))


@pytest.mark.parametrize(("seconds", "calls"), [(1e-3, 1 + REPLAYS), (0.3, 1 + 3), (20, 1 + 1)])
def test_what_is_slow_is_done_less_often(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: sum(done))
    assert host_seconds(lambda: done.append(seconds)) == pytest.approx(seconds)
    assert len(done) == calls


def test_a_graph_is_long_enough_to_be_timed() -> None:
    assert rounds_of(jobs=7, once=1e-4) == 4  # 28 launches
    assert rounds_of(jobs=24, once=1e-4) == 1
    assert rounds_of(jobs=2, once=1e-3) == 3  # 3 ms
    assert rounds_of(jobs=2, once=1) == 1


def test_the_layers_of_a_gpu_pass_its_cache(device: fe.Device) -> None:
    if device.name == "cpu":
        assert cold_copies(device, 1) == 1
        return
    for nbytes in (2_230_000, 9_000_000, 35_000_000):
        assert 200e6 < nbytes * cold_copies(device, nbytes) < 300e6
    assert cold_copies(device, 10**9) == 2
    assert cold_copies(device, 1) == 128
