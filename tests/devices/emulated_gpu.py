"""A GPU for tests where there is none: the CUDA device's launch code above an emulated driver."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import weakref
from collections.abc import Sequence
from ctypes import c_ulong
from functools import cache
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.abi import ArrayReference
from ferrum_numba.devices.cuda import arrays, driver
from ferrum_numba.devices.cuda.captures import CaptureLock
from ferrum_numba.devices.cuda.graph import CudaGraph
from ferrum_numba.devices.cuda.in_flight import InFlight
from ferrum_numba.devices.cuda.kernel import CudaKernel
from ferrum_numba.devices.cuda.numba_cuda import unusable
from ferrum_numba.devices.cuda.plan import CudaLaunchPlan
from ferrum_numba.devices.cuda.pool import Block, Pool
from ferrum_numba.devices.cuda.scratch import CudaScratch
from ferrum_numba.devices.cuda.streams import stream_handle
from ferrum_numba.machine_code import Cubin, Fatbin
from tests.conftest import DEVICES
from tests.devices.emulated_driver import EmulatedDriver

EVERYWHERE = [*DEVICES, "emulated"]


def open_anywhere(name: str, patch: pytest.MonkeyPatch) -> fe.Device:
    """`fe.open_device`, and "emulated" where there is no GPU, for as long as `patch` holds."""
    if name != "emulated":
        return fe.open_device(name)
    if unusable() is None:
        pytest.skip("there is a GPU")
    gpu = _gpu()
    patch.setattr(driver, "library", lambda: gpu.library)
    patch.setattr(driver, "error_name", lambda code: f"CUDA_ERROR_{code} (emulated)")
    return gpu


@cache
def _gpu() -> EmulatedGpu:
    with pytest.MonkeyPatch.context() as patch:
        library = EmulatedDriver()
        patch.setattr(driver, "library", lambda: library)
        return EmulatedGpu(library)


class EmulatedArray:
    """A NumPy array that looks like one of numba.cuda."""

    def __init__(self, host: np.ndarray, block: Block | None = None) -> None:
        """block: the pool's, in which it lies."""
        self.host, self.stream, self.block = host, 0, block
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype

    @property
    def device_ctypes_pointer(self) -> c_ulong:
        return c_ulong(self.host.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self.host.flags.c_contiguous else self.strides
        place = (self.host.ctypes.data, False)
        return {"version": 3, "shape": self.shape, "strides": strides, "data": place,
                "typestr": self.dtype.str}  # fmt: skip

    def __getitem__(self, index: Any) -> EmulatedArray:
        return EmulatedArray(self.host[index], self.block)

    def view(self, dtype: Any) -> EmulatedArray:
        return EmulatedArray(self.host.view(dtype), self.block)

    def reshape(self, *shape: int) -> EmulatedArray:
        return EmulatedArray(self.host.reshape(*shape), self.block)


class EmulatedStream:
    """A stream on which everything is done when it is launched."""

    _handles = itertools.count(16, 16)

    def __init__(self, library: EmulatedDriver) -> None:
        self.handle = next(self._handles)
        weakref.finalize(self, library.destroyed.add, self.handle)  # as numba does

    def synchronize(self) -> None:
        pass


class _Current(contextlib.nullcontext[None]):
    handle = 7

    def adopt(self) -> None:
        pass


class EmulatedGpu(fe.Device):
    """The part of CudaDevice that the launch code uses."""

    capability, product, max_shared_bytes, ordinal = (9, 0), "emulated", 227 * 1024, 0

    def __init__(self, library: EmulatedDriver) -> None:
        super().__init__()
        self.name, self.library = "cuda:0", library
        self.in_flight, self.capture_lock = InFlight(self.current), CaptureLock()
        self.memory: Pool = Pool(self.name, 0, self.in_flight, self.current)
        self.scratch = CudaScratch(self.memory, self.in_flight)

    def current(self) -> _Current:
        return _Current()

    def _pick(self, fatbin: Fatbin) -> str:
        assert fatbin.ptx is not None
        return fatbin.ptx

    def _load(
        self, code: str | Cubin, sidecar: fe.Sidecar, assembled: Cubin | None
    ) -> EmulatedModule:
        return EmulatedModule(self, code, sidecar)

    def to_device(self, array: Any, *, copy: bool = True, align: int = 1) -> Any:
        there = self.empty(np.shape(array), array.dtype)
        there.host[...] = array
        return there

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Any:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self.memory.allocate(nbytes)
        memory = (ctypes.c_uint8 * nbytes).from_address(block.address)
        return EmulatedArray(np.frombuffer(memory, dtype).reshape(shape), block)

    def to_host(self, array: Any, *, copy: bool = True) -> Any:
        if isinstance(array, EmulatedArray):
            return array.host.copy()
        there = self.describe("array", array)
        memory = (ctypes.c_uint8 * there.available).from_address(there.address)
        return np.frombuffer(memory, there.dtype).reshape(there.shape).copy()

    def mapped(self, shape: Any, dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def write(self, array: Any, host: np.ndarray) -> None:
        self.synchronize()
        array.host[...] = host

    def synchronize(self) -> None:
        with self.in_flight.waited_for():
            pass
        self.scratch.forget()

    def create_stream(self) -> Any:
        return EmulatedStream(self.library)

    def order(self, *, before: Any, after: Any) -> None:
        pass

    def is_capturing(self, stream: Any) -> bool:
        return driver.is_capturing(stream_handle(stream))

    def describe(self, name: str, array: object) -> ArrayReference:
        return arrays.describe(name, array, self.name)

    def holds(self, address: int) -> bool:
        return True

    def _new_plan(self) -> CudaLaunchPlan:
        return CudaLaunchPlan(self)

    def _new_graph(self, stream: Any) -> CudaGraph:
        return CudaGraph(self, self.capture_stream() if stream is None else stream)

    def capture_stream(self) -> Any:
        return EmulatedStream(self.library)


class EmulatedModule(fe.Module):
    device: EmulatedGpu

    def _get(self, signature: fe.Signature) -> CudaKernel:
        threads = 128 if ".maxntid 128" in self.text else 1024
        handle = self.device.library.add(self.text, signature.entry, threads)
        return CudaKernel(self, self.device, signature, None, handle)
