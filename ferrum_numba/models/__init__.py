"""Whole models: configurations, architectures, where their weights lie, and text."""

from .config import ModelConfig
from .names import LayerNames, Linear, ModelNames
from .rope import RopeSpec
from .tokenizer import TextStream, Tokenizer

__all__ = [
    "LayerNames",
    "Linear",
    "ModelConfig",
    "ModelNames",
    "RopeSpec",
    "TextStream",
    "Tokenizer",
]
