"""Ends: of arrays, of interpreters, of contexts, of the process that forked."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere
from tests.devices.foreign import on_gpu
from tests.devices.processes import run
from tests.emulator.harness import entry
from tests.ptx import DELAY

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Everything that a launch has to do with.  `slow` keeps a GPU busy for a while.
PRELUDE = """
import gc, itertools, sys
import numpy as np
import ferrum_numba as fe
from tests.devices import canonical
from tests.ptx import DELAY, IOTA

def everything(name):
    device = fe.open_device(name)
    stream = device.create_stream()
    module = device.load_module(DELAY if name == "cuda" else IOTA)
    kernel = module.get_kernel()
    array = device.empty(128, np.int32)
    arguments = canonical.arguments(device)
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    x = device.to_device(canonical.A)
    call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
    if name == "cuda":
        kernel.launch(fe.LaunchConfig(1, 128), array, 20_000_000, 1, 128, stream=stream)
    else:
        kernel.launch(fe.LaunchConfig(1, 128), array, 128, stream=stream)
    call(stream)
    y = device.empty((canonical.M, canonical.N), np.float16)
    layer(x, out=y, stream=stream)
    with device.record_plan() as plan:
        layer(x, out=y)
    plan(stream)
    with device.capture() as graph:
        layer(x, out=y, stream=graph.stream)
    graph.launch(stream)
    return {"device": device, "stream": stream, "module": module, "kernel": kernel, "array": array,
            "layer": layer, "call": call, "plan": plan, "graph": graph, "x": x, "y": y}
"""


@pytest.mark.parametrize("name", DEVICES)
def test_dropped_in_any_order_with_launches_in_flight(name: str) -> None:
    code = """
    names = ["stream", "module", "kernel", "array", "layer", "call", "plan", "graph"]
    count = 0
    for order in itertools.islice(itertools.permutations(names), 0, None, 5000):
        things = everything(sys.argv[1])
        for name in order:
            del things[name]
            gc.collect(0)
        things["device"].synchronize()
        canonical.check(things["device"], things["y"])
        count += 1
    print(count)
    """
    assert run(code, name, prelude=PRELUDE) == "9\n"


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("end", ["", "sys.exit()", "things['self'] = things; del things"])
def test_the_interpreter_ends_with_launches_in_flight(name: str, end: str) -> None:
    code = f"things = everything(sys.argv[1])\nprint('launched')\n{end}\n"
    assert run(code, name, prelude=PRELUDE) == "launched\n"


@pytest.mark.parametrize("name", DEVICES)
def test_a_launch_at_exit(name: str) -> None:
    code = """
    import atexit
    things = everything(sys.argv[1])
    @atexit.register
    def last():
        things["call"]()
        things["device"].synchronize()
        print("done")
    """
    assert run(code, name, prelude=PRELUDE) == "done\n"


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["numba", "torch", "cupy"])
def test_arrays_dropped_while_a_launch_uses_them(gpu: fe.Device, library: str) -> None:
    """Neither freed nor given to somebody else before the launch is done."""
    out: Any = np.zeros(128, np.int32)
    out = gpu.to_device(out) if library == "numba" else on_gpu(library, out)
    alive = weakref.ref(out)
    stream = gpu.create_stream()
    gpu.synchronize()
    kernel = gpu.load_module(DELAY).get_kernel()
    kernel.launch(fe.LaunchConfig(1, 128), out, 100_000_000, 7, 128, stream=stream)
    del out
    gc.collect()
    assert alive() is not None
    # Of the same size, so that a pool would hand out the same memory.
    others = [gpu.to_device(np.zeros(128, np.int32)) if library == "numba" else
              on_gpu(library, np.zeros(128, np.int32)) for _ in range(8)]  # fmt: skip
    gpu.synchronize()
    gc.collect()
    assert alive() is None
    for other in others:
        assert not gpu.to_host(other).any()


@pytest.mark.gpu
def test_a_prepared_launch_keeps_its_arrays(gpu: fe.Device) -> None:
    out = gpu.to_device(np.zeros(128, np.int32))
    alive = weakref.ref(out)
    call = gpu.load_module(DELAY).get_kernel().prepare(fe.LaunchConfig(1, 128), out, 0, 7, 128)
    del out
    gc.collect()
    call()
    kept = alive()
    assert kept is not None
    np.testing.assert_array_equal(gpu.to_host(kept), 7)


# ---- lost contexts ----

LOSE = """
import ctypes
device = fe.open_device("cuda")
kernel = device.load_module(IOTA).get_kernel()
out = device.to_device(np.zeros(8, np.int32))
config = fe.LaunchConfig(1, 32)
def kill():
    kernel.launch(config, ctypes.c_void_p(0x10), 8)
def over():  # the GPU has come to the fault, and the device has not been told
    with device.current():
        assert ctypes.CDLL("libcuda.so.1").cuCtxSynchronize() == 700
def report(work):
    try:
        work()
    except fe.FerrumError as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.gpu
@pytest.mark.parametrize(
    "first",
    [
        "device.synchronize()",
        "device.to_host(out)",
        "(over(), device.empty(8, np.int32))",
        "(over(), device.to_device(np.zeros(8)))",
        "(over(), kernel.launch(config, out, 8))",
        "(over(), call())",
        "(over(), plan())",
        "(over(), graph.launch())",
        "(over(), device.load_module(IOTA + '//').get_kernel())",
        "(over(), device.create_stream())",
    ],
)
def test_an_illegal_address_is_reported_once_with_what_was_in_flight(first: str) -> None:
    code = f"""
call = kernel.prepare(config, out, 8)
with device.record_plan() as plan:
    kernel.launch(config, out, 8)
with device.capture() as graph:
    kernel.launch(config, out, 8, stream=graph.stream)
report(kill)
report(lambda: {first})
for work in (device.synchronize, lambda: kernel.launch(config, out, 8), call, plan, graph.launch,
             lambda: device.empty(8, np.int32), lambda: device.to_host(out),
             lambda: device.load_module(IOTA + "// again").get_kernel(),
             lambda: fe.open_device("cuda").synchronize()):
    report(work)
cpu = fe.open_device("cpu")
host = np.zeros(8, np.int32)
cpu.load_module(IOTA).get_kernel().launch(config, host, 8)
print(host.sum())
"""
    death, *later, total = run(code, prelude=PRELUDE + LOSE).splitlines()
    cause = "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"
    named = "k on cuda:0: grid (1, 1, 1), block (32, 1, 1), shared_bytes 0, n = 8"
    assert death.startswith("LaunchError: cuda:0: a kernel took the context with it: " + cause)
    assert f"in flight were: {named}" in death
    assert death.endswith("start a new process")
    assert len(later) == 9
    for line in later:
        assert line.startswith(f"DeviceError: cuda:0: the context was lost to {cause}"), line
        assert named in line
        assert line.endswith("start a new process")
    assert total == "28"


@pytest.mark.gpu
def test_all_kernels_in_flight_are_named() -> None:
    code = """
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    layer(device.to_device(canonical.A))
    device.synchronize()
    everything("cuda")
    kill()
    report(device.synchronize)
    """
    death = run(code, prelude=PRELUDE + LOSE)
    assert "20000000" in death
    assert "w4a16_gptq" in death
    assert "k on cuda:0" in death


# ---- forks ----

FORK = """
import os
def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def on_cpu():
    things = everything("cpu")
    canonical.check(things["device"], things["y"])
"""
FORKED = 'DeviceError device "cuda": this process was forked from one that uses CUDA'
needs_fork = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")


@needs_fork
def test_a_fork_uses_the_cpu() -> None:
    code = "on_cpu()\nprint(child(on_cpu), child(on_cpu))\non_cpu()\n"
    assert run(code, prelude=PRELUDE + FORK) == "0 0\n"


@needs_fork
@pytest.mark.gpu
def test_a_fork_may_not_use_cuda() -> None:
    code = """
    things = everything("cuda")
    print(child(lambda: fe.open_device("cuda")))
    print(child(lambda: things["call"]()))
    print(child(lambda: things["plan"]()))
    print(child(lambda: things["graph"].launch()))
    print(child(lambda: things["layer"](things["x"])))
    print(child(lambda: things["device"].synchronize()))
    print(child(lambda: things["device"].empty(8, np.int32)))
    print(child(lambda: things.clear() or gc.collect() and None))
    print(child(on_cpu))
    print(child(lambda: fe.open_device("auto").name == "cpu" or sys.exit(1)))
    things["device"].synchronize()
    canonical.check(things["device"], things["y"])
    """
    lines = run(code, prelude=PRELUDE + FORK).splitlines()
    messages, codes = [x for x in lines if len(x) > 2], [x for x in lines if len(x) <= 2]
    assert codes == ["3"] * 7 + ["0"] * 3
    assert len(messages) == 7
    assert messages[0].startswith(FORKED)
    for message in messages:
        assert "this process was forked from one that uses CUDA" in message
        assert "spawn" in message


@needs_fork
@pytest.mark.gpu
def test_a_fork_that_ends_by_itself() -> None:
    """With all of its finalizers, and nothing to say."""
    code = """
    things = everything("cuda")
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run(code, prelude=PRELUDE + FORK) == "0\n"


@needs_fork
@pytest.mark.gpu
def test_a_fork_before_cuda_is_used() -> None:
    code = """
    def work():
        things = everything("cuda")
        canonical.check(things["device"], things["y"])
    print(child(work), child(work))
    """
    assert run(code, prelude=PRELUDE + FORK) == "0 0\n"


@pytest.mark.parametrize("where", EVERYWHERE)
def test_modules_that_nobody_holds_are_unloaded(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the last ones, and for those of launches that may still be under way."""
    device = open_anywhere(where, monkeypatch)
    monkeypatch.setattr(device._modules, "_kept", 4)
    text = entry(1, "mov.u32 %t1, {}; st.global.b32 [%q0], %t1;", target="sm_80")
    held = device.load_module(text.replace("{}", "1"))
    seen = []
    for i in range(2, 22):
        module, out = device.load_module(text.replace("{}", str(i))), device.empty(1, np.uint32)
        module.get_kernel().launch(fe.LaunchConfig(1, 32), out)
        seen.append(weakref.ref(module))
        del module
        assert device.to_host(out)[0] == i
    device.synchronize()
    device.load_module(text.replace("{}", "1"))  # as whoever launches next would
    gc.collect()
    assert sum(module() is not None for module in seen) <= 4
    assert device.load_module(text.replace("{}", "1")) is held
    again, out = device.load_module(text.replace("{}", "2")), device.empty(1, np.uint32)
    again.get_kernel().launch(fe.LaunchConfig(1, 32), out)
    assert device.to_host(out)[0] == 2
