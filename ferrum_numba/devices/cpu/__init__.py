"""The CPU device, plain, checked and traced."""

from .device import CpuDevice

__all__ = ["CpuDevice"]
