"""Whole models: configurations, architectures, and where their weights lie."""

from .config import ModelConfig
from .names import LayerNames, Linear, ModelNames
from .rope import RopeSpec

__all__ = ["LayerNames", "Linear", "ModelConfig", "ModelNames", "RopeSpec"]
