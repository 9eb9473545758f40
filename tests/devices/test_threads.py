"""Launches, loads and layers from many threads at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import canonical
from tests.ptx import IOTA

THREADS = 8


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """work(0) ... work(THREADS - 1), each in a thread, all let go at the same time."""
    barrier = threading.Barrier(THREADS)

    def start(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def test_launches_on_many_streams(device: fe.Device) -> None:
    kernel = canonical.kernel(device)
    rounds = 20 if device.name.startswith("cuda") else 2

    def work(index: int) -> None:
        stream = device.create_stream()
        a = np.roll(canonical.A, index, axis=0)
        arguments = canonical.arguments(device) | {"a": device.to_device(a)}
        for _ in range(rounds):
            c = device.empty((canonical.M, canonical.N), np.float16)
            kernel.launch(canonical.CONFIG, **arguments | {"c": c}, stream=stream)
            stream.synchronize()
            found = np.roll(device.to_host(c), -index, axis=0).astype(np.float64)
            error = np.linalg.norm(found - canonical.EXPECTED)
            assert error <= 1e-3 * np.linalg.norm(canonical.EXPECTED)

    at_once(work)


def test_one_prepared_launch_for_all(device: fe.Device) -> None:
    """As long as nobody updates it."""
    arguments = canonical.arguments(device)
    call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
    at_once(lambda _: [call(device.create_stream()) for _ in range(3)])
    canonical.check(device, arguments["c"])


def test_the_same_module_and_kernel_for_all(device: fe.Device) -> None:
    text = IOTA + "// loaded by many threads\n"
    modules = at_once(lambda _: device.load_module(text))
    assert len(set(map(id, modules))) == 1
    assert len(set(map(id, at_once(lambda _: modules[0].get_kernel())))) == 1


def test_different_modules(device: fe.Device) -> None:
    def work(index: int) -> None:
        kernel = device.load_module(IOTA + f"// for thread {index}\n").get_kernel()
        out = device.empty(32, np.int32)
        kernel.launch(fe.LaunchConfig(1, 32), out, 32, stream=device.create_stream())
        np.testing.assert_array_equal(device.to_host(out), np.arange(32))

    at_once(work)


def test_layers_are_made_and_used(device: fe.Device) -> None:
    x = device.to_device(canonical.A)

    def work(index: int) -> None:
        layer = fe.GptqLinear(canonical.TENSORS, device=device)
        canonical.check(device, layer(x, stream=device.create_stream()))

    at_once(work)


def test_one_layer_for_all(device: fe.Device) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=device)

    def work(index: int) -> None:
        stream = device.create_stream()
        x = device.to_device(np.roll(canonical.A, index, axis=0))
        for _ in range(3):
            y = layer(x, stream=stream)
            stream.synchronize()
            canonical.check(device, np.roll(device.to_host(y), -index, axis=0))

    at_once(work)


@pytest.mark.gpu
def test_threads_without_a_context_of_their_own(gpu: fe.Device) -> None:
    """The driver keeps a current context for each thread; ours is not left behind there."""
    import ctypes

    driver = ctypes.CDLL("libcuda.so.1")
    array = gpu.empty(8, np.int32)

    def work(index: int) -> int | None:
        gpu.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(1, 32), array, 8)
        gpu.to_host(gpu.to_device(np.zeros(4)))
        context = ctypes.c_void_p()
        driver.cuCtxGetCurrent(ctypes.byref(context))
        return context.value

    assert at_once(work) == [None] * THREADS


def test_an_array_while_another_thread_loads_masked_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))  # as far as it has come
    assert fe.open_device("cpu").describe("x", np.zeros(3)).shape == (3,)
