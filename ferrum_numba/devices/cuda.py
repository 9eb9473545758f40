"""The CUDA device: contexts, modules, arrays and streams of numba.cuda, launches through ctypes.

The only file that imports numba.cuda.  It works with Numba's built-in implementation and with
NVIDIA's numba-cuda; where the two differ, handles are reduced to integers (`_integer_handle`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numba import cuda
from numpy.typing import DTypeLike, NDArray

from ..abi import ArrayReference, Sidecar, Signature, cuda_for_ptx, driver_for_ptx, runs_on
from ..errors import AbiError, DeviceError, LaunchError, PtxError
from . import driver
from .base import Device, Invocation, Kernel, Module

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_DEFAULT_SHARED_BYTES = 48 * 1024  # beyond it a function must be told first


@lru_cache(maxsize=1)
def unusable() -> str | None:
    """Why no GPU can be used here; None where one can."""
    try:
        # Not cuda.is_available(): that also asks for a compiler, which PTX does not need.
        if len(cuda.gpus):
            return None
        return "the driver sees no GPU"
    except Exception as error:  # Numba raises errors of several unrelated types here
        # Numba's text goes on for lines about environment variables; the first ones say what is.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:2]).rstrip(".")


class CudaDevice(Device):
    """One GPU, through its primary context."""

    _opened: dict[int, CudaDevice] = {}  # noqa: RUF012 - one device an ordinal, for the process
    _lock = threading.Lock()

    def __init__(self, ordinal: int) -> None:
        super().__init__()
        self.name = f"cuda:{ordinal}"
        self.ordinal = ordinal
        self._gpu = cuda.gpus[ordinal]
        self.in_flight = InFlight()
        with self.current():
            info = cuda.current_context().device
            self.capability: tuple[int, int] = tuple(info.compute_capability)
            self.max_shared_bytes: int = info.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            name = info.name
            self.product = name.decode() if isinstance(name, bytes) else str(name)

    @classmethod
    def open(cls, ordinal: int | None) -> CudaDevice:
        """The device of an ordinal, or the current one.  Raises DeviceError where there is none."""
        reason = unusable()
        if reason:
            raise DeviceError(f'device "cuda": {reason}; use open_device("cpu")')
        with cls._lock:
            if ordinal is None:
                ordinal = int(cuda.current_context().device.id)
            if ordinal >= len(cuda.gpus):
                raise DeviceError(
                    f'device "cuda:{ordinal}": expected an ordinal below {len(cuda.gpus)}, '
                    "the number of GPUs here"
                )
            if ordinal not in cls._opened:
                cls._opened[ordinal] = cls(ordinal)
            return cls._opened[ordinal]

    def current(self) -> AbstractContextManager[Any]:
        """A block in which this device's context is current in the calling thread."""
        manager: AbstractContextManager[Any] = self._gpu
        return manager

    def _load(self, text: str, sidecar: Sidecar) -> CudaModule:
        return CudaModule(self, text, sidecar)

    def to_device(self, array: Any) -> Any:
        if isinstance(array, np.ndarray):
            words = np.ascontiguousarray(array)
            if array.dtype == _BFLOAT16:  # has no buffer interface: goes as the words it is
                words = words.view(np.uint16)
            with self._memory(array.nbytes):
                return cuda.to_device(words).view(array.dtype)
        self.describe("array", array)
        return array

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._memory(nbytes):
            return cuda.device_array(shape, dtype)

    @contextmanager
    def _memory(self, nbytes: int) -> Iterator[None]:
        """Allocate within this block: what goes wrong there is a DeviceError."""
        with self.current():
            try:
                yield
            except Exception as error:  # each implementation has its own type for it
                raise DeviceError(f"{self.name}: allocating {nbytes} bytes: {error}") from error

    def to_host(self, array: Any) -> NDArray[Any]:
        if isinstance(array, np.ndarray):
            return array
        if not self.describe("array", array).contiguous:
            raise AbiError("array: expected a C-contiguous array; copy the whole, then slice it")
        self.synchronize()
        with self.current():
            there = cuda.as_cuda_array(array, sync=False)
            dtype = _dtype(there.dtype)
            host: NDArray[Any] = (
                there.view(np.uint16).copy_to_host().view(dtype)
                if dtype == _BFLOAT16
                else there.copy_to_host()
            )
            return host

    def synchronize(self) -> None:
        try:
            with self.current():
                cuda.synchronize()
        except Exception as error:  # each implementation has its own type for the driver's error
            raise LaunchError(f"{error}; in flight were: {self.in_flight.describe()}") from error
        self.in_flight.release()

    def create_stream(self) -> Any:
        with self.current():
            return cuda.stream()

    def describe(self, name: str, array: object) -> ArrayReference:
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            numpy = isinstance(array, np.ndarray)
            found = "a NumPy array" if numpy else f"{array!r:.80} ({type(array).__name__})"
            remedy = "; copy it with device.to_device(array)" if numpy else ""
            raise AbiError(f"{name}: expected an array on {self.name}, found {found}{remedy}")
        shape = tuple(interface["shape"])
        dtype = _dtype(np.dtype(interface["typestr"]))
        strides = interface.get("strides")
        address, readonly = interface["data"]
        reach = dtype.itemsize
        for extent, stride in zip(shape, strides or (), strict=False):
            reach += max((extent - 1) * stride, 0)
        if strides is None:
            reach = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if address:
            self._require_here(name, address)
        return ArrayReference(
            address=address or 0,
            shape=shape,
            strides=tuple(strides) if strides is not None else None,
            dtype=dtype.name,
            itemsize=dtype.itemsize,
            available=0 if 0 in shape else reach,
            device=self.name,
            readonly=readonly,
        )

    def _require_here(self, name: str, address: int) -> None:
        ordinal = driver.device_of(address)
        if ordinal is None:
            raise AbiError(f"{name}: the driver knows no memory at {address:#x}; was it freed?")
        if ordinal != self.ordinal:
            raise AbiError(
                f"{name}: expected an array on {self.name}, found one on cuda:{ordinal}; "
                "copy it to this device first"
            )


class CudaModule(Module):
    """PTX that the driver has compiled for one context."""

    def __init__(self, device: CudaDevice, text: str, sidecar: Sidecar) -> None:
        super().__init__(device, text, sidecar)
        self._require_runnable(device, text)
        try:
            with device.current():
                self._handle = cuda.current_context().create_module_ptx(text)
        except Exception as error:  # each implementation wraps the driver's error in its own type
            raise self._refusal(device, error) from error

    def _require_runnable(self, device: CudaDevice, text: str) -> None:
        signature = Signature.from_ptx(text, self.sidecar.entry or _first_entry(text))
        if not runs_on(signature.target, device.capability):
            major, minor = device.capability
            raise DeviceError(
                f".target: the PTX is for {signature.target}, {device.name} "
                f"({device.product}) is sm_{major}{minor}; take a build for an older target"
            )
        needed, here = cuda_for_ptx(signature.ptx_version), driver.version()
        if needed is None or needed > here:
            oldest = driver_for_ptx(signature.ptx_version)
            raise DeviceError(
                f".version: the PTX is of ISA {_dotted(signature.ptx_version)}, which needs "
                f"{f'CUDA {_dotted(needed)} (driver {oldest})' if needed else 'a newer CUDA'}; "
                f"this driver supports CUDA {_dotted(here)}: update the driver, or compile with a "
                "lower ptx_version"
            )

    def _refusal(self, device: CudaDevice, error: Exception) -> PtxError:
        with device.current():
            log = driver.jit_log(self.text)
        return PtxError(f"the driver refused the PTX: {log or error}")

    def _get(self, signature: Signature) -> CudaKernel:
        device = self.device
        assert isinstance(device, CudaDevice)
        try:
            with device.current():
                function = self._handle.get_function(signature.entry)
                handle = _integer_handle(function.handle)
                if type(function.handle).__name__ == "CUkernel":  # numba-cuda's, of no context
                    handle = driver.function_of(handle)
        except Exception as error:  # numba-cuda compiles here, not when the module is created
            raise self._refusal(device, error) from error
        return CudaKernel(self, signature, function, handle)


class CudaKernel(Kernel):
    """A function of the driver."""

    def __init__(
        self, module: CudaModule, signature: Signature, function: Any, handle: int
    ) -> None:
        super().__init__(module, signature)
        self._function = function  # keeps what the handle stands for alive
        self._handle = handle
        self._allowed_shared = _DEFAULT_SHARED_BYTES

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        device = self.module.device
        assert isinstance(device, CudaDevice)
        handle = stream_handle(stream)
        config = invocation.config
        with device.current():
            self._allow_shared(device, config.shared_bytes)
            scratch = self._allocate_scratch(invocation)
            what = self._describe(invocation)
            driver.launch(
                self._handle,
                config.grid,
                config.block,
                config.shared_bytes,
                handle,
                invocation.block.kernel_params(),
                what,
            )
            device.in_flight.keep(handle, what, (invocation.arguments, scratch, stream))

    def _allow_shared(self, device: CudaDevice, nbytes: int) -> None:
        if nbytes <= self._allowed_shared:
            return
        if nbytes > device.max_shared_bytes:
            raise DeviceError(
                f"shared_bytes: {device.name} ({device.product}) gives a CTA at most "
                f"{device.max_shared_bytes}, found {nbytes}"
            )
        driver.allow_shared(self._handle, nbytes)
        self._allowed_shared = nbytes

    def _allocate_scratch(self, invocation: Invocation) -> list[Any]:
        """Scratch buffers as the sidecar demands, their addresses written into the block."""
        buffers = []
        for name, nbytes, align in self._scratch_demands(invocation.config):
            buffers.append(self.module.device.empty(nbytes + align, np.uint8))
            address = buffers[-1].__cuda_array_interface__["data"][0]
            invocation.block.set(**{name: -(-address // align) * align})
        return buffers


class InFlight:
    """What launches use, kept alive until the device is done with it."""

    def __init__(self) -> None:
        self._launches: deque[tuple[driver.Event, str, tuple[object, ...]]] = deque()
        self._spare: list[driver.Event] = []
        self._lock = threading.Lock()

    def keep(self, stream: int, what: str, objects: tuple[object, ...]) -> None:
        """Hold `objects` until the work that `stream` has been given so far is done.

        Launches that are captured into a graph run later, as often as the graph is launched:
        whoever holds the graph has to hold their arrays.
        """
        if driver.is_capturing(stream):
            return
        with self._lock:
            while self._launches and self._launches[0][0].done:
                self._spare.append(self._launches.popleft()[0])
            event = self._spare.pop() if self._spare else driver.Event()
            event.record(stream)
            self._launches.append((event, what, objects))

    def release(self) -> None:
        """Let go of everything: the device has been synchronised."""
        with self._lock:
            self._spare.extend(event for event, _, _ in self._launches)
            self._launches.clear()

    def describe(self) -> str:
        """The launches that are not known to be done, oldest first."""
        with self._lock:
            return "; ".join(what for _, what, _ in self._launches) or "no launch of this package"


def stream_handle(stream: Any) -> int:
    """The driver's handle of a stream: numba's, another library's, an integer, None for stream 0.

    Raises DeviceError for an object that is no stream.
    """
    if stream is None:
        return 0
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    for attribute in ("handle", "cuda_stream", "ptr"):  # numba, torch, CuPy
        if hasattr(stream, attribute):
            return _integer_handle(getattr(stream, attribute))
    raise DeviceError(
        f"stream: expected a CUDA stream (numba, __cuda_stream__, torch, CuPy or an integer "
        f"handle), found {type(stream).__name__}"
    )


def _integer_handle(handle: Any) -> int:
    """A driver handle as an integer, whether it is a ctypes or a cuda.bindings object."""
    if hasattr(handle, "value"):
        handle = handle.value
    return int(handle or 0)


def _dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The array interface has no name for bfloat16: it stands there as two bytes of anything."""
    return _BFLOAT16 if dtype == np.dtype("V2") else dtype


def _first_entry(text: str) -> str | None:
    """Any entry: target and version are the module's, whichever entry is looked at."""
    entries = Signature.entries(text)
    return entries[0] if entries else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
