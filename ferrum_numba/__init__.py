"""Run precompiled Triton kernels from Python without torch, on NVIDIA GPUs and on the CPU."""

from importlib.metadata import PackageNotFoundError, version

from .abi import LaunchConfig, Parameter, ParameterBlock, Sidecar, Signature
from .devices import Device, Kernel, Module, PreparedLaunch, open_device
from .errors import (
    AbiError,
    CheckpointError,
    DeviceError,
    FerrumError,
    LaunchError,
    PtxError,
    SanitizerError,
)
from .gptq import Checkpoint, GptqLinear, GptqTensors, LayerSpec
from .kernels import BK, BM, BN, W4A16_PTX, W4A16Weight, fn_name, launch_w4a16_gptq

try:
    __version__ = version("ferrum-numba")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BK",
    "BM",
    "BN",
    "W4A16_PTX",
    "AbiError",
    "Checkpoint",
    "CheckpointError",
    "Device",
    "DeviceError",
    "FerrumError",
    "GptqLinear",
    "GptqTensors",
    "Kernel",
    "LaunchConfig",
    "LaunchError",
    "LayerSpec",
    "Module",
    "Parameter",
    "ParameterBlock",
    "PreparedLaunch",
    "PtxError",
    "SanitizerError",
    "Sidecar",
    "Signature",
    "W4A16Weight",
    "__version__",
    "fn_name",
    "launch_w4a16_gptq",
    "open_device",
]
