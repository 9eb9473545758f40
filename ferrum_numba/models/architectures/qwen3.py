"""Qwen3: Qwen2 with norms of q and k in the place of biases."""

from __future__ import annotations

from typing import ClassVar

from ...gptq.keys import Keys
from .llama import Llama
from .qwen2 import Qwen2


class Qwen3(Qwen2):
    """Source: transformers, models/qwen3."""

    name = "Qwen3ForCausalLM"
    model_type = "qwen3"
    qk_norm = True
    defaults: ClassVar = {**Qwen2.defaults, "head_dim": 128}

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """Biases as the file says; none in the MLP."""
        return (*Llama.biases(self, keys)[:2], False)
