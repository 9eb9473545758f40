"""Run precompiled Triton kernels from Python without torch, on NVIDIA GPUs and on the CPU."""

import os

from .abi import LaunchConfig, Parameter, ParameterBlock, Sidecar, Signature
from .debug import Recording, record, watch_process
from .devices import (
    Device,
    Kernel,
    LaunchGraph,
    LaunchPlan,
    Module,
    PreparedLaunch,
    open_device,
)
from .errors import (
    AbiError,
    CheckpointError,
    DeviceError,
    FerrumError,
    LaunchError,
    PtxError,
    RecordingError,
    SanitizerError,
)
from .gptq import Checkpoint, GptqLinear, GptqTensors, LayerSpec
from .kernels import BK, BM, BN, W4A16_PTX, W4A16Weight, fn_name, launch_w4a16_gptq
from .version import __version__

watch_process(os.environ.get("FERRUM_RECORD"))

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
    "LaunchGraph",
    "LaunchPlan",
    "LayerSpec",
    "Module",
    "Parameter",
    "ParameterBlock",
    "PreparedLaunch",
    "PtxError",
    "Recording",
    "RecordingError",
    "SanitizerError",
    "Sidecar",
    "Signature",
    "W4A16Weight",
    "__version__",
    "fn_name",
    "launch_w4a16_gptq",
    "open_device",
    "record",
]
