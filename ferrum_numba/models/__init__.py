"""Whole models: configurations, architectures, and where their weights lie."""

from .config import ModelConfig
from .model import Model
from .names import LayerNames, Linear, ModelNames
from .rope import RopeSpec
from .session import Session
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
]
