"""The device that a command works on."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..devices import Device, open_device
from ..errors import DeviceError


class NoSuchDevice(DeviceError):  # noqa: N818 - the exit code's own name
    """The device that was asked for is not here: exit code 3."""


def device_option(help: str, default: str | None = None) -> Callable[[Any], Any]:
    """`--device`, which every command has; `help` says what it does with it."""
    return click.option("--device", "device", metavar="NAME", default=default, help=help)


def find_device(name: str, threads: int | None = None) -> Device:
    """`open_device`, with the errors of the command line."""
    try:
        device = open_device(name)
    except DeviceError as error:
        raise NoSuchDevice(str(error), code=error.code) from error
    if threads is None:
        return device
    if device.name != "cpu":
        raise click.UsageError(f"--threads: only the CPU device has them, found {device.name}")
    return open_device(device.name, threads=threads)


def describe_device(device: Device) -> dict[str, Any]:
    """Description of a device in JSON's types."""
    # Imported here, since each brings a compiler or a driver that most commands do not need.
    if device.name == "cpu":
        from ..devices.cpu import CpuDevice

        assert isinstance(device, CpuDevice)
        return {"name": device.name, "product": _cpu_product(), "threads": device.threads}
    from ..devices.cuda.device import CudaDevice

    assert isinstance(device, CudaDevice)
    return {
        "name": device.name,
        "product": device.product,
        "compute_capability": ".".join(map(str, device.capability)),
    }


def device_line(described: dict[str, Any]) -> str:
    """`describe_device` in one line."""
    name, product = described["name"], described["product"]
    if "threads" in described:
        count = described["threads"]
        return f"{name}: {product}, {count} thread{'s' if count != 1 else ''}"
    return f"{name}: {product}, compute capability {described['compute_capability']}"


def _cpu_product() -> str:
    """The CPU's name, as its system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
