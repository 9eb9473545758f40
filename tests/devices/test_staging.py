"""Copies to a GPU through pinned buffers, and arrays that lie where a device can use them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import driver, staging
from ferrum_numba.devices.cuda.objects import Stream
from ferrum_numba.devices.cuda.staging import Staging
from tests.devices.emulated_driver import EmulatedDriver
from tests.devices.test_threads import at_once

BUFFER, SLICE = staging._BUFFER, staging._SLICE
SIZES = [1, SLICE, SLICE + 1, BUFFER, BUFFER + 1, 5 * BUFFER // 2 + 3]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> EmulatedDriver:
    """Of which a copy reads its source only when it is waited for."""
    library = EmulatedDriver()
    monkeypatch.setattr(driver, "library", lambda: library)
    return library


def noise(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


@pytest.mark.parametrize("nbytes", SIZES)
def test_what_is_copied_is_there(library: EmulatedDriver, nbytes: int) -> None:
    copies, source = Staging(Stream()), noise(nbytes)
    there = np.zeros(nbytes, np.uint8)
    for number in range(2):
        copies.copy(source[::-1].copy() if number else source, there.ctypes.data)
        assert np.array_equal(there, source[::-1] if number else source)


def test_from_many_threads(library: EmulatedDriver) -> None:
    copies = Staging(Stream())

    def one(seed: int) -> bool:
        source = noise(3 * SLICE + seed, seed)
        there = np.zeros_like(source)
        copies.copy(source, there.ctypes.data)
        return np.array_equal(there, source)

    assert all(at_once(one))


@pytest.mark.gpu
def test_from_many_threads_on_a_gpu(gpu: fe.Device) -> None:
    def one(seed: int) -> bool:
        source = noise(BUFFER + seed, seed)
        return np.array_equal(gpu.to_host(gpu.to_device(source)), source)

    assert all(at_once(one))


def test_one_that_is_broken_off(library: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read any more when the caller hears of it, and the next copy has its buffers."""
    copies, source = Staging(Stream()), noise(2 * BUFFER)
    there = np.zeros_like(source)

    def break_off(*_: Any) -> None:
        raise KeyboardInterrupt

    copies.copy(source[:BUFFER], there.ctypes.data)
    original = staging._read
    reads: list[int] = []

    def second_fails(readers: Any, part: Any, buffer: Any) -> None:
        reads.append(len(part))
        break_off() if len(reads) == 2 else original(readers, part, buffer)

    monkeypatch.setattr(staging, "_read", second_fails)
    with pytest.raises(KeyboardInterrupt):
        copies.copy(source, there.ctypes.data)
    assert not library._copying
    monkeypatch.undo()
    monkeypatch.setattr(driver, "library", lambda: library)
    copies.copy(source, there.ctypes.data)
    assert np.array_equal(there, source)


def test_host_memory_at_an_odd_place() -> None:
    cpu = fe.open_device("cpu")
    odd = np.zeros(65, np.float16)[1:]
    assert cpu.to_device(odd, copy=False) is odd
    assert cpu.to_device(odd, copy=False, align=2) is odd
    copy = cpu.to_device(odd, copy=False, align=16)
    assert copy is not odd
    assert copy.ctypes.data % 16 == 0


@pytest.mark.gpu
@pytest.mark.parametrize("nbytes", SIZES)
def test_on_a_gpu(gpu: fe.Device, nbytes: int, tmp_path: Path) -> None:
    """Of an array, and of a file's pages."""
    source = noise(nbytes)
    assert np.array_equal(gpu.to_host(gpu.to_device(source)), source)
    file = tmp_path / "bytes"
    file.write_bytes(source.tobytes())
    with file.open("rb") as handle:
        pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    there = gpu.to_device(np.frombuffer(pages, np.uint8))
    assert np.array_equal(gpu.to_host(there), source)
    gpu.write(there, source[::-1].copy())
    assert np.array_equal(gpu.to_host(there), source[::-1])
