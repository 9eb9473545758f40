"""The CPU device: the same PTX and the same parameter block, executed through LLVM."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...abi import ArrayReference, LaunchConfig, Sidecar, Signature
from ...dtypes import dtype_named
from ...emulator import LARGEST_SHARED, MOST_WAITING, Program
from ...errors import DeviceError, LaunchError
from ...machine_code import Cubin, Fatbin
from .. import arrays
from ..device import Device, Kernel, Module
from ..invocation import Invocation
from ..memory import HostMemory
from ..scratch import ScratchArena
from .launch_arrays import job_of

if TYPE_CHECKING:
    from ...emulator.trace import Selection
    from ..sequence import LaunchGraph
    from ..trace import Trace
    from .traced import Tracer


class CpuStream:
    """A stream of the CPU device: launches are done when they return, so there is no waiting."""

    def synchronize(self) -> None:
        """Return at once."""


class CpuDevice(Device):
    """Runs CTAs on `threads` threads (None: one for each core that the process may use)."""

    keeps_modules = 64

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        if threads is not None and threads < 1:
            raise DeviceError("threads", "at least 1", threads)
        self.name = "cpu"
        self.threads = threads or _usable_cores()
        self.memory: HostMemory = HostMemory(self.name)
        self._own = threading.local()
        self._tracer: Tracer | None = None

    def _pick(self, fatbin: Fatbin) -> str:
        text = fatbin.ptx
        if text is None:
            raise _machine_code(", ".join(fatbin.targets))
        return text

    def _load(self, code: str | Cubin, sidecar: Sidecar, assembled: Cubin | None) -> CpuModule:
        if isinstance(code, Cubin):
            raise _machine_code(code.target)
        return self._new_module(code, sidecar)

    def _new_module(self, text: str, sidecar: Sidecar) -> CpuModule:
        return CpuModule(self, text, sidecar)

    def to_device(self, array: Any, *, copy: bool = True, align: int = 1) -> NDArray[Any]:
        host = arrays.view("array", array)
        if not copy and host.flags.c_contiguous and host.ctypes.data % align == 0:
            return host
        there = self.memory.allocate(np.empty, host.shape, host.dtype)
        there[...] = host
        return there

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        return self.memory.allocate(np.empty, shape, dtype)

    def to_host(self, array: Any, *, copy: bool = True) -> NDArray[Any]:
        host = arrays.view("array", array)
        return host.copy() if copy else host

    def mapped(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        return np.zeros(shape, dtype_named(dtype))

    def write(self, array: Any, host: NDArray[Any]) -> None:
        arrays.check_like(host, self.describe("array", array))
        np.copyto(array, host)

    def synchronize(self) -> None:
        """Return at once: every launch was done when it returned."""

    def create_stream(self) -> CpuStream:
        return CpuStream()

    def order(self, *, before: Any, after: Any) -> None:
        """Return at once: what `before` was given is done."""
        for stream in (before, after):
            self.require_stream(stream)

    def require_stream(self, stream: object) -> None:
        """Raise DeviceError for what is no stream of the CPU device."""
        if stream is not None and not isinstance(stream, CpuStream):
            raise DeviceError(
                "stream",
                f"one of {self.name} (device.create_stream()) or None",
                type(stream).__name__,
            )

    def scratch(self) -> ScratchArena:
        """The calling thread's: a launch is done when it returns, so its next one may reuse it."""
        if not hasattr(self._own, "arena"):
            self._own.arena = ScratchArena(self._allocate)
        arena: ScratchArena = self._own.arena
        return arena

    def _allocate(self, nbytes: int, zeroed: bool) -> tuple[int, NDArray[Any]]:
        memory = self.memory.allocate(np.zeros if zeroed else np.empty, nbytes, np.uint8)
        return memory.ctypes.data, memory

    def describe(self, name: str, array: object) -> ArrayReference:
        return arrays.describe(name, array)

    def _new_graph(self, stream: Any) -> LaunchGraph:
        self.require_stream(stream)
        return super()._new_graph(stream)

    @contextmanager
    def _trace(self, selection: Selection) -> Iterator[Trace]:
        if self._tracer is not None:
            raise DeviceError("trace", f"{self.name} is being traced already")
        self._tracer = self._new_tracer(selection)
        try:
            yield self._tracer.trace
        finally:
            self._tracer = None

    def _new_tracer(self, selection: Selection) -> Tracer:
        from .traced import Tracer

        return Tracer(selection)


class CpuModule(Module):
    """PTX text; an entry is compiled when its kernel is first asked for."""

    def _get(self, signature: Signature) -> CpuKernel:
        return CpuKernel(self, signature, Program.compile(self.text, signature.entry))


class CpuKernel(Kernel):
    """An entry compiled to native code."""

    def __init__(self, module: CpuModule, signature: Signature, program: Program) -> None:
        super().__init__(module, signature)
        self._program = program

    def _require_possible(self, config: LaunchConfig) -> None:
        super()._require_possible(config)
        if config.shared_bytes > LARGEST_SHARED:
            raise DeviceError("shared_bytes", f"at most {LARGEST_SHARED}", config.shared_bytes)
        if config.cooperative and config.ctas > MOST_WAITING:
            raise DeviceError(
                "cooperative", f"at most {MOST_WAITING} CTAs, as any GPU holds", config.ctas
            )

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        device = self.module.device
        assert isinstance(device, CpuDevice)
        if stream is not None:
            device.require_stream(stream)
        demands = invocation.bound.scratch
        if not demands:
            self._run(device, invocation, {})
            return
        invocation = invocation.copy()  # other threads may launch the same one
        addresses = device.scratch().provide(demands)
        invocation.block.set(**addresses)
        counters = {d.name: _bytes_at(addresses[d.name], d.nbytes) for d in demands if d.zeroed}
        for counter in counters.values():
            counter[:] = 0  # a launch that was broken off, by Ctrl-C, leaves them as they were
        self._run(device, invocation, addresses)
        self._require_zero(invocation, counters)

    def _require_zero(self, invocation: Invocation, counters: dict[str, NDArray[np.uint8]]) -> None:
        """The kernel has to leave its counters as it found them: the next launch relies on it."""
        for name, counter in counters.items():
            if counter.any():
                raise LaunchError(
                    name,
                    f"zeros, as the kernel has to leave them after {self.describe(invocation)}",
                    f"byte {int(np.flatnonzero(counter)[0])} of {counter.nbytes} set",
                )

    def _run(self, device: CpuDevice, invocation: Invocation, scratch: Mapping[str, int]) -> None:
        """Run a launch; scratch: the buffers' addresses by the parameters' names."""
        if device._tracer is not None:
            device._tracer.run(self, invocation, scratch, device.threads)
            return
        self._program.run(job_of(self, invocation, device.threads))


def _machine_code(targets: str) -> DeviceError:
    return DeviceError(
        "code", "PTX, on the CPU device", f"machine code for {targets}", "take the PTX beside it"
    )


def _bytes_at(address: int, nbytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(memoryview((ctypes.c_uint8 * nbytes).from_address(address)), np.uint8)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
