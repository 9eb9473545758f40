"""Mistral: Llama with a sliding window in all layers, and never a bias."""

from __future__ import annotations

from typing import ClassVar

from ...gptq.keys import Keys
from .llama import Llama


class Mistral(Llama):
    """Source: transformers, models/mistral."""

    name = "MistralForCausalLM"
    model_type = "mistral"
    defaults: ClassVar = {
        **Llama.defaults,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    }

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """None, whatever the file says."""
        return False, False, False

    def window(self, keys: Keys) -> int | None:
        """Window of the layers that slide; where it is null, none does."""
        return None if keys["sliding_window"] is None else keys.count("sliding_window")
