"""Run precompiled Triton kernels from Python without torch, on NVIDIA GPUs and on the CPU."""

import os
from typing import TYPE_CHECKING, Any

from .abi import LaunchConfig, Parameter, ParameterBlock, Sidecar, Signature
from .debug import watch_process
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
from .gptq import (
    Checkpoint,
    GptqLinear,
    GptqTensors,
    LayerSpec,
    TensorSpec,
    example_checkpoint,
)
from .kernels import BK, BM, BN, W4A16_PTX, W4A16Weight, fn_name, launch_w4a16_gptq
from .models import Model, Session, Tokenizer
from .version import __version__

if TYPE_CHECKING:
    from .debug.recorder import record
    from .debug.recording import Recording

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
    "Model",
    "Module",
    "Parameter",
    "ParameterBlock",
    "PreparedLaunch",
    "PtxError",
    "Recording",
    "RecordingError",
    "SanitizerError",
    "Session",
    "Sidecar",
    "Signature",
    "TensorSpec",
    "Tokenizer",
    "W4A16Weight",
    "__version__",
    "example_checkpoint",
    "fn_name",
    "launch_w4a16_gptq",
    "open_device",
    "record",
]


def __getattr__(name: str) -> Any:
    """Load on demand what few processes need."""
    if name == "record":
        from .debug.recorder import record

        return record
    if name == "Recording":
        from .debug.recording import Recording

        return Recording
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
