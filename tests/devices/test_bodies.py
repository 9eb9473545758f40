"""Bodies of graphs: what the device runs once, again, or not at all."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import split
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere

ONE = fe.LaunchConfig(1, 1)
COUNT = """.version 7.0
.target sm_70
.address_size 64

.visible .entry count_down (.param .u64 left, .param .u64 total)
{
    .reg .b32 %n, %sum;
    .reg .b64 %left, %total;
    ld.param.u64 %left, [left];
    ld.param.u64 %total, [total];
    cvta.to.global.u64 %left, %left;
    cvta.to.global.u64 %total, %total;
    ld.global.u32 %n, [%left];
    ld.global.u32 %sum, [%total];
    add.s32 %sum, %sum, %n;
    sub.s32 %n, %n, 1;
    st.global.u32 [%total], %sum;
    st.global.u32 [%left], %n;
    ret;
}
"""
SIDECAR = {
    "params": [
        {"name": "left", "type": "*i32", "role": "output"},
        {"name": "total", "type": "*i32", "role": "output"},
    ]
}


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


def kernel(device: fe.Device) -> fe.Kernel:
    return device.load_module(COUNT, SIDECAR).get_kernel()


def numbers(device: fe.Device, *values: int) -> list[Any]:
    return [device.to_device(np.array([value], np.int32)) for value in values]


def run(device: fe.Device, graph: fe.LaunchGraph, *arrays: Any) -> list[int]:
    """Launch it; the numbers then."""
    graph.launch()
    device.synchronize()
    return [int(device.to_host(array)[0]) for array in arrays]


def test_a_loop_that_the_device_ends(device: fe.Device) -> None:
    count, (left, total) = kernel(device), numbers(device, 5, 0)
    with device.capture() as graph, graph.repeat(left):
        count.launch(ONE, left, total, stream=graph.stream)
    assert len(graph) == 1
    assert run(device, graph, left, total) == [0, 15]
    assert run(device, graph, left, total) == [0, 15], "no round"
    device.write(left, np.array([1000], np.int32))
    assert run(device, graph, left, total) == [0, 15 + 500_500]


def test_launches_around_bodies(device: fe.Device) -> None:
    count, (first, flag, looped, total) = kernel(device), numbers(device, 7, 1, 3, 0)
    with device.capture() as graph:
        outside = graph.stream
        count.launch(ONE, first, total, stream=graph.stream)
        with graph.when(flag):
            count.launch(ONE, flag, total, stream=graph.stream)
        with graph.repeat(looped):
            count.launch(ONE, looped, total, stream=graph.stream)
        count.launch(ONE, first, total, stream=graph.stream)
        assert graph.stream is outside
    assert len(graph) == 4
    assert run(device, graph, first, flag, looped, total) == [5, 0, 0, 7 + 1 + 6 + 6]
    assert run(device, graph, first, flag, looped, total) == [3, 0, 0, 20 + 5 + 4]


def test_bodies_within_bodies(device: fe.Device) -> None:
    """Rows of a triangle: the inner loop counts down what the outer one has set."""
    count, (rows, left, total, flag) = kernel(device), numbers(device, 4, 0, 0, 1)
    with device.capture() as graph, graph.repeat(rows):
        count.launch(ONE, rows, left, stream=graph.stream)  # left = the row
        with graph.repeat(left):
            count.launch(ONE, left, total, stream=graph.stream)
            with graph.when(flag):
                count.launch(ONE, flag, total, stream=graph.stream)
    assert run(device, graph, rows, left, total, flag) == [0, 0, 10 + 6 + 3 + 1 + 1, 0]


def test_scratch_within_a_body(device: fe.Device) -> None:
    pairs = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
    count, (left, total) = kernel(device), numbers(device, 3, 0)
    a = device.to_device(np.arange(6, dtype=np.int32))
    out = device.to_device(np.zeros(3, np.int32))
    with device.capture() as graph, graph.repeat(left):
        pairs.launch(fe.LaunchConfig((2, 3), 32), a=a, out=out, tiles=3, stream=graph.stream)
        count.launch(ONE, left, total, stream=graph.stream)
    assert run(device, graph, left) == [0]
    np.testing.assert_array_equal(device.to_host(out), [1, 5, 9])


def test_numbers_live_as_long_as_the_graph(device: fe.Device) -> None:
    count, (left, flag, total) = kernel(device), numbers(device, 2, 1, 0)
    with device.capture() as graph, graph.when(flag):
        count.launch(ONE, left, total, stream=graph.stream)
    del flag
    gc.collect()
    others = numbers(device, *[0] * 16)
    assert run(device, graph, left, total) == [1, 2]
    assert run(device, graph, left, total) == [0, 3]
    del others


def graph_of(device: fe.Device, number: Any, *launched: Any) -> fe.LaunchGraph:
    """A loop while `number` is not 0; launched: what its body counts down, nothing, or no array."""
    count, (first, total) = kernel(device), numbers(device, 1, 0)
    with device.capture() as graph:
        count.launch(ONE, first, total, stream=graph.stream)
        with graph.repeat(number):
            for array in launched:
                count.launch(ONE, array, total, stream=graph.stream)
    return graph


def test_what_is_refused(device: fe.Device) -> None:
    (left,), long = numbers(device, 2), device.to_device(np.zeros(2, np.int32))
    with pytest.raises(fe.AbiError, match="number: expected an int32 or uint32 array of one elem"):
        graph_of(device, long, left)
    with pytest.raises(fe.LaunchError, match="nothing was launched within a body"):
        graph_of(device, left)
    with pytest.raises(fe.AbiError, match="left: "):
        graph_of(device, left, None)
    graph = graph_of(device, left, left)
    with pytest.raises(fe.LaunchError, match="bodies are captured in its block alone"):
        graph.repeat(left).__enter__()
    with pytest.raises(fe.LaunchError, match="its body cannot be changed; capture the graph again"):
        graph.update(1, left=long)
    with device.record_plan(), pytest.raises(fe.LaunchError, match="bodies that the device dec"):
        graph.launch()
