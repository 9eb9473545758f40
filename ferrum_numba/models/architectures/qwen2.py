"""Qwen2 and 2.5: Llama with biases on q, k and v, and a window that has to be switched on."""

from __future__ import annotations

from typing import ClassVar

from ...gptq.keys import Keys
from .llama import Llama


class Qwen2(Llama):
    """Source: transformers, models/qwen2."""

    name = "Qwen2ForCausalLM"
    model_type = "qwen2"
    defaults: ClassVar = {
        **Llama.defaults,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "eos_token_id": None,
    }

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """Always the same three."""
        return True, False, False

    def window(self, keys: Keys) -> int | None:
        """Stands in every file, and counts only with `use_sliding_window`."""
        on = keys.flag("use_sliding_window", False) and keys["sliding_window"] is not None
        return keys.count("sliding_window") if on else None

    def slides(self, keys: Keys, layer: int) -> bool:
        """The first layers see everything."""
        return layer >= keys.count("max_window_layers", least=0)
