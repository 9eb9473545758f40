"""Arrays and streams of other libraries, in and out without a copy."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from tests.campaigns.layers import random_tensors
from tests.devices import canonical
from tests.devices.foreign import LIBRARIES, Capsule, DlpackOnly, OldDlpack, on_gpu, to_numpy
from tests.ptx import DELAY, IOTA

CPU = fe.open_device("cpu")
MILLISECOND = 10**6  # in nanoseconds
K, N, M = 256, 136, 5
TENSORS = random_tensors(K, N, 64, seed=3, bias=True)
X = np.random.default_rng(4).standard_normal((M, K)).astype(np.float32)
EXPECTED = X.astype(np.float64) @ TENSORS.dequantize().astype(np.float64) + TENSORS.bias


# ---- host memory, on the CPU device ----


def test_dlpack_arrays_on_the_cpu() -> None:
    arguments = canonical.arguments(CPU)
    c = arguments["c"]
    wrapped = {n: DlpackOnly(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}
    canonical.kernel(CPU).launch(canonical.CONFIG, **wrapped)
    canonical.check(CPU, c)
    x, out = canonical.A, np.zeros((canonical.M, canonical.N), np.float16)
    layer = fe.GptqLinear(canonical.TENSORS, device=CPU)
    taken = DlpackOnly(out)
    assert layer(DlpackOnly(x), out=taken) is taken
    canonical.check(CPU, out)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(4, 6),
        np.arange(24, dtype=np.int8).reshape(4, 6)[:, ::2],
        np.arange(6)[::-1],
        np.zeros((0, 3), np.float32),
        np.array(3, np.uint16),
        np.ones(3, np.bool_),
        np.ones(3, np.complex64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_host_arrays_are_viewed_not_copied(array: np.ndarray) -> None:
    view = CPU.to_host(DlpackOnly(array), copy=False)
    assert (view.dtype, view.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(view, array)
    assert array.size == 0 or np.shares_memory(view, array)
    if array.flags.c_contiguous and array.size:
        assert np.shares_memory(CPU.to_device(DlpackOnly(array), copy=False), array)


def test_a_producer_from_before_dlpack_1_0() -> None:
    array = np.arange(12.0).reshape(3, 4)[:, 1:]
    view = CPU.to_host(OldDlpack(array), copy=False)
    np.testing.assert_array_equal(view, array)
    assert np.shares_memory(view, array)


def test_bfloat16_and_an_offset_through_dlpack() -> None:
    memory = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(2, 3)
    view = CPU.to_host(Capsule(memory, code=4, bits=16, byte_offset=64), copy=False)
    assert view.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(view, memory)
    view[0, 0] = 7
    assert memory[0, 0] == 7


def test_a_view_keeps_the_array_alive() -> None:
    view = CPU.to_host(DlpackOnly(np.full(10**6, 5, np.int32)), copy=False)
    np.testing.assert_array_equal(np.full(10**6, 7, np.int32) - view, 2)


class Exporter:
    """Gives anything out for a capsule."""

    def __init__(self, given: object) -> None:
        self._given = given

    def __dlpack__(self, **_: Any) -> object:
        return self._given

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


MEMORY = np.zeros(8, np.uint16)
NEWER = Capsule(MEMORY, 0, 16, major=2)  # a capsule does not keep alive what it points to
REFUSED: list[tuple[Any, str]] = [
    (Capsule(MEMORY, 0, 4), "out: expected elements of whole bytes, found DLPack type code 0 of 4"),
    (Capsule(MEMORY, 0, 16, lanes=2), "in 2 lanes"),
    (Capsule(MEMORY, 3, 64), "type code 3"),
    (Capsule(MEMORY, 0, 16, flags=2), "out: Capsule gives DLPack a copy of itself only"),
    (Capsule(MEMORY, 0, 16, device=(2, 0)), "expected a NumPy array .*a GPU array .*to_host"),
    (Capsule(MEMORY, 0, 16, device=(8, 0)), "a GPU array"),
    (DlpackOnly(np.zeros(8, ">u2")), "out: DlpackOnly does not give its memory .*byte order"),
    (Exporter(5), "out: expected a DLPack capsule .* from Exporter, found 5"),
    (Exporter(NEWER.__dlpack__(max_version=(1, 0))), "of version 1.x"),
    ([1, 2], "out: expected a NumPy array, found list"),
    (bytearray(16), "out: expected a NumPy array, found bytearray"),
]


@pytest.mark.parametrize(("array", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_the_cpu_refuses(array: Any, message: str) -> None:
    kernel = CPU.load_module(IOTA).get_kernel()
    with pytest.raises(fe.AbiError, match=message):
        kernel.launch(fe.LaunchConfig(1, 32), array, 8)


def test_read_only_outputs_through_dlpack() -> None:
    arguments = canonical.arguments(CPU)
    arguments["c"].flags.writeable = False
    arguments["c"] = DlpackOnly(arguments["c"])
    with pytest.raises(fe.AbiError, match="c: expected a writable array"):
        canonical.kernel(CPU).launch(canonical.CONFIG, **arguments)


def test_torch_on_the_cpu() -> None:
    torch = pytest.importorskip("torch")
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        layer = fe.GptqLinear(TENSORS, device=CPU, dtype=str(dtype).removeprefix("torch."))
        x = torch.from_numpy(X).to(dtype)
        out = torch.zeros(M, N, dtype=dtype)
        assert layer(x, out=out) is out
        found = out.to(torch.float64).numpy()
        assert np.linalg.norm(found - EXPECTED) <= tolerance * np.linalg.norm(EXPECTED)
    with pytest.raises(fe.AbiError, match="use tensor.detach"):
        layer(x, out=torch.zeros(M, N, requires_grad=True))
    negated = torch.zeros(4, 8, dtype=torch.complex64).conj().imag
    with pytest.raises(fe.AbiError, match="resolve_neg"):
        CPU.describe("x", negated)


def test_jax_on_the_cpu() -> None:
    jax = pytest.importorskip("jax")
    layer = fe.GptqLinear(TENSORS, device=CPU)
    with jax.default_device(jax.devices("cpu")[0]):
        x = jax.numpy.asarray(X.astype(np.float16)) * 1
        close(layer(x))
        with pytest.raises(fe.AbiError, match="c: expected a writable array"):
            layer(x, out=jax.numpy.zeros((M, N), np.float16))


# ---- GPU memory ----


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_in_and_out(gpu: fe.Device, library: str, dtype: str) -> None:
    layer = fe.GptqLinear(TENSORS, device=gpu, dtype=dtype)
    tolerance = 1e-3 if dtype == "float16" else 1e-2
    x = on_gpu(library, X.astype(layer.dtype))
    y = layer(x)
    assert hasattr(y, "copy_to_host")
    close(gpu.to_host(y), tolerance)
    out = on_gpu("cupy" if library == "jax" else library, np.zeros((M, N), layer.dtype))
    assert layer(x, out=out) is out
    gpu.synchronize()
    close(to_numpy(out), tolerance)
    np.testing.assert_array_equal(gpu.to_host(x), X.astype(layer.dtype))


def close(found: np.ndarray, tolerance: float = 1e-3) -> None:
    error = np.linalg.norm(found.astype(np.float64) - EXPECTED)
    assert error <= tolerance * np.linalg.norm(EXPECTED)


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
def test_our_arrays_in_other_libraries(gpu: fe.Device, library: str) -> None:
    """Over the same memory: what is written there afterwards is seen."""
    array = gpu.to_device(np.zeros(8, np.int32))
    if library == "torch":
        torch = pytest.importorskip("torch")
        theirs = torch.as_tensor(array, device="cuda")
    else:
        asarray = (pytest.importorskip("cupy") if library == "cupy" else
                   pytest.importorskip("jax.numpy")).asarray  # fmt: skip
        theirs = asarray(array)
    gpu.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(1, 32), array, 8)
    gpu.synchronize()
    np.testing.assert_array_equal(to_numpy(theirs), np.arange(8))


@pytest.mark.gpu
def test_bfloat16_results_in_torch(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    y = fe.GptqLinear(TENSORS, device=gpu, dtype="bfloat16")(on_gpu("torch", X.astype("bfloat16")))
    theirs = torch.as_tensor(y.view(np.int16), device="cuda").view(torch.bfloat16)
    assert theirs.data_ptr() == y.__cuda_array_interface__["data"][0]
    gpu.synchronize()
    close(to_numpy(theirs), 1e-2)


@pytest.mark.gpu
def test_arrays_of_jax_are_never_written(gpu: fe.Device) -> None:
    layer = fe.GptqLinear(TENSORS, device=gpu)
    out = on_gpu("jax", np.zeros((M, N), np.float16))
    with pytest.raises(fe.AbiError, match="c: expected a writable array"):
        layer(gpu.to_device(X.astype(np.float16)), out=out)


@pytest.mark.gpu
def test_tensors_that_require_grad(gpu: fe.Device) -> None:
    x = on_gpu("torch", X.astype(np.float16)).requires_grad_()
    with pytest.raises(fe.AbiError, match=r"a: Tensor does not give its memory .*detach\(\)"):
        fe.GptqLinear(TENSORS, device=gpu)(x)


@pytest.mark.gpu
def test_host_tensors_where_a_gpu_array_belongs(gpu: fe.Device) -> None:
    array = DlpackOnly(X.astype(np.float16))
    with pytest.raises(fe.AbiError, match=r"found an array in host memory .*to_device"):
        gpu.describe("a", array)
    close(gpu.to_host(fe.GptqLinear(TENSORS, device=gpu)(gpu.to_device(array))))


# ---- streams ----


def delay(gpu: fe.Device, out: Any, value: int, stream: Any, milliseconds: int = 400) -> None:
    """Fill out (int32, up to 128) on `stream`, some time from now."""
    kernel = gpu.load_module(DELAY).get_kernel()
    n = int(np.prod(out.shape))
    config = fe.LaunchConfig(1, 128)
    kernel.launch(config, out, milliseconds * MILLISECOND, value, n, stream=stream)


@pytest.mark.gpu
def test_a_stream_named_by_the_array_is_waited_for_by_the_gpu(gpu: fe.Device) -> None:
    """CuPy's arrays name the stream that is CuPy's current one."""
    cupy = pytest.importorskip("cupy")
    producer = cupy.cuda.Stream(non_blocking=True)
    consumer = cupy.cuda.Stream(non_blocking=True)
    bits, out = cupy.zeros((M, K // 2), cupy.int32), cupy.zeros((M, N), cupy.float16)
    layer = fe.GptqLinear(TENSORS, device=gpu)
    layer(on_gpu("cupy", X.astype(np.float16)), out=out, stream=consumer)  # loads the kernel
    gpu.synchronize()
    with producer:
        delay(gpu, bits.reshape(-1)[:128], 0x3C003C00, producer)  # ones, to float16
        layer(bits.view(cupy.float16), out=out, stream=consumer)
        assert not producer.done, "the host waited"
        consumer.synchronize()
        assert producer.done, "the GPU did not wait"
    x = np.zeros((M, K))
    x.reshape(-1)[:256] = 1
    expected = x @ TENSORS.dequantize() + TENSORS.bias
    assert np.linalg.norm(out.get() - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.gpu
def test_arrays_that_jax_still_computes(gpu: fe.Device) -> None:
    """DLPack orders them: neither the host waits, nor is anything read too early."""
    jax = pytest.importorskip("jax")
    unit = jax.device_put(np.eye(8192, dtype=np.float32), jax.devices("gpu")[0])

    @jax.jit
    def slow(unit: Any, x: Any) -> Any:
        for _ in range(20):
            unit = unit @ unit
        return x + unit[0, 1].astype(x.dtype)

    x = on_gpu("jax", X.astype(np.float16))
    slow(unit, x).block_until_ready()
    layer = fe.GptqLinear(TENSORS, device=gpu)
    stream = gpu.create_stream()
    out = gpu.empty((M, N), np.float16)
    layer(x, out=out, stream=stream)
    gpu.synchronize()
    later = slow(unit, x)
    layer(later, out=out, stream=stream)
    waited = later.is_ready()
    stream.synchronize()
    close(gpu.to_host(out))
    assert not waited, "the host waited"


@pytest.mark.gpu
@pytest.mark.parametrize("spelling", ["object", "handle"])
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_streams_of_other_libraries(gpu: fe.Device, library: str, spelling: str) -> None:
    if library == "torch":
        stream = pytest.importorskip("torch").cuda.Stream()
        handle, busy = stream.cuda_stream, lambda: not stream.query()
    else:
        stream = pytest.importorskip("cupy").cuda.Stream(non_blocking=True)
        handle, busy = stream.ptr, lambda: not stream.done
    out = gpu.to_device(np.zeros(128, np.int32))
    delay(gpu, out, 7, handle if spelling == "handle" else stream)
    assert busy(), "not on the stream, or the host waited"
    stream.synchronize()
    np.testing.assert_array_equal(gpu.to_host(out), 7)


def test_one_stream_after_another(device: fe.Device) -> None:
    """IOTA comes after what fills the array later, though on another stream."""
    first, second = device.create_stream(), device.create_stream()
    out = device.to_device(np.full(8, -1, np.int32))
    kernel = device.load_module(IOTA).get_kernel()
    if device.name.startswith("cuda"):
        delay(device, out, 7, first)
    device.order(before=first, after=second)
    kernel.launch(fe.LaunchConfig(1, 32), out, 8, stream=second)
    device.order(before=second, after=None)
    second.synchronize()
    np.testing.assert_array_equal(device.to_host(out), np.arange(8))
    with pytest.raises(fe.DeviceError, match="stream: expected"):
        device.order(before="0", after=None)


@pytest.mark.gpu
def test_streams_of_two_libraries(gpu: fe.Device) -> None:
    torch, cupy = pytest.importorskip("torch"), pytest.importorskip("cupy")
    first, second = torch.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    out = cupy.zeros(128, cupy.int32)
    gpu.synchronize()
    delay(gpu, out, 7, first)
    gpu.order(before=first, after=second)
    assert not first.query(), "the host waited"
    with second:
        doubled = out * 2
    second.synchronize()
    assert (doubled.get() == 14).all()


@pytest.mark.gpu
def test_to_device_has_arrived_when_it_returns(gpu: fe.Device) -> None:
    """A stream that waits for no other one reads it at once."""
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    layer = fe.GptqLinear(TENSORS, device=gpu)
    out = gpu.empty((M, N), np.float16)
    for _ in range(20):
        layer(gpu.to_device(X.astype(np.float16)), out=out, stream=stream)
    stream.synchronize()
    close(gpu.to_host(out))


# ---- contexts ----


@pytest.mark.gpu
def test_a_foreign_context_is_left_as_found(gpu: fe.Device) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    foreign, current = ctypes.c_void_p(), ctypes.c_void_p()
    assert driver.cuCtxCreate_v2(ctypes.byref(foreign), 0, 0) == 0
    try:
        layer = fe.GptqLinear(TENSORS, device=gpu)
        stream = gpu.create_stream()
        out = gpu.empty((M, N), np.float16)
        layer(gpu.to_device(X.astype(np.float16)), out=out, stream=stream)
        close(gpu.to_host(out))
        assert fe.open_device("cuda") is gpu
        driver.cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == foreign.value
    finally:
        driver.cuCtxDestroy_v2(foreign)


@pytest.mark.gpu
def test_a_capture_of_torchs_own(gpu: fe.Device) -> None:
    """It is broken by any call that might wait; what is kept alive is looked after meanwhile."""
    torch = pytest.importorskip("torch")
    layer, graph = fe.GptqLinear(TENSORS, device=gpu), torch.cuda.CUDAGraph()
    x, out = on_gpu("torch", X.astype(np.float16)), torch.zeros(M, N, device="cuda").half()
    with gpu.capture() as own:
        layer(x, out=out, stream=own.stream)
    own.launch()
    gpu.synchronize()
    out.zero_()
    with torch.cuda.graph(graph, capture_error_mode="global"):
        for _ in range(100):
            layer(x, out=out, stream=torch.cuda.current_stream())
        own.launch(torch.cuda.current_stream())
    gpu.synchronize()
    assert not out.any(), "nothing runs before the graph does"
    graph.replay()
    gpu.synchronize()
    close(to_numpy(out))
