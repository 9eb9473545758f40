"""Buffers that a kernel owns: the launcher provides them, and nobody else sees them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import split
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


def config(tiles: int) -> fe.LaunchConfig:
    return fe.LaunchConfig((2, tiles), 32)


def arrays(device: fe.Device, tiles: int, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 1000, 2 * tiles, np.int32)
    out = device.to_device(np.full(tiles, -1, np.int32))
    return {"a": device.to_device(a), "out": out, "tiles": tiles}, a.reshape(-1, 2).sum(1)


@pytest.fixture
def kernel(device: fe.Device) -> fe.Kernel:
    return device.load_module(split.TEXT, split.SIDECAR).get_kernel()


def test_they_are_provided_and_grow(device: fe.Device, kernel: fe.Kernel) -> None:
    assert [p.name for p in kernel.signature.arguments] == ["a", "out", "tiles", "bias"]
    for tiles in (3, 40_000, 5, 3):
        arguments, expected = arrays(device, tiles, tiles)
        for _ in range(3):
            kernel.launch(config(tiles), **arguments)
        np.testing.assert_array_equal(device.to_host(arguments["out"]), expected)


def test_a_pointer_that_may_be_left_out(device: fe.Device, kernel: fe.Kernel) -> None:
    arguments, expected = arrays(device, 4)
    bias = np.arange(4, dtype=np.int32)
    for given, added in (({"bias": device.to_device(bias)}, bias), ({"bias": None}, 0), ({}, 0)):
        kernel.launch(config(4), **arguments, **given)
        np.testing.assert_array_equal(device.to_host(arguments["out"]), expected + added)
    kernel.launch(config(4), *arguments.values())
    np.testing.assert_array_equal(device.to_host(arguments["out"]), expected)
    call = kernel.prepare(config(4), **arguments)
    call.update(bias=device.to_device(bias))()
    np.testing.assert_array_equal(device.to_host(arguments["out"]), expected + bias)
    call.update(bias=None)()
    np.testing.assert_array_equal(device.to_host(arguments["out"]), expected)
    short = device.to_device(bias)[:3]
    with pytest.raises(fe.AbiError, match="bias: expected at least 16 bytes"):
        kernel.launch(config(4), **arguments, bias=short)
    with pytest.raises(fe.AbiError, match="a: expected an? .*array"):
        kernel.launch(config(4), **arguments | {"a": None})


@pytest.mark.parametrize("name", ["workspace", "counters"])
def test_the_caller_does_not_pass_them(device: fe.Device, kernel: fe.Kernel, name: str) -> None:
    arguments, _ = arrays(device, 2)
    with pytest.raises(fe.AbiError, match=f"{name}: the launcher fills it in; leave it out"):
        kernel.launch(config(2), **arguments, **{name: arguments["a"]})


def test_many_streams_and_threads_at_once(device: fe.Device, kernel: fe.Kernel) -> None:
    """Each launches its own tiles, prepared and not, over and over."""

    def run(number: int) -> None:
        stream = device.create_stream()
        arguments, expected = arrays(device, 50 + number, number)
        device.synchronize()
        call = kernel.prepare(config(50 + number), **arguments)
        for _ in range(10):
            kernel.launch(config(50 + number), **arguments, stream=stream)
            call(stream)
        stream.synchronize()
        np.testing.assert_array_equal(device.to_host(arguments["out"]), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))


def test_a_prepared_launch_outgrows_its_workspace(device: fe.Device, kernel: fe.Kernel) -> None:
    small, expected_small = arrays(device, 2)
    large, expected_large = arrays(device, 50_000)
    call = kernel.prepare(config(2), **small)
    call()
    kernel.launch(config(50_000), **large)
    call()
    np.testing.assert_array_equal(device.to_host(small["out"]), expected_small)
    call.update(**large)()
    assert call.config.grid == (2, 50_000, 1)
    np.testing.assert_array_equal(device.to_host(large["out"]), expected_large)


def test_counters_that_a_kernel_leaves_behind() -> None:
    device = fe.open_device("cpu")
    forgetful = split.TEXT.replace("st.global.u32 [%rd5], 0;", "")
    kernel = device.load_module(forgetful, split.SIDECAR).get_kernel()
    arguments, expected = arrays(device, 3)
    for _ in range(2):  # the next launch is not spoilt by it
        with pytest.raises(
            fe.LaunchError, match="counters: expected zeros, as the kernel has to leave them"
        ):
            kernel.launch(config(3), **arguments)
        np.testing.assert_array_equal(arguments["out"], expected)


def test_the_checks_know_them() -> None:
    checked = fe.open_device("cpu", checks=("memory", "init"))
    arguments, expected = arrays(checked, 3)
    checked.load_module(split.TEXT, split.SIDECAR).get_kernel().launch(config(3), **arguments)
    np.testing.assert_array_equal(arguments["out"], expected)
    short = split.SIDECAR["params"][4] | {"nbytes": "8 * tiles - 4"}
    params = [*split.SIDECAR["params"][:4], short, *split.SIDECAR["params"][5:]]
    kernel = checked.load_module(split.TEXT, split.SIDECAR | {"params": params}).get_kernel()
    with pytest.raises(fe.SanitizerError, match="workspace"):
        kernel.launch(config(3), **arguments)


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (4, {"nbytes": "8 * columns"}, "'8 \\* columns': .*, found columns"),
        (4, {"nbytes": 8}, "expected an expression as a string"),
        (4, {"type": "i64"}, "workspace: expected nbytes for a pointer"),
        (0, {"nbytes": "8"}, "a: expected nbytes for .*found 8 for \\*i32 \\(input\\)"),
        (2, {"nullable": True}, "tiles: nullable: expected true or false, and true only"),
        (5, {"nullable": True}, "counters: nullable"),
        (3, {"nullable": 1}, "bias: nullable"),
    ],
)
def test_declarations_that_make_no_sense(index: int, change: dict[str, Any], message: str) -> None:
    params = [dict(p) for p in split.SIDECAR["params"]]
    params[index] |= change
    with pytest.raises(fe.AbiError, match=message):
        fe.Sidecar.read(split.SIDECAR | {"params": params})


def test_a_workspace_without_a_size() -> None:
    params = [dict(p) for p in split.SIDECAR["params"]]
    del params[4]["nbytes"]
    with pytest.raises(fe.AbiError, match="workspace: expected nbytes.*found none"):
        fe.Sidecar.read(split.SIDECAR | {"params": params})


def test_there_and_back() -> None:
    sidecar = fe.Sidecar.read(split.SIDECAR)
    assert fe.Sidecar.read(sidecar.to_mapping()).params == sidecar.params
