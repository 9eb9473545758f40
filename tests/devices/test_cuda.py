"""Tests of a GPU alone: the driver's errors, other libraries, lifetimes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

import ferrum_numba as fe
from tests.devices import canonical
from tests.ptx import IOTA, ptx

pytestmark = pytest.mark.gpu


def test_numpy_where_a_gpu_array_belongs(gpu: fe.Device) -> None:
    arguments = canonical.arguments(gpu) | {"a": canonical.A}
    with pytest.raises(fe.AbiError, match=r"a: .*on cuda:0, found a NumPy array; .*to_device"):
        canonical.kernel(gpu).launch(canonical.CONFIG, **arguments)


def test_a_gpu_array_where_numpy_belongs(gpu: fe.Device) -> None:
    cpu = fe.open_device("cpu")
    arguments = canonical.arguments(cpu) | {"a": gpu.to_device(canonical.A)}
    with pytest.raises(fe.AbiError, match=r"a: expected a NumPy array .*to_host"):
        canonical.kernel(cpu).launch(canonical.CONFIG, **arguments)


def test_an_address_that_the_driver_does_not_know(gpu: fe.Device) -> None:
    class Freed:
        shape = canonical.A.shape
        __cuda_array_interface__ = canonical.A.__array_interface__ | {"version": 3}

    with pytest.raises(fe.AbiError, match="a: the driver knows no memory at 0x"):
        canonical.kernel(gpu).launch(canonical.CONFIG, **canonical.arguments(gpu) | {"a": Freed()})


@pytest.mark.parametrize(
    ("target", "version", "message"),
    [
        ("sm_120", "8.7", r"\.target: the PTX is for sm_120, cuda:0 .* is sm_\d\d"),
        ("sm_100a", "8.7", r"\.target: the PTX is for sm_100a"),
        ("sm_80", "99.0", r"\.version: .* ISA 99.0, .*this driver supports CUDA \d+\.\d"),
    ],
)
def test_too_new_for_device_or_driver(
    gpu: fe.Device, target: str, version: str, message: str
) -> None:
    with pytest.raises(fe.DeviceError, match=message):
        gpu.load_module(ptx([], target=target, version=version))


def test_the_drivers_log(gpu: fe.Device) -> None:
    text = ptx([".param .u32 n"], "mov.u32 %r1, %nonsense;\nret;")
    with pytest.raises(fe.PtxError, match=r"CUDA_ERROR_INVALID_PTX.*\n?.*nonsense"):
        gpu.load_module(text).get_kernel()


def test_a_refused_launch_is_explained(gpu: fe.Device) -> None:
    kernel = gpu.load_module(IOTA).get_kernel()
    message = r"cuLaunchKernelEx: CUDA_ERROR_\w+ \(.*\): k on cuda:0: grid \(1000000, 1, 1\), " \
              r"block \(128, 1, 1\), shared_bytes 0, n = 8"  # fmt: skip
    config = fe.LaunchConfig(10**6, 128, cooperative=True)  # too many CTAs at a time
    with pytest.raises(fe.LaunchError, match=message):
        kernel.launch(config, gpu.empty(8, np.int32), 8)


def test_a_failed_launch_is_named() -> None:
    """In a process of its own, since an illegal address takes the context with it."""
    code = (
        "import ferrum_numba as fe, numpy as np\n"
        "from tests.ptx import IOTA\n"
        "device = fe.open_device('cuda')\n"
        "kernel = device.load_module(IOTA).get_kernel()\n"
        "out = device.empty(8, np.int32)\n"
        "kernel.launch(fe.LaunchConfig(2**20, 128), out, 2**27)\n"
        "try:\n"
        "    device.synchronize()\n"
        "except fe.LaunchError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "in flight were: k on cuda:0: grid (1048576, 1, 1)" in done.stdout, done.stderr
    assert "n = 134217728" in done.stdout


def test_arrays_live_until_their_launch_is_done(gpu: fe.Device) -> None:
    gpu.synchronize()
    out = gpu.empty(2**26, np.int32)
    alive = weakref.ref(out)
    gpu.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(2**19, 128), out, 2**26)
    del out
    gc.collect()
    assert alive() is not None
    gpu.synchronize()
    gc.collect()
    assert alive() is None


def test_cupy_arrays_and_streams(gpu: fe.Device) -> None:
    cupy = pytest.importorskip("cupy")
    out = cupy.full(100, -1, cupy.int32)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    gpu.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(1, 128), out, 100, stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.get(), np.arange(100))


def test_torch_tensors_and_streams(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)
    x = torch.from_numpy(canonical.A).cuda()
    out = torch.full((canonical.M, canonical.N), float("nan"), dtype=torch.float16, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    assert layer(x, out=out, stream=stream) is out
    stream.synchronize()
    canonical.check(gpu, gpu.to_device(out.cpu().numpy()))


def test_numpy_in_numpy_out(gpu: fe.Device) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)
    y = layer(canonical.A)
    assert isinstance(y, np.ndarray)
    canonical.check(gpu, gpu.to_device(y))


def test_integer_stream_handles(gpu: fe.Device) -> None:
    out = gpu.empty(8, np.int32)
    gpu.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(1, 32), out, 8, stream=0)
    np.testing.assert_array_equal(gpu.to_host(out), np.arange(8))


def test_more_memory_than_there_is(gpu: fe.Device) -> None:
    with pytest.raises(fe.DeviceError, match="cuda:0: allocating 1099511627776 bytes: "):
        gpu.empty(2**40, np.uint8)


def test_a_strided_array_is_not_copied_to_the_host(gpu: fe.Device) -> None:
    with pytest.raises(fe.AbiError, match="array: expected a C-contiguous array"):
        gpu.to_host(gpu.empty((4, 8), np.float16)[:, ::2])
