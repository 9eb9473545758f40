"""GPTQ layers: packing, checkpoints on disk, the NumPy reference, and the linear layer.

Checkpoints can be made too: synthetic ones of any dialect, and from a dense model.
"""

from .checkpoint import Checkpoint, TensorSpec
from .config import QuantConfig
from .conversion import quantize_checkpoint
from .dense import DenseModel
from .example import example_checkpoint
from .experts import GptqExperts, Routing, StackedWeight
from .fusion import fuse
from .layer_spec import GroupIndex, LayerSpec
from .linear import GptqLinear
from .loading import load_layers
from .quantise import quantize
from .recipe import MODELS, PRODUCERS, Recipe
from .rules import LayerRule
from .synthesis import make_checkpoint
from .tensors import GptqTensors
from .zeros import ZeroFormat

__all__ = [
    "MODELS",
    "PRODUCERS",
    "Checkpoint",
    "DenseModel",
    "GptqExperts",
    "GptqLinear",
    "GptqTensors",
    "GroupIndex",
    "LayerRule",
    "LayerSpec",
    "QuantConfig",
    "Recipe",
    "Routing",
    "StackedWeight",
    "TensorSpec",
    "ZeroFormat",
    "example_checkpoint",
    "fuse",
    "load_layers",
    "make_checkpoint",
    "quantize",
    "quantize_checkpoint",
]
