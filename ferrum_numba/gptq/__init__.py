"""GPTQ 4-bit layers: packing, checkpoints on disk, the NumPy reference, and the linear layer."""

from .checkpoint import Checkpoint
from .config import QuantConfig
from .layer_spec import LayerSpec
from .linear import GptqLinear
from .tensors import GptqTensors
from .zeros import ZeroFormat

__all__ = ["Checkpoint", "GptqLinear", "GptqTensors", "LayerSpec", "QuantConfig", "ZeroFormat"]
