"""Recorded launches that compiled code issues: their rows, from many threads and after changes."""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from ctypes import CFUNCTYPE, c_int, c_void_p
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.debug import recorder
from ferrum_numba.debug.recorder import record
from ferrum_numba.debug.recording import Recording
from ferrum_numba.devices.cuda import driver, launcher
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere
from tests.devices.test_threads import THREADS, at_once
from tests.ptx import IOTA

CONFIG = fe.LaunchConfig(1, 32)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    """A GPU that does nothing, and that without the interpreter, so that threads do not wait."""
    device = open_anywhere("emulated", monkeypatch)
    launch, is_capturing = (ctypes.CDLL(None).pthread_equal for _ in range(2))  # 0: they differ
    launch.argtypes, is_capturing.argtypes = [c_void_p] * 4, [c_void_p] * 2
    monkeypatch.setattr(driver, "version", lambda: (13, 0))
    monkeypatch.setattr(driver, "launcher", lambda: launch)
    monkeypatch.setattr(device.library, "cuStreamIsCapturing", is_capturing)
    return device


def prepare(device: fe.Device, n: int) -> fe.PreparedLaunch:
    out = device.to_device(np.full(32, -1, np.int32))
    return device.load_module(IOTA).get_kernel().prepare(CONFIG, out=out, n=n)


def sizes(path: Path) -> list[int]:
    """n of each launch."""
    return [int.from_bytes(one.call.block[8:12], "little") for one in Recording(path).launches]


@pytest.mark.parametrize("arrays", ["none", "digest"])
def test_many_threads(idle: fe.Device, tmp_path: Path, arrays: str) -> None:
    """Each launch has one row, also where the rows come to an end under all threads at once."""
    path, rounds = tmp_path / "run.ferrum", 700
    with record(path, arrays=arrays, every=50) as recording:

        def work(index: int) -> None:
            call, stream = prepare(idle, index + 1), idle.create_stream()
            with idle.record_plan() as plan:
                for _ in range(3):
                    call()
            for _ in range(rounds):
                call(stream)
                plan(stream)

        at_once(work)
    assert recording.launches == THREADS * rounds * 4
    assert Recording(path).complete
    assert Counter(sizes(path)) == dict.fromkeys(range(1, THREADS + 1), rounds * 4)
    times = [launch.at for launch in Recording(path).launches]
    assert 0 <= min(times) <= max(times) < time.perf_counter()


def test_rows_say_what_was_launched(anywhere: fe.Device, tmp_path: Path) -> None:
    """After a change, on other streams, in a second recording, and by a plan and a graph."""
    first, second = tmp_path / "1.ferrum", tmp_path / "2.ferrum"
    call = prepare(anywhere, 1)
    with anywhere.record_plan() as plan:
        call()
        call()
    streams = [None, anywhere.create_stream(), anywhere.create_stream()]
    with anywhere.capture() as graph:
        call(graph.stream)
    issues = [call, plan, graph.launch]
    for path in (first, second):
        with record(path, arrays="none"):
            for n in (2, 3):
                for stream in [*streams, streams[1], streams[1]]:
                    for issue in issues:
                        issue(stream)
                call.update(n=n)
                plan.update(1, n=n + 2)
                graph.update(0, n=n + 4)
    seen = [(1, 1, 1, 1), (2, 1, 4, 6), (3, 1, 5, 7), (2, 1, 4, 6)]
    assert sizes(first) == [*seen[0]] * 5 + [*seen[1]] * 5
    assert sizes(second) == [*seen[2]] * 5 + [*seen[3]] * 5


def test_what_is_in_the_file_when_a_process_dies(anywhere: fe.Device, tmp_path: Path) -> None:
    path, copy = tmp_path / "run.ferrum", tmp_path / "copy.ferrum"
    call, stream = prepare(anywhere, 20), anywhere.create_stream()
    with record(path, arrays="digest"):
        for n in range(1, 301):
            call(stream)
            if n % 60 == 1:
                copy.write_bytes(path.read_bytes())
                assert len(Recording(copy).launches) == n


@pytest.mark.parametrize("anywhere", EVERYWHERE[-1:], indirect=True)
def test_a_step_that_is_refused(anywhere: fe.Device, tmp_path: Path, monkeypatch) -> None:
    """The steps before it were launched; it has the error, and those behind it never were."""
    left = [2, 0, 5]  # how many launches succeed before one does not
    seen: list[int] = []

    def launch(*row: int) -> int:
        seen.append(0)
        left[0] -= 1
        return 9 if left[0] < 0 else 0

    function = CFUNCTYPE(c_int, *[c_void_p] * 4)(launch)
    monkeypatch.setattr(driver, "launcher", lambda: function)
    call, path = prepare(anywhere, 1), tmp_path / "run.ferrum"
    with anywhere.record_plan() as plan:
        for _ in range(4):
            call()
    with record(path, arrays="none"):
        with pytest.raises(fe.LaunchError, match="step 2: k on cuda:0"):
            plan()
        left[0] = 1
        call()
        with pytest.raises(fe.LaunchError, match="k on cuda:0"):
            call()
    errors = [bool(launch.error) for launch in Recording(path).launches]
    assert errors == [False, False, True, False, True]
    assert len(seen) == 5, "nothing is launched twice"


def test_digests_that_take_too_long_are_put_off(idle: fe.Device, tmp_path, monkeypatch) -> None:
    """Each call's first ones are taken at any rate, and every one where `every` says so."""
    path = tmp_path / "run.ferrum"
    calls = [prepare(idle, n) for n in (1, 2)]
    for share, every, kept in ((0, None, 1), (2, None, 2), (0, 200, 2)):
        monkeypatch.setattr(recorder, "DIGEST_SHARE", share)
        with record(path, arrays="digest", every=every):
            for _ in range(300):
                for call in calls:
                    call()
        digested = [launch for launch in Recording(path).launches if launch.before]
        assert len(digested) == 2 * kept


@pytest.mark.parametrize("anywhere", EVERYWHERE[-1:], indirect=True)
def test_where_native_code_cannot_tell_the_time(anywhere, tmp_path, monkeypatch) -> None:
    seen: list[int] = []
    function = CFUNCTYPE(c_int, *[c_void_p] * 4)(lambda *row: seen.append(0) or 0)
    monkeypatch.setattr(driver, "launcher", lambda: function)
    monkeypatch.setattr(launcher, "sys", SimpleNamespace(platform="win32"))
    launcher._logged.cache_clear()
    call, path = prepare(anywhere, 1), tmp_path / "run.ferrum"
    with anywhere.record_plan() as plan:
        call()
        call()
    with record(path, arrays="none"):
        for _ in range(3):
            call()
            plan()
    launcher._logged.cache_clear()
    assert len(seen) == len(Recording(path).launches) == 9
