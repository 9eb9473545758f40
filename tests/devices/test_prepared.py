"""Prepared launches: repeated, changed in place, lent arrays, given up while under way."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda.streams import stream_handle
from tests.abi.test_places import WIDE
from tests.devices import canonical, split
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere
from tests.ptx import DELAY, IOTA

CONFIG = fe.LaunchConfig(1, 128)
MILLISECOND = 1_000_000  # of DELAY's nanoseconds


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


@pytest.fixture
def iota(device: fe.Device) -> fe.Kernel:
    return device.load_module(IOTA).get_kernel()


def blank(device: fe.Device, n: int = 100) -> Any:
    return device.to_device(np.full(n, -1, np.int32))


def check(device: fe.Device, out: Any, n: int = 100) -> None:
    found = device.to_host(out)
    np.testing.assert_array_equal(found[:n], np.arange(n))
    assert (found[n:] == -1).all()


def test_on_one_stream_after_another(device: fe.Device, iota: fe.Kernel) -> None:
    out = blank(device)
    call = iota.prepare(CONFIG, out, 100)
    streams = [None, *(device.create_stream() for _ in range(20))]
    for stream in [*streams, None, None, *reversed(streams)]:
        call(stream)
    check(device, out)


class Wrapped:
    """Another library's object for a stream of ours: a new one each time, as torch gives."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream  # keeps the handle valid

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, stream_handle(self.stream)


def test_other_objects_for_the_same_stream(device: fe.Device, iota: fe.Kernel) -> None:
    if device.name == "cpu":
        pytest.skip("the CPU device has streams of its own only")
    stream, out = device.create_stream(), blank(device)
    device.synchronize()
    call, lent = (iota.prepare(CONFIG, out, 100) for _ in range(2))
    with device.record_plan() as plan:
        call()
    with device.capture() as graph:
        call(graph.stream)
    handle = stream_handle(stream)
    for issue in (call, plan, graph.launch, lambda s: lent.launch(s, out=out, n=100)):
        for one in (stream, Wrapped(stream), Wrapped(stream), handle, None, 0, handle, stream):
            issue(one)
    call.update(out=blank(device))
    plan.update(0, out=blank(device))
    del graph
    stream.synchronize()
    check(device, out)


def test_a_refused_update_changes_nothing(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
    before = call.invocation.block.to_bytes()
    wide = device.empty((canonical.M, 2 * canonical.K), np.float16)
    for changes, message in (
        ({"M": canonical.M + 1}, "a: expected at least"),
        ({"a": wide[:, ::2]}, "a: expected a C-contiguous array"),
        ({"a": arguments["c"]}, "a: expected at least|c: shares memory with a"),
        ({"N": 132}, "expected N % 8 == 0"),
        ({"M": 1.0}, "M: expected an integer"),
        ({"m": 1}, "unknown m"),
        ({"workspace": 1}, "unknown workspace"),
    ):
        with pytest.raises(fe.AbiError, match=message):
            call.update(**changes)
        with pytest.raises(fe.AbiError, match=message):
            call.launch(**changes)
    assert call.invocation.block.to_bytes() == before
    call()
    canonical.check(device, arguments["c"])


def test_lent_arrays(device: fe.Device, iota: fe.Kernel) -> None:
    """They are held until their launch is done and no longer, and have to be given each time."""
    call = iota.prepare(CONFIG, blank(device), 100)
    stream = device.create_stream()
    device.synchronize()
    for n in (100, 100, 7):
        out = blank(device)
        for _ in range(3):
            call.launch(stream, out=out, n=n)
        check(device, out, n)
    alive = weakref.ref(out)
    del out
    device.synchronize()
    gc.collect()
    assert alive() is None
    with pytest.raises(fe.LaunchError, match="out: given to `launch` for one launch only"):
        call()
    out = blank(device)
    call.update(out=out)
    call(stream)
    check(device, out, 7)


def test_a_rule_about_an_address(device: fe.Device) -> None:
    """It holds for an array that has moved, too."""
    sidecar = split.SIDECAR | {"constraints": ["bias % 64 == 0"]}
    kernel = device.load_module(split.TEXT, sidecar).get_kernel()
    whole = device.to_device(np.zeros(96, np.int32))
    first = -device.describe("", whole).address % 64 // 4
    at = [whole[first + n : first + n + 3] for n in (0, 16, 8)]
    given = {"a": device.to_device(np.arange(6, dtype=np.int32)), "out": blank(device, 3)}
    config = fe.LaunchConfig((2, 3), 32)
    call = kernel.prepare(config, **given, bias=at[0], tiles=3)
    gives = [
        lambda bias: call.update(bias=bias),
        lambda bias: call.launch(bias=bias),
        lambda bias: kernel.launch(config, **given, bias=bias, tiles=3),
    ]
    for give in gives:
        for bias in (at[0], at[1], at[0]):
            give(bias)
        with pytest.raises(fe.AbiError, match="bias % 64 == 0"):
            give(at[2])


class BrokenOffError(Exception):
    pass


def break_off(*_: object) -> None:
    raise BrokenOffError


def test_an_update_that_is_broken_off(
    device: fe.Device, iota: fe.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one after it does not take the block for what it was before."""
    out = blank(device)
    call = iota.prepare(CONFIG, out, 100)
    call.update(n=100)
    with monkeypatch.context() as patch:
        patch.setattr(call, "_note_places", break_off)
        with pytest.raises(BrokenOffError):
            call.update(n=7)
    call.update(n=100)
    call()
    check(device, out)


def test_a_move_that_is_broken_off(device: fe.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch after it reaches the blocks of all streams: one with scratch has its own."""
    kernel = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
    xs = [device.to_device(np.arange(n, n + 6, dtype=np.int32)) for n in range(3)]
    out = blank(device, 3)
    call = kernel.prepare(fe.LaunchConfig((2, 3), 32), a=xs[0], out=out, tiles=3)
    for x in xs[:2]:
        call.launch(a=x)
    with monkeypatch.context() as patch:
        patch.setattr(call, "_follow_moves", break_off)
        with pytest.raises(BrokenOffError):
            call.launch(a=xs[2])
    for x in (xs[2], xs[2], xs[0]):
        call.launch(a=x)
        x = device.to_host(x)
        np.testing.assert_array_equal(device.to_host(out), x[::2] + x[1::2])


def test_a_launch_that_is_broken_off_as_it_begins(
    device: fe.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move before it is not forgotten with the slots that knew it."""
    kernel = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
    xs = [device.to_device(np.arange(n, n + 6, dtype=np.int32)) for n in range(2)]
    out = blank(device, 3)
    call = kernel.prepare(fe.LaunchConfig((2, 3), 32), a=xs[0], out=out, tiles=3)
    for x in xs:
        call.launch(a=x)
    with monkeypatch.context() as patch:
        patch.setattr(call._borrowing, "keys", break_off)
        with pytest.raises(BrokenOffError):
            call.launch(a=xs[0], tiles=3)
    call.launch(a=xs[0], tiles=3)
    np.testing.assert_array_equal(device.to_host(out), [1, 5, 9])


class Table:
    """Bytes that a kernel takes by value, and an array that they lead to, as a tensor map's do."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def tobytes(self) -> bytes:
        return bytes(128)


def test_arrays_behind_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """They live until the launches before an update are done."""
    gpu: Any = open_anywhere("emulated", monkeypatch)
    kernel = gpu.load_module(WIDE).get_kernel()
    tables = [Table(gpu.empty(32, np.uint8)) for _ in range(2)]
    call = kernel.prepare(fe.LaunchConfig(1, 1), gpu.empty(3, np.uint64), tables[0], 7)
    monkeypatch.setattr(gpu.library, "lags", True)
    call(gpu.create_stream())
    alive = weakref.ref(tables[0].array)
    call.update(many=tables.pop())
    tables.clear()
    gc.collect()
    assert alive() is not None
    monkeypatch.setattr(gpu.library, "lags", False)
    gpu.synchronize()
    gc.collect()
    assert alive() is None


def test_nothing_piles_up(device: fe.Device, iota: fe.Kernel) -> None:
    """Launches of all kinds, each with arrays of its own, that nobody ever waits for."""
    alive: list[weakref.ref[Any]] = []
    call = iota.prepare(CONFIG, blank(device), 100)
    for i in range(300):
        out, owned, stream = blank(device), blank(device), device.create_stream()
        alive += [weakref.ref(out), weakref.ref(owned), weakref.ref(stream)]
        iota.launch(CONFIG, out, 100, stream=stream)
        call.launch(stream, out=out)
        iota.prepare(CONFIG, owned, 100)(stream)
        stream.synchronize()
        del out, owned, stream
        if i % 100 == 99:
            gc.collect()
    assert sum(reference() is not None for reference in alive) < 200, "of 900"


def test_streams_in_cycles_of_garbage(device: fe.Device, iota: fe.Kernel) -> None:
    """Their finalisers run before those of the launches: they must not be asked any more."""
    for n in range(1, 40):
        out, stream = blank(device), device.create_stream()
        call = iota.prepare(CONFIG, out, n)
        call(stream)
        ring: list[Any] = [call, stream]
        ring.append(ring)
        del call, stream, ring
        gc.collect()
    for n in range(1, 70):  # more than are waited for at a time
        iota.launch(CONFIG, out, n)
    check(device, out, 69)
    assert getattr(getattr(device, "library", None), "misused", []) == []


def test_lent_arrays_are_checked_again_where_they_differ(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
    for _ in range(2):
        call.launch(a=arguments["a"], c=arguments["c"])
    canonical.check(device, arguments["c"])
    words = arguments["a"].view(np.int16)  # the same place, another type
    with pytest.raises(fe.AbiError, match="a: expected dtype float16"):
        call.launch(a=words, c=arguments["c"])
    with pytest.raises(fe.AbiError, match="a: expected at least"):
        call.launch(a=arguments["a"][:-1], c=arguments["c"])
    call.launch(a=arguments["a"], c=arguments["c"])
    canonical.check(device, arguments["c"])


@pytest.mark.gpu
def test_arrays_outlive_a_prepared_launch_that_is_given_up(gpu: fe.Device) -> None:
    kernel = gpu.load_module(DELAY).get_kernel()
    stream, flag = gpu.create_stream(), gpu.empty(1, np.int32)
    kernel.launch(CONFIG, flag, 1, 1, 1)  # compiled by now
    gpu.synchronize()
    out, other = blank(gpu), blank(gpu)
    references = weakref.ref(out), weakref.ref(other)
    call = kernel.prepare(CONFIG, out=out, ns=200 * MILLISECOND, value=7, n=100)
    call(stream)
    call.update(out=other)
    call(stream)
    del out, other, call
    gc.collect()
    assert all(reference() is not None for reference in references)
    gpu.synchronize()
    gc.collect()
    assert all(reference() is None for reference in references)


@pytest.mark.gpu
def test_threads_without_a_context(gpu: fe.Device) -> None:
    kernel = gpu.load_module(IOTA).get_kernel()
    outs = [blank(gpu) for _ in range(4)]
    calls = [kernel.prepare(CONFIG, out, 100) for out in outs]
    streams = [gpu.create_stream(), None, gpu.create_stream(), 0]
    gpu.synchronize()
    errors: list[BaseException] = []

    def run(call: fe.PreparedLaunch, stream: Any) -> None:
        try:
            for _ in range(5):
                call(stream)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(calls, streams, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for out in outs:
        check(gpu, out)


@pytest.mark.gpu
def test_a_stream_of_which_only_the_number_is_known(gpu: fe.Device) -> None:
    kernel = gpu.load_module(split.TEXT, split.SIDECAR).get_kernel()
    stream = gpu.create_stream()
    out = blank(gpu, 3)
    a = gpu.to_device(np.arange(6, dtype=np.int32))
    call = kernel.prepare(fe.LaunchConfig((2, 3), 32), a=a, out=out, tiles=3)
    for _ in range(3):
        call(stream_handle(stream))
    np.testing.assert_array_equal(gpu.to_host(out), [1, 5, 9])


@pytest.mark.gpu
def test_a_failed_prepared_launch_is_named() -> None:
    """In a process of its own, since an illegal address takes the context with it."""
    code = (
        "import ferrum_numba as fe, numpy as np\n"
        "from tests.ptx import IOTA\n"
        "device = fe.open_device('cuda')\n"
        "out = device.empty(8, np.int32)\n"
        "kernel = device.load_module(IOTA).get_kernel()\n"
        "call = kernel.prepare(fe.LaunchConfig(2**20, 128), out, 2**27)\n"
        "call()\n"
        "try:\n"
        "    device.synchronize()\n"
        "except fe.LaunchError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "k on cuda:0: grid (1048576, 1, 1)" in done.stdout, done.stderr
