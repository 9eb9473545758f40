"""Memory of devices: figures, limits, reuse, and freeing amid captures of any library."""

from __future__ import annotations

import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import addressof, c_int
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import captures, driver, in_flight
from ferrum_numba.devices.cuda.objects import Instance
from tests.devices import canonical
from tests.devices.emulated_driver import EmulatedDriver
from tests.devices.emulated_gpu import EVERYWHERE, EmulatedGpu, open_anywhere
from tests.devices.test_threads import at_once
from tests.ptx import IOTA

KIB, MIB = 1 << 10, 1 << 20
CONFIG = fe.LaunchConfig(1, 128)
ON_GPUS = [name for name in EVERYWHERE if name != "cpu"]


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[fe.Device]:
    yield from ready(request.param, monkeypatch)


@pytest.fixture(params=ON_GPUS)
def any_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[fe.Device]:
    yield from ready(request.param, monkeypatch)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedGpu]:
    """A GPU of its own, so that its driver is as new."""
    open_anywhere("emulated", monkeypatch)  # skips where there is a GPU
    library = EmulatedDriver()
    monkeypatch.setattr(driver, "library", lambda: library)
    driver.launcher.cache_clear()
    yield EmulatedGpu(library)
    driver.launcher.cache_clear()


def ready(name: str, patch: pytest.MonkeyPatch) -> Iterator[fe.Device]:
    """A device on which nothing is in flight, and without a limit afterwards."""
    device = open_anywhere(name, patch)
    gc.collect()
    device.synchronize()
    yield device
    device.memory.limit = None


def address(device: fe.Device, array: Any) -> int:
    return device.describe("array", array).address


# ---- figures ----


def test_what_is_in_use(device: fe.Device) -> None:
    before = device.memory.in_use
    first = device.empty((MIB, 2), np.float32)
    second = device.empty(3, np.int32)
    assert 8 * MIB + 12 <= device.memory.in_use - before <= 8 * MIB + 1024
    assert device.memory.peak >= device.memory.in_use
    assert device.memory.reserved >= device.memory.in_use
    view = first[1:]
    del first, second
    assert 8 * MIB <= device.memory.in_use - before < 8 * MIB + 512, "the view is one of it"
    del view
    assert device.memory.in_use == before
    assert device.memory.peak >= before + 8 * MIB
    assert f"{before} bytes in use" in repr(device.memory)


def test_an_array_without_elements(device: fe.Device) -> None:
    before = device.memory.in_use
    assert device.empty((0, 4), np.float16).shape == (0, 4)
    assert device.memory.in_use == before


@pytest.mark.parametrize("limit", [-1, 1.5, "1 GiB", True])
def test_a_limit_that_is_none(device: fe.Device, limit: Any) -> None:
    with pytest.raises(fe.DeviceError, match="limit: expected a number of bytes, or None, found"):
        device.memory.limit = limit
    assert device.memory.limit is None


def test_a_limit(device: fe.Device) -> None:
    kept = device.empty(4 * MIB, np.uint8)
    device.memory.limit = device.memory.in_use + MIB
    message = (
        rf"{device.name}: allocating 2097152 bytes: the limit is reached; this package has "
        rf"{device.memory.in_use} bytes in use and \d+ reserved there, limit: "
        rf"{device.memory.limit} bytes; drop arrays .* or raise device.memory.limit"
    )
    with pytest.raises(fe.DeviceError, match=message):
        device.empty(2 * MIB, np.uint8)
    device.empty(MIB // 2, np.uint8)
    del kept
    device.empty(2 * MIB, np.uint8)
    device.memory.limit = None
    device.empty(8 * MIB, np.uint8)


def test_room_is_required_ahead(device: fe.Device) -> None:
    """Without a limit, too, where the GPU has not so much; what was dropped is room."""
    memory = device.memory
    kept = device.empty(4 * MIB, np.uint8)
    memory.limit = memory.in_use + MIB
    memory.require(MIB // 2)
    expected = r"allocating 2097152 bytes of a cache: there is room for \d+; this package has"
    with pytest.raises(fe.DeviceError, match=expected):
        memory.require(2 * MIB, " of a cache")
    del kept
    memory.require(2 * MIB)
    memory.limit = None
    memory.require(8 * MIB)
    if device.name != "cpu":
        with pytest.raises(fe.DeviceError, match="limit: none"):
            memory.require(1 << 60)


def test_a_model_that_does_not_fit(device: fe.Device) -> None:
    """Nothing is left of it."""
    before = device.memory.in_use
    device.memory.limit = before + canonical.TENSORS.qweight.nbytes // 2
    if device.name == "cpu":  # which leaves the tensors where they are
        device.empty(1, np.uint8)
    else:
        with pytest.raises(fe.DeviceError, match="the limit is reached"):
            fe.GptqLinear(canonical.TENSORS, device=device)
    gc.collect()
    assert device.memory.in_use == before


# ---- reuse ----


def test_memory_is_handed_out_again(any_gpu: fe.Device) -> None:
    """Of the same size, or nearly; the driver is not asked."""
    array = any_gpu.empty(300 * KIB, np.uint8)
    place = address(any_gpu, array)
    del array
    held = any_gpu.memory.reserved
    again = any_gpu.empty((300, KIB), np.uint8)
    assert address(any_gpu, again) == place
    other = any_gpu.empty((300, KIB), np.uint8)
    assert address(any_gpu, other) != place
    assert any_gpu.memory.reserved <= held + 64 * MIB


def test_trim(emulated: EmulatedGpu) -> None:
    small = emulated.empty(KIB, np.uint8)
    arrays = [emulated.empty(n * MIB, np.uint8) for n in (1, 2, 3)]
    assert emulated.memory.reserved == 6 * MIB + KIB
    del arrays
    assert (emulated.memory.in_use, emulated.memory.reserved) == (KIB, 6 * MIB + KIB)
    emulated.memory.trim()
    assert (emulated.memory.in_use, emulated.memory.reserved) == (KIB, KIB)
    assert emulated.library.reserved == KIB
    assert emulated.memory.peak == 6 * MIB + KIB
    del small


def test_what_is_kept_is_bounded(emulated: EmulatedGpu) -> None:
    """Sizes that change all the time."""
    for n in range(1, 400):
        emulated.empty(n * MIB // 8, np.uint8)
    assert emulated.memory.in_use == 0
    assert len(emulated.library._memory) * MIB < 400 * MIB
    assert sum(memory.nbytes for memory in emulated.library._memory.values()) < 320 * MIB


def test_memory_in_flight_is_nobody_elses(emulated: EmulatedGpu) -> None:
    kernel, stream = emulated.load_module(IOTA).get_kernel(), emulated.create_stream()
    emulated.library.lags = True
    used = set()
    for _ in range(300):
        out = emulated.empty(128, np.int32)
        assert address(emulated, out) not in used, "the device may still write it"
        used.add(address(emulated, out))
        kernel.launch(CONFIG, out, 128, stream=stream)
        del out
    emulated.library.lags = False
    again = [emulated.empty(128, np.int32) for _ in range(200)]
    assert sum(address(emulated, array) in used for array in again) > 150


def test_what_is_launched_during_a_wait_is_not_waited_for(emulated: EmulatedGpu) -> None:
    """By another thread, say."""
    kernel, library = emulated.load_module(IOTA).get_kernel(), emulated.library
    arrays = [emulated.empty(128, np.int32) for _ in range(2)]
    first, second = map(weakref.ref, arrays)
    library.lags = True
    kernel.launch(CONFIG, arrays.pop(0), 128)
    with emulated.in_flight.waited_for():
        kernel.launch(CONFIG, arrays.pop(), 128)
        assert first() is not None
    assert first() is None
    assert second() is not None
    emulated.synchronize()
    assert second() is None


def test_no_memory_before_the_device_has_caught_up(emulated: EmulatedGpu) -> None:
    """Memory in flight is waited for, and spare memory is given back, before it is an error."""
    kernel = emulated.load_module(IOTA).get_kernel()
    emulated.library.capacity = emulated.library.reserved + 9 * MIB
    emulated.library.lags = True
    for n in range(8):
        kernel.launch(CONFIG, emulated.empty(MIB + 4 * n, np.uint8).view(np.int32), 128)
    assert emulated.library.lags
    kept = emulated.empty(4 * MIB, np.uint8)
    assert not emulated.library.lags, "it was waited for"
    message = (
        r"cuda:0: allocating 6291456 bytes: CUDA_ERROR_2 .*; this package has \d+ bytes in use and "
        r"\d+ reserved there, limit: none; drop arrays and layers that are not needed, free what "
    )
    with pytest.raises(fe.DeviceError, match=message):
        emulated.empty(6 * MIB, np.uint8)
    del kept
    emulated.empty(6 * MIB, np.uint8)


def test_a_host_that_is_far_ahead_waits(emulated: EmulatedGpu) -> None:
    """Rather than take ever more memory."""
    kernel = emulated.load_module(IOTA).get_kernel()
    emulated.library.lags = True
    for _ in range(6):
        kernel.launch(CONFIG, emulated.empty(256 * MIB, np.uint8).view(np.int32), 128)
    assert not emulated.library.lags
    assert emulated.memory.reserved < 6 * 256 * MIB


def test_a_gpu_without_memory_pools(emulated: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(out: Any, *_: int) -> int:
        out._obj.value = 0
        return 0

    monkeypatch.setattr(emulated.library, "cuDeviceGetAttribute", unsupported)
    monkeypatch.setattr(emulated.library, "cuMemAllocFromPoolAsync", None)
    monkeypatch.setattr(emulated.library, "cuMemFreeAsync", None)
    gpu = EmulatedGpu(emulated.library)
    arrays = [gpu.empty(n * MIB, np.uint8) for n in (1, 2)]
    assert gpu.memory.reserved == 3 * MIB
    del arrays
    gpu.memory.trim()
    assert (gpu.memory.reserved, gpu.library.reserved) == (0, 0)


def test_many_threads(device: fe.Device) -> None:
    before = device.memory.in_use

    def work(index: int) -> None:
        rng, held = random.Random(index), []
        for _ in range(200):
            array = device.empty(1 << rng.randrange(8, 16), np.uint8)
            if device.name == "cpu":
                array[:] = index
            held.append(array)
            if rng.random() < 0.6:
                held.pop(rng.randrange(len(held)))
        if device.name != "cpu":
            places = sorted((address(device, array), array.shape[0]) for array in held)
            for (first, nbytes), (second, _) in pairwise(places):
                assert first + nbytes <= second
        else:
            assert all((array == index).all() for array in held)

    at_once(work)
    gc.collect()
    assert device.memory.in_use == before


def test_finalisers_that_allocate(any_gpu: fe.Device) -> None:
    """They run at any point, within an allocation as well."""

    class Garbage:
        def __init__(self) -> None:
            self.itself, self.array = self, any_gpu.empty(777, np.uint8)

        def __del__(self) -> None:
            any_gpu.empty(777, np.uint8)

    before = any_gpu.memory.in_use
    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for _ in range(100):
            Garbage()
            any_gpu.empty(777, np.uint8)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert any_gpu.memory.in_use == before


def test_launches_noted_while_events_are_set(
    emulated: EmulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a finaliser, say, that runs in the thread that sets them: nobody waits for itself."""
    gpu, stream, ask = emulated.in_flight, emulated.create_stream(), driver.may_record
    count = in_flight._LAUNCHES + 1
    arrays = [emulated.empty(16, np.uint8) for _ in range(2 * count)]
    alive = [weakref.ref(array) for array in arrays]

    def note() -> None:
        for array in arrays[:count]:
            gpu.add(stream, stream.handle, lambda: "a launch", array, 16)
        del arrays[:count]

    with monkeypatch.context() as patch:
        patch.setattr(driver, "may_record", lambda handle: note() or ask(handle))
        note()
    assert not arrays
    assert any(array() is not None for array in alive)
    emulated.synchronize()
    assert all(array() is None for array in alive)


def test_layers_made_and_dropped(any_gpu: fe.Device) -> None:
    """With launches in flight; nothing is left of them."""
    x = any_gpu.to_device(canonical.A)
    figures = []
    for _ in range(2):
        for n in range(60):
            layer = fe.GptqLinear(canonical.TENSORS, device=any_gpu)
            y = layer(x)
            with any_gpu.record_plan() as plan:
                layer(x, out=y)
            plan()
            with any_gpu.capture() as graph:
                layer(x, out=y, stream=graph.stream)
            graph.launch()
            del layer, y, plan, graph
            if n % 20 == 19:
                gc.collect()
        any_gpu.synchronize()
        gc.collect()
        figures.append((any_gpu.memory.in_use, any_gpu.memory.reserved))
    (in_use, reserved), (later, more) = figures
    assert later == in_use
    assert more <= reserved + MIB


# ---- captures ----


class Things:
    """Layers, arrays and launches that come and go while a library captures."""

    def __init__(self, device: fe.Device, rng: random.Random) -> None:
        self.device, self.rng = device, rng
        self.kernel = device.load_module(IOTA).get_kernel()
        self.held: list[Any] = []
        self.steps: list[Callable[[], object]] = [
            *(self.allocate, self.copy, self.make_layer, self.launch, self.prepare, self.plan),
            *(self.stream, self.drop, self.drop, self.drop, gc.collect, device.memory.trim),
        ]

    def step(self) -> None:
        self.rng.choice(self.steps)()

    def allocate(self) -> None:
        self.held.append(self.device.empty(1 << self.rng.randrange(4, 20), np.uint8))

    def copy(self) -> None:
        self.held.append(self.device.to_device(np.ones(self.rng.randrange(1, 5000), np.int32)))

    def make_layer(self) -> None:
        layer = fe.GptqLinear(canonical.TENSORS, device=self.device)
        layer.itself = layer  # type: ignore[attr-defined]  # only the collector frees it
        self.held.append(layer)

    def launch(self) -> None:
        """On a stream that is not captured."""
        out = self.device.empty(128, np.int32)
        for _ in range(self.rng.randrange(1, 40)):
            self.kernel.launch(CONFIG, out, 128, stream=self.own_stream())

    def prepare(self) -> None:
        call = self.kernel.prepare(CONFIG, self.device.empty(128, np.int32), 128)
        call(self.own_stream())
        self.held.append(call)

    def plan(self) -> None:
        with self.device.record_plan() as plan:
            self.kernel.launch(CONFIG, self.device.empty(128, np.int32), 128)
        plan(self.own_stream())
        self.held.append(plan)

    def stream(self) -> None:
        self.held.append(self.device.create_stream())

    def own_stream(self) -> Any:
        """A stream that is there before the capture begins, as the device's copies' is."""
        return self._stream

    def drop(self) -> None:
        if self.held:
            self.held.pop(self.rng.randrange(len(self.held)))

    def warm_up(self) -> None:
        self._stream = self.device.create_stream()
        for _ in range(20):
            self.step()


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_nothing_breaks_the_capture_of_another_library(
    emulated: EmulatedGpu, seed: int, blocking: bool
) -> None:
    """Of a stream that the default one waits for, or of one that it does not."""
    things = Things(emulated, random.Random(seed))
    things.warm_up()
    for _ in range(10):
        with emulated.library.foreign_capture(blocking=blocking) as capture:
            for _ in range(20):
                things.step()
        assert capture.broken_by == []
        graph = capture_own(emulated, things)
        emulated.library.lags = not emulated.library.lags
        with emulated.library.foreign_capture(blocking=blocking) as capture:
            del graph
            gc.collect()
        assert capture.broken_by == []


def capture_own(device: fe.Device, things: Things) -> fe.LaunchGraph:
    with device.capture() as graph:
        out = device.empty(128, np.int32)
        things.kernel.launch(CONFIG, out, 128, stream=graph.stream)
    graph.launch(graph.stream)
    return graph


def test_a_graph_of_another_library_holds_what_it_uses(emulated: EmulatedGpu) -> None:
    """Results made within the capture and dropped there are nobody else's while the graph lives."""
    layer, stream = fe.GptqLinear(canonical.TENSORS, device=emulated), emulated.create_stream()
    x = emulated.to_device(canonical.A)
    last = emulated.empty((canonical.M, canonical.N), np.float16)
    kernel = emulated.load_module(IOTA).get_kernel()
    emulated.synchronize()
    before = emulated.memory.in_use
    captures.begin_capture(stream.handle)
    places = []
    for _ in range(3):
        y, n = layer(x, stream=stream), emulated.empty(128, np.int32)
        kernel.launch(CONFIG, n, 128, stream=stream)
        places += [address(emulated, y), address(emulated, n)]
        del y, n
    layer(x, out=last, stream=stream)
    graph = Instance(captures.end_capture(stream.handle))
    assert len(set(places)) == 6
    emulated.synchronize()
    others = [emulated.empty(512 * n, np.uint8) for n in range(1, 6) for _ in range(8)]
    assert not set(places) & {address(emulated, other) for other in others}
    del others
    graph.launch(stream.handle)
    canonical.check(emulated, last)
    assert emulated.memory.in_use > before
    del graph
    emulated.synchronize()
    assert emulated.memory.in_use == before


def test_the_emulated_driver_tells_what_breaks_a_capture(emulated: EmulatedGpu) -> None:
    out, library = c_int(), emulated.library
    with library.foreign_capture(blocking=True) as capture:
        library.cuEventQuery(0)
        library.cuEventRecord(0, 0)
        library.cuStreamIsCapturing(0, addressof(out))
    assert capture.broken_by == ["cuEventQuery", "cuEventRecord"]


@contextmanager
def capturing(library: str, gpu: fe.Device) -> Iterator[tuple[Any, list[Callable[[], object]]]]:
    """A capture: its stream, and a list that then holds what replays it."""
    replays: list[Callable[[], object]] = []
    if library == "torch":
        torch = pytest.importorskip("torch")
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream):
            yield stream, replays
        replays.append(graph.replay)
    elif library == "cupy":
        cupy = pytest.importorskip("cupy")
        stream = cupy.cuda.Stream()
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
        yield stream, replays
        graph = stream.end_capture()
        replays.append(lambda: graph.launch(stream))
    else:
        with gpu.capture() as graph:
            yield graph.stream, replays
        replays.append(graph.launch)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("library", ["own", "torch", "cupy"])
def test_drops_amid_a_capture(gpu: fe.Device, library: str, seed: int) -> None:
    """Twenty captures of layers, with everything that comes and goes in between."""
    things = Things(gpu, random.Random(seed))
    if library == "own":  # a layer's copies wait for the device, and its graph takes launches
        things.steps = [
            step
            for step in things.steps
            if step not in (things.launch, things.prepare, things.plan)
        ]
    gc.collect()
    gc.freeze()  # what other libraries left behind may break a capture
    things.warm_up()
    layers = [fe.GptqLinear(canonical.TENSORS, device=gpu) for _ in range(8)]
    x = gpu.to_device(canonical.A)
    results = [gpu.empty((canonical.M, canonical.N), np.float16) for _ in layers]
    for layer, y in zip(layers, results, strict=True):
        layer(x, out=y)  # loads the kernel
    for _ in range(20):
        gpu.synchronize()
        with capturing(library, gpu) as (stream, replays):
            for layer, y in zip(layers, results, strict=True):
                layer(x, out=y, stream=stream)
                for _ in range(things.rng.randrange(4)):
                    things.step()
        for y in results:
            gpu_fill(gpu, y)
        for replay in replays:
            replay()
        for y in results:
            canonical.check(gpu, y)


def gpu_fill(gpu: fe.Device, array: Any) -> None:
    """Poison an array, once nobody uses it any more."""
    gpu.synchronize()
    array.copy_to_device(np.full(array.shape, np.nan, array.dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("what", ["layers", "arrays", "garbage"])
def test_everything_is_dropped_amid_a_capture(gpu: fe.Device, library: str, what: str) -> None:
    layers = [fe.GptqLinear(canonical.TENSORS, device=gpu) for _ in range(8)]
    extra = [fe.GptqLinear(canonical.TENSORS, device=gpu) for _ in range(8)]
    arrays = [gpu.empty(MIB, np.uint8) for _ in range(100)]
    x, y = gpu.to_device(canonical.A), gpu.empty((canonical.M, canonical.N), np.float16)
    for layer in [*layers, *extra]:
        layer(x, out=y)
    gone = weakref.ref(extra[0])
    gpu.synchronize()
    with capturing(library, gpu) as (stream, replays):
        for number, layer in enumerate(layers):
            layer(x, out=y, stream=stream)
            if number == 4:
                {"layers": extra, "arrays": arrays, "garbage": []}[what].clear()
                gc.collect()
    assert (gone() is None) is (what == "layers")
    gpu_fill(gpu, y)
    replays[0]()
    canonical.check(gpu, y)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["own", "torch", "cupy"])
def test_results_that_are_dropped_within_a_capture(gpu: fe.Device, library: str) -> None:
    """The graph holds them: what is allocated later lies elsewhere, and replays leave it alone."""
    layer, x = fe.GptqLinear(canonical.TENSORS, device=gpu), gpu.to_device(canonical.A)
    last = gpu.empty((canonical.M, canonical.N), np.float16)
    layer(x, out=last)
    gpu.synchronize()
    gc.collect()
    before, places = gpu.memory.in_use, []
    with capturing(library, gpu) as (stream, replays):
        for _ in range(3):
            y = layer(x, stream=stream)
            places.append(address(gpu, y))
            del y
        layer(x, out=last, stream=stream)
    gpu.synchronize()
    others = [gpu.to_device(np.zeros((canonical.M, canonical.N), np.float16)) for _ in range(16)]
    assert not set(places) & {address(gpu, other) for other in others}
    gpu_fill(gpu, last)
    for _ in range(3):
        replays[0]()
    canonical.check(gpu, last)
    for other in others:
        assert not gpu.to_host(other).any()
    del others, other
    replays.clear()
    gc.collect()
    for _ in range(100):  # the driver says in its own time that a graph is gone
        gpu.synchronize()
        if gpu.memory.in_use == before:
            break
        time.sleep(0.05)
    assert gpu.memory.in_use == before


# ---- arrays of numba.cuda ----


@pytest.mark.gpu
def test_the_memory_is_the_drivers_pools(gpu: fe.Device) -> None:
    """It takes more at a time than it is asked for, so it is no plain cuMemAlloc."""
    array = gpu.empty(1000, np.uint8)
    assert gpu.memory.reserved > gpu.memory.in_use
    assert gpu.memory._handle  # type: ignore[attr-defined]
    del array


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(), 5, (3, 4), [2, 1, 7], (0, 3)])
@pytest.mark.parametrize("dtype", [np.float16, "int32", np.dtype(np.uint8), bool])
def test_arrays_are_as_numbas_own(gpu: fe.Device, shape: Any, dtype: Any) -> None:
    """In all that they say of themselves; each is tried twice, as the second is made from it."""
    from ferrum_numba.devices.cuda.numba_cuda import cuda

    theirs = cuda.device_array(tuple(shape) if isinstance(shape, list) else shape, dtype)
    for _ in range(2):
        ours = gpu.empty(shape, dtype)
        assert isinstance(ours, type(theirs))
        names = vars(theirs).keys() - {"gpu_data", "_dummy"}
        assert {n: vars(ours)[n] for n in names} == {n: vars(theirs)[n] for n in names}
        assert ours.is_c_contiguous() == theirs.is_c_contiguous()
        interfaces = [array.__cuda_array_interface__ for array in (ours, theirs)]
        assert all(not interface.pop("data")[1] for interface in interfaces)
        assert interfaces[0] == interfaces[1]
        values = np.arange(ours.size).reshape(ours.shape).astype(ours.dtype)
        if ours.size:
            ours.copy_to_device(values)
        np.testing.assert_array_equal(ours.copy_to_host(), values)
        np.testing.assert_array_equal(gpu.to_host(ours), values)


@pytest.mark.gpu
def test_a_view_keeps_the_memory(gpu: fe.Device) -> None:
    array = gpu.to_device(np.arange(12, dtype=np.int32).reshape(3, 4))
    place = address(gpu, array)
    view = array[1:].reshape(8)
    del array
    others = [gpu.to_device(np.zeros((3, 4), np.int32)) for _ in range(8)]
    assert place not in [address(gpu, other) for other in others]
    np.testing.assert_array_equal(view.copy_to_host(), np.arange(4, 12))


@pytest.mark.gpu
def test_a_new_result_each_time_allocates_nothing(gpu: fe.Device) -> None:
    layer, x = fe.GptqLinear(canonical.TENSORS, device=gpu), gpu.to_device(canonical.A)
    for _ in range(200):
        layer(x)
    gpu.synchronize()
    held = gpu.memory.reserved
    for _ in range(20_000):
        y = layer(x)
    canonical.check(gpu, y)
    assert gpu.memory.reserved <= held + 64 * MIB
    assert gpu.memory.in_use < gpu.memory.reserved
