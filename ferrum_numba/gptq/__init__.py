"""GPTQ layers: packing, checkpoints on disk, the NumPy reference, and the linear layer.

Checkpoints can be made too: synthetic ones of any dialect, and from a dense model.
"""

from .checkpoint import Checkpoint, TensorSpec
from .config import QuantConfig
from .conversion import quantize_checkpoint
from .dense import DenseModel
from .example import example_checkpoint
from .expert_census import expert_problems
from .expert_space import ExpertSpace
from .experts import ExpertRoom, GptqExperts, Routing, StackedWeight
from .fused_experts import check_fused, fused_experts
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
    "ExpertRoom",
    "ExpertSpace",
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
    "check_fused",
    "example_checkpoint",
    "expert_problems",
    "fuse",
    "fused_experts",
    "load_layers",
    "make_checkpoint",
    "quantize",
    "quantize_checkpoint",
]
