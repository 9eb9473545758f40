"""Launches, plans, graphs, streams and arrays used as they should not be, and at odd moments."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import captures, driver
from tests.devices import canonical, split
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere
from tests.devices.processes import run
from tests.ptx import DELAY, IOTA, SCRATCH, ptx

CONFIG = fe.LaunchConfig(1, 128)
ON_GPUS = [name for name in EVERYWHERE if name != "cpu"]
# out[0] = the bits of v.
BITS = ptx(
    [".param .u64 .ptr .global .align 4 out", ".param .f32 v"],
    """
    ld.param.u64 %rd1, [out];
    ld.param.b32 %r1, [v];
    st.global.b32 [%rd1], %r1;
    ret;
    """,
    tail=".maxntid 128, 1, 1",
)


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


on_gpus = pytest.mark.parametrize("device", ON_GPUS, indirect=True)


def blank(device: fe.Device, n: int = 100) -> Any:
    return device.to_device(np.full(n, -1, np.int32))


def launch(device: fe.Device, stream: Any = None) -> None:
    device.load_module(IOTA).get_kernel().launch(CONFIG, blank(device), 100, stream=stream)


class Pairs:
    """The kernel that has scratch, prepared for `tiles` tiles."""

    def __init__(self, device: fe.Device, tiles: int) -> None:
        self.device = device
        self.kernel = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
        self.config = fe.LaunchConfig((2, tiles), 32)
        self.numbers = np.arange(2 * tiles, dtype=np.int32)
        self.arguments = {"a": device.to_device(self.numbers), "out": blank(device, tiles),
                          "tiles": tiles}  # fmt: skip

    def launch(self, stream: Any = None) -> None:
        self.kernel.launch(self.config, **self.arguments, stream=stream)

    def prepare(self) -> fe.PreparedLaunch:
        return self.kernel.prepare(self.config, **self.arguments)

    def check(self) -> None:
        self.device.synchronize()
        found = self.device.to_host(self.arguments["out"])
        np.testing.assert_array_equal(found, self.numbers.reshape(-1, 2).sum(1))


# ---- plans and graphs before their blocks end, and after blocks that failed ----


def plan_within_its_block(device: fe.Device) -> None:
    with device.record_plan() as plan:
        launch(device)
        plan()


def graph_within_its_block(device: fe.Device) -> None:
    with device.capture() as graph:
        launch(device, graph.stream)
        graph.launch(graph.stream)


def update_within_the_block(device: fe.Device) -> None:
    with device.capture() as graph:
        launch(device, graph.stream)
        graph.update(0, n=5)


def plan_after_a_block_that_failed(device: fe.Device) -> None:
    with suppress(KeyError), device.record_plan() as plan:
        launch(device)
        raise KeyError
    plan()


def graph_after_a_block_that_failed(device: fe.Device) -> None:
    with suppress(KeyError), device.capture() as graph:
        launch(device, graph.stream)
        raise KeyError
    graph.launch()


@pytest.mark.parametrize(
    "use",
    [
        plan_within_its_block,
        graph_within_its_block,
        update_within_the_block,
        plan_after_a_block_that_failed,
        graph_after_a_block_that_failed,
    ],
    ids=lambda use: use.__name__,
)
def test_blocks_that_have_not_ended_well(
    device: fe.Device, use: Callable[[fe.Device], None]
) -> None:
    with pytest.raises(fe.LaunchError, match="of 1 launches on .*: its block has not ended yet"):
        use(device)
    pairs = Pairs(device, 3)  # nothing is left of it
    with device.capture() as graph:
        pairs.launch(graph.stream)
    graph.launch()
    pairs.check()


def test_the_captured_stream_again(device: fe.Device) -> None:
    with (
        pytest.raises(fe.LaunchError, match="capture: this thread is recording"),
        device.capture() as graph,
        device.capture(graph.stream),
    ):
        pass
    launch(device)


def test_a_plan_of_nothing(device: fe.Device) -> None:
    with device.record_plan() as plan:
        pass
    for stream in (None, device.create_stream()):
        plan(stream)
    with pytest.raises(fe.AbiError, match="step: expected none, since nothing was recorded"):
        plan.update(0, n=1)


@pytest.mark.parametrize("step", ["a", 1.0, None, -1, 1, slice(0, 1)], ids=str)
def test_steps_that_are_none(device: fe.Device, step: Any) -> None:
    with device.record_plan() as plan:
        launch(device)
    with pytest.raises(fe.AbiError, match="step: expected 0 to 0, found"):
        plan.update(step, n=1)


@on_gpus
@pytest.mark.parametrize("stream", [0, 1])
def test_the_default_stream_is_not_captured(device: fe.Device, stream: int) -> None:
    with (
        pytest.raises(fe.LaunchError, match="stream: .* the default stream"),
        device.capture(stream),
    ):
        pass


def test_what_is_no_stream_is_not_captured(device: fe.Device) -> None:
    with pytest.raises(fe.DeviceError, match="stream: expected"), device.capture("0"):
        pass


@on_gpus
def test_a_launch_into_the_graph_of_another_thread(device: fe.Device) -> None:
    pairs, inside, over = Pairs(device, 3), threading.Event(), threading.Event()
    pairs.launch()
    theirs: list[fe.LaunchGraph] = []

    def capture() -> None:
        with device.capture() as graph:
            theirs.append(graph)
            pairs.launch(graph.stream)
            inside.set()
            over.wait(20)

    with ThreadPoolExecutor(1) as pool:
        capturing = pool.submit(capture)
        inside.wait(20)
        try:
            with (
                pytest.raises(fe.LaunchError, match=r"stream: expected graph\.stream"),
                device.capture(),
            ):
                pairs.launch(theirs[0].stream)
        finally:
            over.set()
        capturing.result()
    assert len(theirs[0]) == 1
    theirs[0].launch()
    pairs.check()


@on_gpus
def test_a_launch_on_another_device(device: fe.Device) -> None:
    other = fe.open_device("cpu")
    message = "expected launches on that device, found one on another, cpu"
    with pytest.raises(fe.LaunchError, match=message), device.record_plan():
        launch(other)
    with pytest.raises(fe.LaunchError, match=message), device.capture():
        launch(other)


@on_gpus
def test_numpy_has_no_place_in_a_recording(device: fe.Device) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    message = "x: expected an array of the device, found NumPy's: within record_plan"
    with pytest.raises(fe.LaunchError, match=message), device.record_plan():
        layer(canonical.A)
    with pytest.raises(fe.LaunchError, match=message), device.capture() as graph:
        layer(canonical.A, stream=graph.stream)


def test_a_result_that_the_recording_makes(device: fe.Device) -> None:
    layer, x = fe.GptqLinear(canonical.TENSORS, device=device), device.to_device(canonical.A)
    with device.capture() as graph:
        y = layer(x, stream=graph.stream)
    graph.launch()
    canonical.check(device, y)


@pytest.mark.gpu
def test_a_graph_of_more_than_launches_is_not_recorded(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    out, stream = torch.zeros(100, dtype=torch.int32, device="cuda"), torch.cuda.Stream()
    kernel = gpu.load_module(IOTA).get_kernel()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), gpu.capture(stream) as graph:
        kernel.launch(CONFIG, out, 100, stream=stream)
        out.add_(1)
    with (
        pytest.raises(fe.LaunchError, match="holds work of other libraries"),
        gpu.record_plan(),
    ):
        graph.launch()
    with pytest.raises(fe.LaunchError, match="holds work of other"), gpu.capture() as whole:
        graph.launch(whole.stream)
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.cpu().numpy(), np.arange(1, 101))


@pytest.mark.gpu
def test_waiting_within_a_capture(gpu: fe.Device) -> None:
    pairs = Pairs(gpu, 3)

    def capture_and(wait: Callable[[], None]) -> None:
        with gpu.capture() as graph:
            launch(gpu, graph.stream)
            wait()

    for wait in (gpu.synchronize, pairs.check):
        with pytest.raises(fe.LaunchError, match="synchronize: this thread is capturing a graph"):
            capture_and(wait)
    pairs.launch()
    pairs.check()


@pytest.mark.gpu
def test_threads_that_capture_and_threads_that_wait(gpu: fe.Device) -> None:
    """To wait for the whole device would break the capture of any thread."""
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)

    def capture(tiles: int) -> None:
        pairs = Pairs(gpu, tiles)
        for _ in range(30):
            with gpu.capture() as graph:
                pairs.launch(graph.stream)
                pairs.launch(graph.stream)
            graph.launch()
        pairs.check()

    def wait(_: int) -> None:
        for _ in range(30):
            error = np.linalg.norm(layer(canonical.A) - canonical.EXPECTED)
            assert error <= 1e-3 * np.linalg.norm(canonical.EXPECTED)
            gpu.synchronize()

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(work, n) for n in (3, 50, 200) for work in (capture, wait)]
        for one in running:
            one.result()


def test_captures_and_waits_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_PATIENCE", 0.01)
    between = captures.CaptureLock()
    with (
        between.capturing(),
        between.capturing(),
        pytest.raises(fe.LaunchError, match="synchronize: another thread has been capturing"),
        between.waiting(),
    ):
        pass
    order = []

    def capture() -> None:
        with between.capturing():
            order.append("capture")

    with ThreadPoolExecutor(1) as pool:
        with between.waiting(), between.waiting():
            capturing = pool.submit(capture)
            with pytest.raises(TimeoutError):
                capturing.result(0.05)
            order.append("wait")
        capturing.result(20)
    assert order == ["wait", "capture"]


def test_events_do_not_break_the_captures_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask for one does, unless the thread says that it means to; so does to free memory."""
    device = open_anywhere("emulated", monkeypatch)
    kernel, out, stream = device.load_module(IOTA).get_kernel(), blank(device), Held(40)
    device.synchronize()
    with driver.library().foreign_capture() as capture:
        for _ in range(100):
            kernel.launch(CONFIG, out, 100, stream=stream)
    assert capture.broken_by == []


# ---- streams ----


class Event:
    """Another library's: its handle is no stream's."""

    handle = 77


class Odd:
    """Another library's stream, which says what it should not."""

    def __init__(self, said: Any) -> None:
        self.said = said

    def __cuda_stream__(self) -> Any:
        return self.said


class Held:
    """One with its handle in an attribute."""

    def __init__(self, handle: Any) -> None:
        self.cuda_stream = handle


@on_gpus
@pytest.mark.parametrize(
    "stream",
    ["0", True, 1.5, -5, 2**64, [0], object(), Event(), Odd, Odd((0, -1)), Odd((0, 2**64)),
     Odd((0, None)), Held(-1), Held("7"), Held(1.0)],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_what_is_no_stream(device: fe.Device, stream: Any) -> None:
    with pytest.raises(fe.DeviceError, match="stream: expected a CUDA stream"):
        launch(device, stream)


@on_gpus
@pytest.mark.parametrize("said", [5, (0, 16, 1), (1, 0)], ids=str)
def test_a_protocol_that_says_nothing(device: fe.Device, said: Any) -> None:
    with pytest.raises(
        fe.DeviceError, match="__cuda_stream__ of Odd to give .* found .?" + str(said)[1:-1]
    ):
        launch(device, Odd(said))


@on_gpus
@pytest.mark.parametrize("plan", [False, True], ids=["call", "plan"])
def test_the_default_stream_of_each_thread(device: fe.Device, plan: bool) -> None:
    """One handle for all, and a stream, so scratch, for each."""
    sidecar = {"num_warps": 1, "shared": 0, "global_scratch_size": 64, "profile_scratch_size": 0}
    kernel, out = device.load_module(SCRATCH, sidecar).get_kernel(), blank(device, 2)
    call: Any = kernel.prepare(fe.LaunchConfig(1, 32), out.view(np.uint64))
    if plan:
        with device.record_plan() as call:
            kernel.launch(fe.LaunchConfig(1, 32), out.view(np.uint64))
    places, turn, all_done = [], threading.Lock(), threading.Barrier(3)

    def work(_: int) -> None:
        for _ in range(2):
            with turn:
                call(2)
                device.synchronize()
                places.append(device.to_host(out).tobytes())
        all_done.wait(20)  # each thread has its own identity

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert len(set(places)) == 3


@pytest.mark.gpu
def test_arrays_of_a_launch_on_the_default_stream_of_a_thread(gpu: fe.Device) -> None:
    """Another thread, which has one of its own, does not take its launches for done."""
    kernel, out = gpu.load_module(DELAY).get_kernel(), blank(gpu, 128)
    other, iota = blank(gpu), gpu.load_module(IOTA).get_kernel()
    kernel.launch(CONFIG, out, 1, 1, 1)
    gpu.synchronize()
    alive = weakref.ref(out)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(kernel.launch, CONFIG, out, 200_000_000, 7, 128, stream=2).result()
    del out
    for _ in range(3):
        iota.launch(CONFIG, other, 100, stream=2)
    assert alive() is not None
    gpu.synchronize()
    gc.collect()
    assert alive() is None


# ---- arrays ----


class InterfaceOnly:
    """An array that shows nothing but where it lies."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self._array = array
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "strides": None,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
        } | changes


class NoInterface:
    __cuda_array_interface__ = 5


class Sparse:
    """A tensor of torch's that lies nowhere."""

    shape = (5, 256)

    def data_ptr(self) -> int:
        raise RuntimeError("no storage")

    def stride(self) -> tuple[int, ...]:
        raise RuntimeError("no strides")


def test_arrays_that_only_say_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_anywhere("emulated", monkeypatch)
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    x, out = canonical.A.copy(), np.zeros((canonical.M, canonical.N), np.float16)
    taken = InterfaceOnly(out)
    assert layer(InterfaceOnly(x), out=taken) is taken
    assert np.linalg.norm(out - canonical.EXPECTED) <= 1e-3 * np.linalg.norm(canonical.EXPECTED)
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    for array, message in (
        (InterfaceOnly(x.astype(">f2")), "a: expected native byte order, found >f2"),
        (InterfaceOnly(x, data=(0, False)), "a: .* 2560 bytes at address 0; was it freed?"),
        (InterfaceOnly(x, typestr=5), "of InterfaceOnly cannot be read"),
        (InterfaceOnly(x, mask=x), "a: expected an array without a mask"),
        (InterfaceOnly(x, version="3", mask=x), "a: expected an array without a mask"),
        (InterfaceOnly(x, shape=(-5, 256)), r"a: expected memory, found shape \(-5, 256\)"),
        (InterfaceOnly(x, shape=(5.0, 256)), "of InterfaceOnly cannot be read"),
        (InterfaceOnly(x, data=(-4096, False)), "a: expected memory, found .* at address -4096"),
        (InterfaceOnly(x, typestr="|O"), r"typestr '\|O' is of no numbers"),
        (InterfaceOnly(x, typestr=None), "typestr None is of no numbers"),
        (InterfaceOnly(x, stream=0), "a: expected a stream from 1 on .* found 0"),
        (InterfaceOnly(x, stream=-1), "a: expected a stream from 1 on .* found -1"),
        (InterfaceOnly(x, stream="1"), "a: expected a stream from 1 on .* found '1'"),
        (NoInterface(), "of NoInterface cannot be read"),
        (Sparse(), "a: expected an array on cuda:0, found <.*Sparse"),
    ):
        for _ in range(2):  # as the first launch, and after one that was right
            with pytest.raises(fe.AbiError, match=message):
                kernel.launch(canonical.CONFIG, **arguments | {"a": array})
            kernel.launch(canonical.CONFIG, **arguments)


@pytest.mark.parametrize("out", [[1.0], 3, "y"], ids=str)
def test_results_that_are_no_arrays(device: fe.Device, out: Any) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    with pytest.raises(fe.AbiError, match=r"out: expected an array \(..., 136\), found"):
        layer(device.to_device(canonical.A), out=out)


def test_host_arrays_of_no_numbers() -> None:
    device = fe.open_device("cpu")
    kernel = device.load_module(IOTA).get_kernel()
    for array, message in (
        (np.ma.array(np.zeros(128, np.int32), mask=True), "out: .* without a mask"),
        (np.array([None] * 128), "out: expected an array of numbers, found dtype object"),
        (np.array(["text"] * 128), "out: expected an array of numbers, found dtype <U4"),
    ):
        with pytest.raises(fe.AbiError, match=message):
            kernel.launch(CONFIG, array, 100)
        with pytest.raises(fe.AbiError, match=message.replace("out:", "array:")):
            device.to_device(array)


def test_arrays_without_axes(device: fe.Device) -> None:
    array = device.to_device(np.array(3.0))
    assert (array.shape, device.to_host(array).shape) == ((), ())
    assert device.to_host(array)[()] == 3


def test_zeros_of_both_signs(device: fe.Device) -> None:
    kernel, out = device.load_module(BITS).get_kernel(), blank(device, 1)
    for value in (0.0, -0.0, np.float32(0.0), np.float32(-0.0)):
        kernel.launch(fe.LaunchConfig(1, 1), out, value)
        assert device.to_host(out).view(np.uint32)[0] == np.float32(value).view(np.uint32)


@pytest.mark.gpu
def test_a_tensor_that_requires_grad_by_now(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)
    x = torch.from_numpy(canonical.A).cuda()
    out = torch.empty(canonical.M, canonical.N, dtype=torch.float16, device="cuda")
    layer(x, out=out)
    with pytest.raises(fe.AbiError, match=r"detach\(\)"):
        layer(x.requires_grad_(), out=out)
    with pytest.raises(fe.AbiError, match="Tensor does not say where it lies"):
        layer(torch.empty_like(x, device="meta"), out=out)
    freed = torch.clone(x.detach())
    freed.untyped_storage().resize_(0)
    with pytest.raises(fe.AbiError, match="was it freed"):
        layer(freed, out=out)


# ---- changes that cannot be carried through ----


@on_gpus
def test_no_memory_for_more_scratch(device: fe.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing has changed, be it a call, a plan or a graph."""
    small, large = Pairs(device, 3), Pairs(device, 60_000)
    stream = device.create_stream()
    device.synchronize()
    call, lent = small.prepare(), small.prepare()
    with device.record_plan() as plan:
        small.launch()
    with device.capture() as graph:
        small.launch(graph.stream)
    lent.launch(stream, **small.arguments)
    issues = (call, plan, graph.launch, lambda s: lent.launch(s, **small.arguments))
    for issue in issues:
        issue(stream)
    with monkeypatch.context() as patch:
        patch.setattr(device.memory, "limit", 0)
        for update in (
            lambda: call.update(**large.arguments),
            lambda: plan.update(0, **large.arguments),
            lambda: graph.update(0, **large.arguments),
            lambda: lent.launch(stream, **large.arguments),
        ):
            with pytest.raises(fe.DeviceError, match="bytes of scratch: the limit is reached"):
                update()
        for issue in issues:
            issue(stream)
            stream.synchronize()
            small.check()
    call.update(**large.arguments)
    call(stream)
    large.check()


CTRL_C = """
import signal, sys, time
import numpy as np
import ferrum_numba as fe
from tests.devices import canonical
from tests.devices.test_misuse import Pairs

device, end = fe.open_device("cpu", threads=3), time.time() + 30
layer, pairs = fe.GptqLinear(canonical.TENSORS, device=device), Pairs(device, 40)
armed = False
call, count = pairs.prepare(), 0
layer(canonical.A)  # compiled once, before anything interrupts that

def work():
    while time.time() < end:
        out = np.empty((canonical.M, canonical.N), np.float16)
        layer(canonical.A.copy(), out=out)
        call()
        with device.capture() as graph:
            layer(canonical.A, out=out, stream=graph.stream)
        graph.launch()

def arm(*_):
    global armed
    armed = True

def interrupt(*_):  # once, so that nothing of this script is interrupted but work()
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

sys.unraisablehook = arm  # Ctrl-C within a finaliser of Python is lost
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.013)
try:
    while count <= 40 and time.time() < end:
        count += 1
        try:
            arm()
            work()
        except (KeyboardInterrupt, RuntimeError):  # which threading makes of it now and then
            pass
    armed = False
except KeyboardInterrupt:  # as the time was up
    pass
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(count > 40)
y = layer(canonical.A)
canonical.check(device, y)
call()
pairs.check()
"""


def test_ctrl_c_during_launches_on_the_cpu() -> None:
    """No thread goes on writing into arrays that are gone."""
    assert run(CTRL_C) == "True\n"
