"""Several GPUs in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import canonical
from tests.devices.foreign import to_numpy
from tests.ptx import IOTA

pytestmark = pytest.mark.gpu


@pytest.fixture
def two() -> Iterator[list[fe.Device]]:
    try:
        yield [fe.open_device("cuda:0"), fe.open_device("cuda:1")]
    except fe.DeviceError as error:
        pytest.skip(f"one GPU only: {error}")


def test_a_layer_on_each_launches_interleaved(two: list[fe.Device]) -> None:
    layers = [fe.GptqLinear(canonical.TENSORS, device=device) for device in two]
    streams = [device.create_stream() for device in two]
    inputs = [device.to_device(canonical.A) for device in two]
    results = [[], []]
    for _ in range(10):
        for n, layer in enumerate(layers):
            results[n].append(layer(inputs[n], stream=streams[n]))
    for device, ys in zip(two, results, strict=True):
        for y in ys:
            canonical.check(device, y)


def test_a_plan_and_a_graph_on_each(two: list[fe.Device]) -> None:
    recorded = []
    for device in two:
        layer = fe.GptqLinear(canonical.TENSORS, device=device)
        x, planned, captured = device.to_device(canonical.A), layer_out(device), layer_out(device)
        layer(x, out=planned)
        with device.record_plan() as plan:
            layer(x, out=planned)
        with device.capture() as graph:
            layer(x, out=captured, stream=graph.stream)
        recorded.append((device, plan, planned, graph, captured))
    for _ in range(3):
        for _, plan, _, graph, _ in recorded:
            plan()
            graph.launch()
    for device, _, planned, _, captured in recorded:
        canonical.check(device, planned)
        canonical.check(device, captured)


def layer_out(device: fe.Device) -> Any:
    return device.to_device(np.full((canonical.M, canonical.N), np.nan, np.float16))


def test_arrays_of_the_wrong_device(two: list[fe.Device]) -> None:
    first, second = two
    x, y = first.to_device(canonical.A), second.to_device(canonical.A)
    layer = fe.GptqLinear(canonical.TENSORS, device=first)
    canonical.check(first, layer(x))
    message = "a: expected an array on cuda:0, found one on cuda:1; copy it to this device first"
    with pytest.raises(fe.AbiError, match=message):
        layer(y)
    with pytest.raises(fe.AbiError, match="c: expected an array on cuda:0, found one on cuda:1"):
        layer(x, out=layer_out(second))
    with pytest.raises(fe.AbiError, match="array: expected an array on cuda:1, found one on"):
        second.to_host(x)
    canonical.check(first, layer(x))


def test_streams_of_the_wrong_device(two: list[fe.Device]) -> None:
    first, second = two
    out = first.to_device(np.zeros(8, np.int32))
    kernel = first.load_module(IOTA).get_kernel()
    with pytest.raises(fe.FerrumError, match="stream"):
        kernel.launch(fe.LaunchConfig(1, 32), out, 8, stream=second.create_stream())
    kernel.launch(fe.LaunchConfig(1, 32), out, 8, stream=first.create_stream())
    np.testing.assert_array_equal(first.to_host(out), np.arange(8))


def test_a_module_on_each(two: list[fe.Device]) -> None:
    modules = [device.load_module(IOTA) for device in two]
    assert modules[0] is not modules[1]
    outs = [device.to_device(np.zeros(8, np.int32)) for device in two]
    for module, out in zip(modules, outs, strict=True):
        module.get_kernel().launch(fe.LaunchConfig(1, 32), out, 8)
    for device, out in zip(two, outs, strict=True):
        np.testing.assert_array_equal(device.to_host(out), np.arange(8))


def test_whatever_device_is_current(two: list[fe.Device]) -> None:
    torch = pytest.importorskip("torch")
    calls = []
    for device in two:
        arguments = canonical.arguments(device)
        call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
        call()  # from now on it goes the short way
        device.synchronize()
        calls.append((call, arguments["c"]))
    for current in (0, 1):
        with torch.cuda.device(current):
            for device in two:
                layer = fe.GptqLinear(canonical.TENSORS, device=device)
                canonical.check(device, layer(device.to_device(canonical.A)))
            assert torch.cuda.current_device() == current
            for device, (call, c) in zip(two, calls, strict=True):
                call()
                canonical.check(device, c)
            assert fe.open_device("cuda") is two[current]


def test_torch_tensors_of_the_other_device(two: list[fe.Device]) -> None:
    torch = pytest.importorskip("torch")
    layer = fe.GptqLinear(canonical.TENSORS, device=two[1])
    x = torch.from_numpy(canonical.A).to("cuda:1")
    out = torch.zeros(canonical.M, canonical.N, dtype=torch.float16, device="cuda:1")
    stream = torch.cuda.Stream(device=1)
    torch.cuda.synchronize(1)
    layer(x, out=out, stream=stream)
    stream.synchronize()
    found = to_numpy(out).astype(np.float64)
    error = np.linalg.norm(found - canonical.EXPECTED)
    assert error <= 1e-3 * np.linalg.norm(canonical.EXPECTED)


def test_a_lost_device_and_the_other() -> None:
    """In a process of its own: cuda:0 dies.  cuda:1 works on, or says that it is lost as well.

    Which of the two is the driver's affair: driver 580 on two H200s takes both.
    """
    from tests.devices.processes import run
    from tests.devices.test_lifetime import LOSE, PRELUDE

    try:
        fe.open_device("cuda:1")
    except fe.DeviceError as error:
        pytest.skip(f"one GPU only: {error}")
    code = """
    second = fe.open_device("cuda:1")
    layer = fe.GptqLinear(canonical.TENSORS, device=second)
    x = second.to_device(canonical.A)
    kill()
    report(device.synchronize)
    try:
        canonical.check(second, layer(x))
    except (fe.LaunchError, fe.DeviceError) as error:
        assert "cuda:1" in str(error) and "start a new process" in str(error), error
    print("said")
    """
    assert run(code, prelude=PRELUDE + LOSE).splitlines()[-1] == "said"
