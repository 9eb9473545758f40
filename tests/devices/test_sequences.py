"""Plans and graphs: recorded launches, repeated as one and changed in place."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import split
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere
from tests.ptx import DELAY, IOTA

CONFIG = fe.LaunchConfig(1, 128)


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


def config(tiles: int) -> fe.LaunchConfig:
    return fe.LaunchConfig((2, tiles), 32)


class Chain:
    """out1 = pairs of (0, 1, ... n - 1); out2 = pairs of out1: one kernel with scratch of its own,
    and one without."""

    def __init__(self, device: fe.Device, tiles: int = 4) -> None:
        self.device, self.tiles = device, tiles
        self.iota = device.load_module(IOTA).get_kernel()
        self.pairs = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
        self.arrays = [self.blank(4 * tiles), self.blank(2 * tiles), self.blank(tiles)]

    def blank(self, n: int) -> Any:
        return self.device.to_device(np.full(n, -1, np.int32))

    def launch(self, stream: Any) -> None:
        numbers, halves, quarters = self.arrays
        tiles = self.tiles
        self.iota.launch(CONFIG, numbers, 4 * tiles, stream=stream)
        self.pairs.launch(config(2 * tiles), a=numbers, out=halves, tiles=2 * tiles, stream=stream)
        call = self.pairs.prepare(config(tiles), a=halves, out=quarters, tiles=tiles)
        call(stream)

    def expected(self) -> np.ndarray:
        return np.arange(4 * self.tiles).reshape(-1, 4).sum(1)

    def check(self) -> None:
        np.testing.assert_array_equal(self.device.to_host(self.arrays[2]), self.expected())


def record_plan(device: fe.Device, chain: Chain) -> tuple[Any, Callable[[Any], None]]:
    with device.record_plan() as plan:
        chain.launch(None)
    return plan, plan


def capture(device: fe.Device, chain: Chain) -> tuple[Any, Callable[[Any], None]]:
    with device.capture() as graph:
        chain.launch(graph.stream)
    return graph, graph.launch


Record = Callable[[fe.Device, Chain], tuple[Any, Callable[[Any], None]]]
RECORD = pytest.mark.parametrize("record", [record_plan, capture])


@RECORD
def test_nothing_runs_until_it_is_issued(device: fe.Device, record: Record) -> None:
    chain = Chain(device)
    recorded, issue = record(device, chain)
    assert len(recorded) == 3
    assert (device.to_host(chain.arrays[2]) == -1).all()
    for stream in (None, device.create_stream(), None):
        issue(stream)
        issue(stream)
        device.synchronize()
        chain.check()
    assert recorded[1].config.grid == (2, 8, 1)


@RECORD
def test_steps_are_changed_in_place(device: fe.Device, record: Record) -> None:
    chain = Chain(device)
    recorded, issue = record(device, chain)
    issue(None)
    bias = device.to_device(np.arange(4, dtype=np.int32))
    recorded.update(2, bias=bias)
    issue(None)
    expected = chain.expected()
    np.testing.assert_array_equal(device.to_host(chain.arrays[2]), expected + np.arange(4))
    # Sizes: the grid follows, and so does the scratch.
    large = Chain(device, 30_000)
    recorded.update(2, a=large.arrays[0], out=large.arrays[1], tiles=60_000, bias=None)
    recorded.update(0, out=large.arrays[0], n=128)
    device.synchronize()
    issue(None)
    assert recorded[2].config.grid == (2, 60_000, 1)
    found = device.to_host(large.arrays[1])
    np.testing.assert_array_equal(found[:64], np.arange(128).reshape(-1, 2).sum(1))
    assert (found[64:] == -2).all()


@RECORD
def test_an_array_is_replaced_everywhere(device: fe.Device, record: Record) -> None:
    chain = Chain(device)
    recorded, issue = record(device, chain)
    halves, quarters = chain.blank(8), chain.blank(4)
    assert recorded.replace(chain.arrays[1], halves) == 2
    assert recorded.replace(chain.arrays[2], quarters) == 1
    assert recorded.replace(chain.arrays[2], quarters) == 0
    issue(None)
    np.testing.assert_array_equal(device.to_host(quarters), chain.expected())
    assert (device.to_host(chain.arrays[1]) == -1).all()


@RECORD
def test_errors_name_the_step(device: fe.Device, record: Record) -> None:
    chain = Chain(device)
    recorded, issue = record(device, chain)
    for step, changes, message in (
        (1, {"tiles": 9}, "step 1: a: expected at least"),
        (2, {"out": chain.arrays[1].view(np.float32)}, "step 2: out: expected dtype int32"),
        (2, {"out": 5}, "step 2: out: expected"),
        (3, {"tiles": 1}, "step: expected 0 to 2, found 3"),
    ):
        with pytest.raises(fe.AbiError, match=message):
            recorded.update(step, **changes)
    with pytest.raises(fe.AbiError, match="step 2: bias: expected at least"):
        recorded.update(2, bias=device.to_device(np.zeros(2, np.int32)))
    issue(None)
    chain.check()


@RECORD
def test_arrays_live_as_long_as_it(device: fe.Device, record: Record) -> None:
    chain = Chain(device)
    device.synchronize()
    recorded, issue = record(device, chain)
    alive = [weakref.ref(array) for array in chain.arrays]
    out, chain.arrays = chain.arrays[2], []
    gc.collect()
    issue(None)
    np.testing.assert_array_equal(device.to_host(out), chain.expected())
    assert all(reference() is not None for reference in alive)
    del recorded, issue, out
    device.synchronize()
    gc.collect()
    assert all(reference() is None for reference in alive)


@RECORD
def test_threads_and_streams(device: fe.Device, record: Record) -> None:
    """Each thread has its own recording under way, and its own stream."""

    def run(tiles: int) -> None:
        chain = Chain(device, tiles)
        _, issue = record(device, chain)
        stream = device.create_stream()
        for _ in range(5):
            issue(stream)
        stream.synchronize()
        chain.check()  # waits for the device, though other threads capture

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1, 9)))


def test_a_plan_within_a_graph_and_within_a_plan(device: fe.Device) -> None:
    chain = Chain(device)
    plan, _ = record_plan(device, chain)
    with device.capture() as graph:
        plan(graph.stream)
    with device.record_plan() as twice:
        plan()
        graph.launch()
    assert (len(graph), len(twice)) == (3, 6)
    graph.launch()
    chain.check()
    twice()
    chain.check()


def test_captures_do_not_nest(device: fe.Device) -> None:
    with (
        device.record_plan(),
        pytest.raises(fe.LaunchError, match="recording a plan or a graph already"),
        device.record_plan(),
    ):
        pass


def test_an_empty_graph(device: fe.Device) -> None:
    with pytest.raises(fe.LaunchError, match="capture: nothing was launched"), device.capture():
        pass


def test_a_launch_beside_the_captured_stream(device: fe.Device) -> None:
    chain = Chain(device)
    other = device.create_stream()
    for stream in (None, other):
        with (
            pytest.raises(fe.LaunchError, match=r"stream: expected graph\.stream"),
            device.capture(),
        ):
            chain.launch(stream)
    chain.launch(other)  # nothing is left of the broken captures
    other.synchronize()
    chain.check()


def test_an_error_within_a_capture_ends_it(device: fe.Device) -> None:
    chain = Chain(device)

    def broken() -> None:
        with device.capture() as graph:
            chain.launch(graph.stream)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken()
    graph, _ = capture(device, chain)
    graph.launch()
    chain.check()


def test_a_stream_of_ones_own(device: fe.Device) -> None:
    chain, stream = Chain(device), device.create_stream()
    with device.capture(stream) as graph:
        assert graph.stream is stream
        chain.launch(stream)
    graph.launch(stream)
    device.synchronize()
    chain.check()


@pytest.mark.gpu
def test_a_refused_step_is_named(gpu: fe.Device) -> None:
    chain = Chain(gpu)
    with gpu.record_plan() as plan:
        chain.launch(None)
        too_many = fe.LaunchConfig(10**6, 128, cooperative=True)  # CTAs at a time
        chain.iota.launch(too_many, chain.arrays[0], 4)
    for stream in (None, gpu.create_stream()):
        for _ in range(2):
            with pytest.raises(fe.LaunchError, match=r"step 3: k on cuda:0: grid \(1000000,"):
                plan(stream)
    gpu.synchronize()
    chain.check()


def test_a_graph_is_timed_launch_by_launch(device: fe.Device) -> None:
    chain = Chain(device)
    graph, _ = capture(device, chain)
    seconds = graph.seconds(3)
    assert len(seconds) == 3
    assert min(seconds) > 0
    chain.check()


@pytest.mark.gpu
def test_a_graph_takes_as_long_as_its_kernels(gpu: fe.Device) -> None:
    kernel, out = gpu.load_module(DELAY).get_kernel(), gpu.to_device(np.zeros(128, np.int32))
    with gpu.capture() as graph:
        for _ in range(2):
            kernel.launch(CONFIG, out, 5_000_000, 7, 128, stream=graph.stream)  # nanoseconds
    assert min(graph.seconds(2)) > 0.009  # the kernel's clock ticks more coarsely than an event's


@pytest.mark.gpu
def test_a_graph_that_another_library_captures_has_scratch_of_its_own(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    chain = Chain(gpu, 50)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    call = chain.pairs.prepare(config(50), a=chain.arrays[1], out=chain.arrays[2], tiles=50)
    call(stream)
    gpu.synchronize()
    arenas = gpu.scratch
    with torch.cuda.graph(graph, stream=stream):
        chain.iota.launch(CONFIG, chain.arrays[0], 128, stream=stream)
        chain.pairs.launch(
            config(100), a=chain.arrays[0], out=chain.arrays[1], tiles=100, stream=stream
        )
        call(stream)
    ours = set(arenas._graphs)
    for _ in range(3):
        graph.replay()
        call(stream)
    gpu.synchronize()
    numbers = np.where(np.arange(200) < 128, np.arange(200), -1)
    np.testing.assert_array_equal(gpu.to_host(chain.arrays[2]), numbers.reshape(-1, 4).sum(1))
    del graph
    gc.collect()
    gpu.synchronize()
    for _ in range(100):  # the driver says so in its own time
        capture(gpu, Chain(gpu))
        if ours.isdisjoint(arenas._graphs):
            break
    else:
        pytest.fail("its scratch is freed at the next capture")


@pytest.mark.gpu
def test_work_of_another_library_becomes_part_of_a_graph(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    chain = Chain(gpu)
    stream = torch.cuda.Stream()
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    chain.arrays[2] = out
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), gpu.capture(stream) as graph:
        chain.launch(stream)
        out.add_(1)
    assert len(graph) == 3
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.cpu().numpy(), chain.expected() + 1)


@pytest.mark.gpu
def test_a_graph_is_changed_while_it_runs(gpu: fe.Device) -> None:
    kernel = gpu.load_module(DELAY).get_kernel()
    first, second = (gpu.to_device(np.zeros(1, np.int32)) for _ in range(2))
    with gpu.capture() as graph:
        kernel.launch(CONFIG, first, 50_000_000, 1, 1, stream=graph.stream)
    stream = gpu.create_stream()
    graph.launch(stream)
    graph.update(0, out=second, ns=1, value=2)
    graph.launch(stream)
    stream.synchronize()
    assert (gpu.to_host(first)[0], gpu.to_host(second)[0]) == (1, 2)
