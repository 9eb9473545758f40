"""Whole models: configurations, architectures, where their weights lie, and text."""

from .config import ModelConfig
from .names import LayerNames, Linear, ModelNames
from .rope import RopeSpec
from .model import Model
from .session import Session
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
