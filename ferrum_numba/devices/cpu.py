"""The CPU device: the same PTX and the same parameter block, executed through LLVM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..abi import ArrayReference, Sidecar, Signature
from ..emulator import Program
from ..errors import AbiError, DeviceError
from .base import Device, Invocation, Kernel, Module

_MAX_SHARED_BYTES = 228 * 1024  # what the largest GPU gives a CTA; a typing error beyond that


class CpuStream:
    """A stream of the CPU device: launches are done when they return, so there is no waiting."""

    def synchronize(self) -> None:
        """Return at once."""


class CpuDevice(Device):
    """Runs CTAs on `threads` threads (None: one for each core that the process may use)."""

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        if threads is not None and threads < 1:
            raise DeviceError(f"threads: expected at least 1, found {threads}")
        self.name = "cpu"
        self.threads = threads or _usable_cores()

    def _load(self, text: str, sidecar: Sidecar) -> CpuModule:
        return CpuModule(self, text, sidecar)

    def to_device(self, array: Any) -> NDArray[Any]:
        return np.ascontiguousarray(_require_numpy("array", array))

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def to_host(self, array: Any) -> NDArray[Any]:
        return _require_numpy("array", array)

    def synchronize(self) -> None:
        """Return at once: every launch was done when it returned."""

    def create_stream(self) -> CpuStream:
        return CpuStream()

    def describe(self, name: str, array: object) -> ArrayReference:
        values = _require_numpy(name, array)
        if not values.dtype.isnative:
            raise AbiError(f"{name}: expected native byte order, found {values.dtype.str}")
        reach = sum((n - 1) * s for n, s in zip(values.shape, values.strides, strict=True) if s > 0)
        return ArrayReference(
            address=values.ctypes.data,
            shape=values.shape,
            strides=values.strides,
            dtype=values.dtype.name,
            itemsize=values.itemsize,
            available=reach + values.itemsize if values.size else 0,
            device=self.name,
            readonly=not values.flags.writeable,
        )


class CpuModule(Module):
    """PTX text; an entry is compiled when its kernel is first asked for."""

    def _get(self, signature: Signature) -> CpuKernel:
        return CpuKernel(self, signature, Program.compile(self.text, signature.entry))


class CpuKernel(Kernel):
    """An entry compiled to native code."""

    def __init__(self, module: CpuModule, signature: Signature, program: Program) -> None:
        super().__init__(module, signature)
        self._program = program

    def _enqueue(self, invocation: Invocation, stream: Any) -> None:
        device = self.module.device
        assert isinstance(device, CpuDevice)
        if stream is not None and not isinstance(stream, CpuStream):
            raise DeviceError(
                f"stream: expected one of {device.name} (device.create_stream()) or None, "
                f"found {type(stream).__name__}"
            )
        config = invocation.config
        if config.shared_bytes > _MAX_SHARED_BYTES:
            raise DeviceError(
                f"shared_bytes: expected at most {_MAX_SHARED_BYTES}, found {config.shared_bytes}"
            )
        scratch = {}  # alive until the launch is done, which is when run() returns
        for name, nbytes, align in self._scratch_demands(config):
            buffer = np.zeros(nbytes + align, np.uint8)
            start = -buffer.ctypes.data % align
            scratch[name] = buffer[start : start + nbytes]
            invocation.block.set(**{name: scratch[name].ctypes.data})
        self._run(device, invocation, scratch)

    def _run(
        self, device: CpuDevice, invocation: Invocation, scratch: dict[str, NDArray[np.uint8]]
    ) -> None:
        """Run a checked launch; scratch: the buffers by the names of their parameters."""
        config = invocation.config
        self._program.run(
            grid=config.grid,
            block=config.block,
            shared_bytes=config.shared_bytes,
            parameter_block=invocation.block.to_bytes(),
            threads=device.threads,
        )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require_numpy(name: str, array: object) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    found = type(array).__name__
    if hasattr(array, "__cuda_array_interface__"):
        raise AbiError(
            f"{name}: expected a NumPy array on the CPU device, found a GPU array ({found}); "
            "copy it with to_host() of its own device"
        )
    raise AbiError(f"{name}: expected a NumPy array, found {found}")
