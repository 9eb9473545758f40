"""Devices: where kernels run.  `open_device` is the way in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache

from ..errors import DeviceError
from .chip import Chip
from .device import Device, Kernel, Module
from .invocation import Invocation, Launchable, Stream
from .memory import DeviceMemory
from .prepared import PreparedLaunch
from .resources import Occupancy, Resources
from .sequence import LaunchGraph, LaunchPlan
from .tensor_map import TensorMap

__all__ = [
    "Chip",
    "Device",
    "DeviceMemory",
    "Invocation",
    "Kernel",
    "LaunchGraph",
    "LaunchPlan",
    "Launchable",
    "Module",
    "Occupancy",
    "PreparedLaunch",
    "Resources",
    "Stream",
    "TensorMap",
    "given_or_open",
    "open_device",
]


def open_device(
    name: str = "auto", *, threads: int | None = None, checks: Sequence[str] = ()
) -> Device:
    """The device of this name: "auto", "cpu", "cuda" (the current GPU) or "cuda:<ordinal>".

    "auto" is $FERRUM_DEVICE where it is set, else the GPU where one is usable, else the CPU.
    threads: for the CPU device, how many threads share the CTAs; all usable cores by default.
    checks: for the CPU device, what is looked for in every launch: "memory" (accesses outside the
    arrays), "init" (reads of what nobody wrote), "race" (missing barriers, waits and fences),
    "order" (a second run with the warps in reverse order), "nan" (where a NaN or an infinity first
    comes out of finite numbers).  A launch that has findings raises SanitizerError; see
    CheckedCpuDevice.
    The same device is returned every time, with its loaded modules.

    Raises DeviceError for a name that is none of these or a GPU that is not there.
    """
    field = "device"
    if name == "auto" and os.environ.get("FERRUM_DEVICE"):
        field, name = "FERRUM_DEVICE", os.environ["FERRUM_DEVICE"]
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if match is None:
        raise DeviceError(field, '"auto", "cpu", "cuda" or "cuda:<n>"', f"{name!r}")
    if isinstance(checks, str):
        raise DeviceError("checks", 'several, such as ("memory",)', f"{checks!r}")
    if name == "auto":
        from .cuda.numba_cuda import unusable

        name = "cpu" if unusable() else "cuda"
    if name == "cpu":
        return _open_checked(threads, tuple(checks)) if checks else _open_cpu(threads)
    if checks:
        raise DeviceError("checks", "the CPU device, which alone has them", f"device {name!r}")
    if threads is not None:
        raise DeviceError("threads", "the CPU device, which alone has them", f"device {name!r}")
    from .cuda.device import CudaDevice

    return CudaDevice.open(int(match[1]) if match[1] else None)


def given_or_open(device: Device | None) -> Device:
    """The device that was given, or where that is None the usual one.

    Raises DeviceError for what is no device, such as its name.
    """
    if device is None:
        return open_device()
    if not isinstance(device, Device):
        remedy = f"pass open_device({device!r})" if isinstance(device, str) else ""
        raise DeviceError("device", "a device", f"{device!r:.80}", remedy)
    return device


@cache
def _open_cpu(threads: int | None) -> Device:
    from .cpu.device import CpuDevice

    return CpuDevice(threads)


@cache
def _open_checked(threads: int | None, checks: tuple[str, ...]) -> Device:
    from .cpu.checked import CheckedCpuDevice

    return CheckedCpuDevice(threads, checks)
