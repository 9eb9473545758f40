"""Run precompiled Triton kernels from Python without torch, on NVIDIA GPUs and on the CPU.

    import ferrum_numba as fe

    device = fe.open_device()                       # the GPU where one is usable, else the CPU
    checkpoint = fe.Checkpoint.open(folder)         # a mapping of its GPTQ layers
    layer = fe.GptqLinear.load(checkpoint, name, device=device)
    y = layer(x)                                    # x (..., K) -> y (..., N)
    model = fe.Model.load(folder, device=device)    # token ids in, token ids out
    kernel = device.load_module("any.ptx", sidecar="any.json").get_kernel()

`fe.example_checkpoint()` makes a folder to try that on.  `fe.kernels` has the shipped builds,
`ferrum_numba.gptq` what makes checkpoints.  `python -m ferrum_numba.examples` lists programs.
"""

from . import start as start  # before all that takes time

# isort: split
import importlib
import os
from typing import TYPE_CHECKING, Any

from . import kernels
from .abi import ArrayReference, LaunchConfig, Parameter, ParameterBlock, Sidecar, Signature
from .debug import watch_process
from .devices import (
    Device,
    DeviceMemory,
    Invocation,
    Kernel,
    LaunchGraph,
    LaunchPlan,
    Module,
    Occupancy,
    PreparedLaunch,
    Resources,
    TensorMap,
    nvtx,
    open_device,
)
from .devices.nvtx import nvtx_ranges
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
    QuantConfig,
    TensorSpec,
    example_checkpoint,
    load_layers,
)
from .kernels import BK, BM, BN, W4A16_PTX, Artefact, W4A16Weight, fn_name, launch_w4a16_gptq
from .models import Model, ModelConfig, Session
from .text import TextStream, Tokenizer

if TYPE_CHECKING:
    from .debug.recorder import Recorder, record
    from .debug.recording import Call, RecordedLaunch, Recording, Refused
    from .devices.trace import Trace
    from .emulator.checks import Finding
    from .emulator.trace import Event, TracedLaunch
    from .emulator.types import Values
    from .version import __version__

# Loaded on demand, since few processes need them.
_LATER = {
    **dict.fromkeys(("Recorder", "record"), ".debug.recorder"),
    **dict.fromkeys(("Call", "RecordedLaunch", "Recording", "Refused"), ".debug.recording"),
    "Trace": ".devices.trace",
    "Finding": ".emulator.checks",
    **dict.fromkeys(("Event", "TracedLaunch"), ".emulator.trace"),
    "Values": ".emulator.types",
    "__version__": ".version",
}

watch_process(os.environ.get("FERRUM_RECORD"))
if os.environ.get("FERRUM_NVTX") == "1":
    nvtx.begin()

__all__ = [
    "BK",
    "BM",
    "BN",
    "W4A16_PTX",
    "AbiError",
    "ArrayReference",
    "Artefact",
    "Call",
    "Checkpoint",
    "CheckpointError",
    "Device",
    "DeviceError",
    "DeviceMemory",
    "Event",
    "FerrumError",
    "Finding",
    "GptqLinear",
    "GptqTensors",
    "Invocation",
    "Kernel",
    "LaunchConfig",
    "LaunchError",
    "LaunchGraph",
    "LaunchPlan",
    "LayerSpec",
    "Model",
    "ModelConfig",
    "Module",
    "Occupancy",
    "Parameter",
    "ParameterBlock",
    "PreparedLaunch",
    "PtxError",
    "QuantConfig",
    "RecordedLaunch",
    "Recorder",
    "Recording",
    "RecordingError",
    "Refused",
    "Resources",
    "SanitizerError",
    "Session",
    "Sidecar",
    "Signature",
    "TensorMap",
    "TensorSpec",
    "TextStream",
    "Tokenizer",
    "Trace",
    "TracedLaunch",
    "Values",
    "W4A16Weight",
    "__version__",
    "example_checkpoint",
    "fn_name",
    "kernels",
    "launch_w4a16_gptq",
    "load_layers",
    "nvtx_ranges",
    "open_device",
    "record",
]


def __getattr__(name: str) -> Any:
    """Load what is loaded on demand."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
