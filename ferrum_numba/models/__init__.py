"""Whole models: configurations, architectures, where their weights lie, and text."""

from .config import ModelConfig
from .model import Model
from .names import LayerNames, Linear, ModelNames
from .rope import RopeSpec
from .session import Session
from .tokenizer import TextStream, Tokenizer
from .weights import Layer

__all__ = [
    "Layer",
    "LayerNames",
    "Linear",
    "Model",
    "ModelConfig",
    "ModelNames",
    "RopeSpec",
    "Session",
    "TextStream",
    "Tokenizer",
]
