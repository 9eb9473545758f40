from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda.numba_cuda import unusable


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERRUM_DEVICE", raising=False)
    assert fe.open_device().name == ("cpu" if unusable() else "cuda:0")


def test_the_environment_overrides_auto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRUM_DEVICE", "cpu")
    assert fe.open_device().name == "cpu"
    monkeypatch.setenv("FERRUM_DEVICE", "tpu")
    assert fe.open_device("cpu").name == "cpu"
    with pytest.raises(fe.DeviceError, match="^FERRUM_DEVICE: expected .* found 'tpu'"):
        fe.open_device()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(fe.DeviceError, match='expected "auto", "cpu", "cuda"'):
        fe.open_device(name)


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_no_gpu_here() -> None:
    with pytest.raises(fe.DeviceError, match=r'device "cuda": .*use open_device\("cpu"\)'):
        fe.open_device("cuda")


@pytest.mark.gpu
def test_no_such_gpu() -> None:
    with pytest.raises(fe.DeviceError, match="expected an ordinal below"):
        fe.open_device("cuda:99")
    with pytest.raises(fe.DeviceError, match="threads: expected the CPU device"):
        fe.open_device("cuda", threads=2)


def test_threads() -> None:
    assert fe.open_device("cpu", threads=1) is fe.open_device("cpu", threads=1)
    with pytest.raises(fe.DeviceError, match="threads: expected at least 1, found 0"):
        fe.open_device("cpu", threads=0)


def test_checks_are_several() -> None:
    with pytest.raises(fe.DeviceError, match=r'such as \("memory",\), found .memory'):
        fe.open_device("cpu", checks="memory")


def test_arrays_there_and_back(device: fe.Device) -> None:
    host = np.arange(24, dtype=np.float16).reshape(4, 6)
    there = device.to_device(host[:, ::2])
    np.testing.assert_array_equal(device.to_host(there), host[:, ::2])
    assert device.to_device(there, copy=False) is there
    assert device.empty((2, 3), np.float16).shape == (2, 3)
    with pytest.raises(fe.AbiError, match="array: expected"):
        device.to_device([1, 2])
    with pytest.raises(fe.AbiError, match="array: expected"):
        device.to_host("abc")
