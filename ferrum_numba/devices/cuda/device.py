"""The CUDA device: one GPU through its primary context, and the PTX that it has loaded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...abi import (
    ArrayReference,
    Sidecar,
    Signature,
    cuda_for_ptx,
    loader_for_ptx,
    ptx_digest,
    runs_on,
)
from ...dtypes import dtype_named
from ...errors import AbiError, DeviceError, LaunchError, PtxError
from ...machine_code import Cubin, Fatbin
from .. import arrays as host_arrays
from .. import assembler, dlpack, sequence
from ..device import Device, Module
from . import arrays, driver, jit_link, modules, numba_cuda
from .captures import CaptureLock
from .compiled import CompiledCode
from .context import Context
from .graph import CudaGraph
from .in_flight import InFlight
from .kernel import CudaKernel
from .numba_cuda import bytes_at, unusable
from .objects import LoadedCode, Stream
from .plan import CudaLaunchPlan
from .pool import Pool
from .scratch import CudaScratch
from .staging import Staging
from .streams import PER_THREAD, Behind, integer_handle, stream_handle

# Bytes; a parameter that is aligned further may lie elsewhere than the PTX has it.
_PLAINLY_ALIGNED = 16


class CudaDevice(Device):
    """One GPU, through its primary context."""

    _opened: dict[int, CudaDevice] = {}  # noqa: RUF012 - one device an ordinal, for the process
    _lock = threading.Lock()

    def __init__(self, ordinal: int) -> None:
        super().__init__()
        self.name = f"cuda:{ordinal}"
        self.ordinal = ordinal
        self.ahead: dict[str, bytes] = {}  # cubins of PTX that is going to be loaded, by its digest
        self.in_flight = InFlight(self.current)
        self.capture_lock = CaptureLock()
        self._context = Context(ordinal, self.in_flight.describe, self._abandon)
        self.memory: Pool = Pool(self.name, ordinal, self.in_flight, self.current)
        self.scratch = CudaScratch(self.memory, self.in_flight)
        self._arrays = numba_cuda.ArrayMaker(self.memory, self.current)
        with self.current():
            info, self._without_freeing = numba_cuda.context()
            # For copies: the default stream is out of reach while another thread captures, and a
            # stream that waits for no other would not wait for a copy there.
            own = Stream(blocking=True)
            self._copies, self._staging = numba_cuda.stream_of(own), Staging(own)
            self.capability: tuple[int, int] = tuple(info.compute_capability)
            self.cuda_version = driver.version()  # the newest that the driver supports
            self.max_shared_bytes: int = info.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            self.chip = driver.chip(ordinal)
            name = info.name
            self.product: str = name.decode() if isinstance(name, bytes) else str(name)

    @classmethod
    def open(cls, ordinal: int | None) -> CudaDevice:
        """The device of an ordinal, or the current one.  Raises DeviceError where there is none."""
        reason = unusable()
        if reason:
            raise DeviceError('device "cuda"', reason, remedy='use open_device("cpu")')
        with cls._lock:
            if ordinal is None:
                ordinal = driver.current_device() or 0
            if ordinal >= numba_cuda.gpu_count():
                raise DeviceError(
                    f'device "cuda:{ordinal}"',
                    f"an ordinal below {numba_cuda.gpu_count()}, the number of GPUs here",
                    ordinal,
                )
            if ordinal not in cls._opened:
                cls._opened[ordinal] = cls(ordinal)
            return cls._opened[ordinal]

    def current(self) -> Context:
        """A block in which this device's context is current in the calling thread.

        Entering raises DeviceError where the context is lost.
        """
        return self._context

    def _abandon(self) -> None:
        self._without_freeing.__enter__()

    def _pick(self, fatbin: Fatbin) -> str | Cubin:
        found = fatbin.cubin_for(self.capability) or fatbin.ptx
        if found is None:
            targets = ", ".join(fatbin.targets)
            raise DeviceError(
                "fatbin",
                f"code for {self.architecture}, which {self.name} ({self.product}) is",
                f"code for {targets}",
                "build it for that, or with PTX",
            )
        return found

    def _load(self, code: str | Cubin, sidecar: Sidecar, assembled: Cubin | None) -> CudaModule:
        return CudaModule(self, code, sidecar, assembled)

    @property
    def architecture(self) -> str:
        """The name of its architecture in PTX and machine code, such as "sm_90"."""
        return "sm_{}{}".format(*self.capability)

    def compile(self, text: str) -> bytes:
        """The cubin that the driver's linker makes of PTX for this GPU, or where that would make
        it slow, ptxas.

        Raises PtxError for PTX that the linker refuses, and DeviceError where there is no ptxas
        that takes it, of the driver's CUDA version or older.
        """
        if not jit_link.suits(text):
            target = _architecture(text, self.capability)
            return assembler.assemble(text, target, newest=self.cuda_version).cubin
        with self.current(), driver.outside_of_captures():
            try:
                return modules.compile_ptx(text)
            except LaunchError as error:
                raise PtxError("ptx", f"the driver refused it: {error}") from error

    @property
    def compiles_side_by_side(self) -> bool:
        return self.compiled is not None or jit_link.find(self.cuda_version) is not None

    def compile_ahead(self, text: str) -> None:
        linker = jit_link.find(self.cuda_version)
        carried = self.compiled is not None and self.compiled.path(text).is_file()
        if linker is None or carried or not jit_link.suits(text):
            return
        from ...emulator.cache import Cache, key_of  # the same cache, and few processes need it

        architecture, cache = _architecture(text, self.capability), Cache.of_user()
        key = key_of("nvJitLink {}.{}".format(*linker.version), architecture, text)
        cubin = cache.load(key) if cache else None
        if cubin is None:
            try:
                cubin = linker.compile(text, architecture)
            except PtxError:
                return
            if cache:
                cache.store(key, cubin)
        self.ahead[ptx_digest(text)] = cubin

    @cached_property
    def compiled(self) -> CompiledCode | None:
        """Compiled code that is carried along, of $FERRUM_COMPILED."""
        return CompiledCode.named(self.capability, self.cuda_version)

    def to_device(self, array: Any, *, copy: bool = True, align: int = 1) -> Any:
        if not (dlpack.is_offered(array) and dlpack.device_of("array", array) == "cpu"):
            self.describe("array", array)
            return array
        host = host_arrays.view("array", array)
        there = self.empty(host.shape, host.dtype)
        if host.nbytes:
            # As bytes: bfloat16 has no buffer interface.
            flat = np.asarray(host, order="C").reshape(-1).view(np.uint8)
            with self.current(), driver.outside_of_captures():
                self._staging.copy(flat, integer_handle(there.device_ctypes_pointer))
        return there

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        if self._context.lost:
            raise DeviceError(self.name, self._context.lost)
        return self._arrays.make(shape, dtype)

    def to_host(self, array: Any, *, copy: bool = True) -> NDArray[Any]:
        if isinstance(array, np.ndarray):
            return array.copy() if copy else array
        there = self.describe("array", array)
        if not there.contiguous:
            raise AbiError(
                "array", "a C-contiguous array", "one that is not", "copy the whole, then slice it"
            )
        self.synchronize()
        own = getattr(array, "dtype", None)
        dtype = own if isinstance(own, np.dtype) else dtype_named(there.dtype)
        nbytes = there.available
        if not nbytes:
            return np.empty(there.shape, dtype)
        with self.current():
            view = bytes_at(there.address, nbytes, array)
            read = view.copy_to_host(stream=self._copies)
            self._copies.synchronize()
            host: NDArray[Any] = read.view(dtype).reshape(there.shape)
            return host

    def mapped(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        with self.current(), driver.outside_of_captures():
            array = numba_cuda.mapped(shape, dtype)
        array[...] = 0
        return array

    def write(self, array: Any, host: NDArray[Any]) -> None:
        there = self.describe("array", array)
        host_arrays.check_like(host, there)
        self.synchronize()
        if host.nbytes:
            flat = np.asarray(host, order="C").reshape(-1).view(np.uint8)
            with self.current(), driver.outside_of_captures():
                self._staging.copy(flat, there.address)

    def synchronize(self) -> None:
        recording = sequence.recording_here()
        if isinstance(recording, CudaGraph) and recording.device is self:
            raise LaunchError(
                "synchronize",
                "this thread is capturing a graph, of which nothing runs before it is launched",
                remedy="wait after the block",
            )
        with self.current(), self.capture_lock.waiting(), self.in_flight.waited_for():
            driver.synchronize()
        self.scratch.forget()

    def create_stream(self) -> Any:
        with self.current():
            return numba_cuda.stream_of(Stream(blocking=True))

    def order(self, *, before: Any, after: Any) -> None:
        with self.current():
            Behind(stream_handle(before))(stream_handle(after))

    def _new_plan(self) -> CudaLaunchPlan:
        return CudaLaunchPlan(self)

    def _new_graph(self, stream: Any) -> CudaGraph:
        return CudaGraph(self, self.capture_stream() if stream is None else stream)

    def capture_stream(self) -> Any:
        """A new stream for a capture.

        Whatever other threads do on the default stream would break the capture of one that it waits
        for, which numba's own are.
        """
        with self.current():
            return numba_cuda.stream_of(Stream())

    def is_capturing(self, stream: Any) -> bool:
        handle = stream_handle(stream)
        if handle != PER_THREAD:
            return driver.is_capturing(handle)
        with self.current():  # each device has one
            return driver.is_capturing(handle)

    def describe(self, name: str, array: object) -> ArrayReference:
        reference = arrays.describe(name, array, self.name)
        if reference.available:
            self._require_here(name, reference.address)
        return reference

    def holds(self, address: int) -> bool:
        """True if there is memory of this GPU at an address."""
        return address in self.memory.blocks or driver.device_of(address) == self.ordinal

    def _require_here(self, name: str, address: int) -> None:
        ordinal = driver.device_of(address)
        if ordinal is None:
            self._context.require_alive()
            raise AbiError(
                name, f"the driver knows no memory at {address:#x}", remedy="was it freed?"
            )
        if ordinal != self.ordinal:
            raise AbiError(
                name,
                f"an array on {self.name}",
                f"one on cuda:{ordinal}",
                "copy it to this device first",
            )


class CudaModule(Module):
    """Code that the driver has loaded into one context: PTX that it compiles, or a cubin."""

    device: CudaDevice

    def __init__(
        self,
        device: CudaDevice,
        code: str | Cubin,
        sidecar: Sidecar,
        assembled: Cubin | None,
    ) -> None:
        """assembled: a cubin of the PTX, which is taken where this GPU runs it."""
        super().__init__(device, code, sidecar)
        if isinstance(code, Cubin):
            self._require_cubin(device, code)
            self._loaded = self._load(code.data)
        elif assembled is not None and assembled.runs_on(device.capability):
            self._loaded = self._load(assembled.data)
        else:
            self._require_runnable(device, code)
            self._loaded = self._carried(code) or self._load(code.encode())

    def _load(self, code: bytes) -> LoadedCode:
        try:
            with self.device.current(), driver.outside_of_captures():
                return LoadedCode(code)
        except LaunchError as error:
            if self.device.current().lost:  # it is not the code's fault
                raise
            what = "ptx" if self.text else "cubin"
            raise PtxError(what, f"the driver refused it: {error}") from error

    def _carried(self, text: str) -> LoadedCode | None:
        """The code that was compiled before, carried along or ahead; None where none loads."""
        compiled, ahead = self.device.compiled, self.device.ahead
        cubin = (compiled.find(text) if compiled else None) or ahead.pop(ptx_digest(text), None)
        if cubin is None:
            return None
        try:
            return self._load(cubin)
        except PtxError as error:
            warnings.warn(f"compiled code: {error}; the PTX is compiled instead", stacklevel=2)
            return None

    def _require_cubin(self, device: CudaDevice, cubin: Cubin) -> None:
        if not cubin.runs_on(device.capability):
            raise DeviceError(
                "cubin",
                f"machine code for {device.architecture}, which {device.name} ({device.product}) "
                "is",
                f"for {cubin.target}",
                "build it for that, or take the PTX",
            )

    def _require_runnable(self, device: CudaDevice, text: str) -> None:
        signature = Signature.from_ptx(text, self.sidecar.entry or _first_entry(text))
        if not runs_on(signature.target, device.capability):
            raise DeviceError(
                ".target",
                f"the PTX is for {signature.target}, {device.name} ({device.product}) is "
                f"{device.architecture}",
                remedy="take a build for an older target",
            )
        version, here = signature.ptx_version, device.cuda_version
        needed = cuda_for_ptx(version)
        if needed is None or needed > here:
            raise DeviceError(
                ".version",
                f"the PTX is of ISA {_dotted(signature.ptx_version)}, which needs "
                f"{loader_for_ptx(signature.ptx_version)}; this driver supports CUDA "
                f"{_dotted(here)}",
                remedy="update the driver, or compile with a lower ptx_version",
            )

    def _get(self, signature: Signature) -> CudaKernel:
        device = self.device
        with device.current(), driver.outside_of_captures():
            handle = self._loaded.function(signature.entry)
            if any(p.align > _PLAINLY_ALIGNED for p in signature.params):
                places = modules.parameter_places(handle, len(signature.params))
                signature = replace(signature, places=places)
        return CudaKernel(self, device, signature, self._loaded, handle)


def _architecture(text: str, capability: tuple[int, int]) -> str:
    """The GPU's architecture, with the letter of PTX that is for it alone."""
    target = Signature.from_ptx(text, _first_entry(text)).target
    plain = "sm_{}{}".format(*capability)
    return target if target.rstrip("af") == plain else plain


def _first_entry(text: str) -> str | None:
    """Any entry: target and version are the module's, whichever entry is looked at."""
    entries = Signature.entries(text)
    return entries[0] if entries else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
