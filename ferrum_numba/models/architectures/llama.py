"""Llama 2, 3 and 3.1 to 3.3: what every other architecture is described against.

x = E[ids]; in each layer x += o(attention(norm(x))), then x += down(silu(gate(n)) * up(n)) with
n = norm(x); then a last norm and the head. Source: transformers, models/llama.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...gptq.keys import Keys
from ..experts import ExpertsConfig


class Llama:
    """Reader of an architecture's config.json; a subclass states what differs."""

    name = "LlamaForCausalLM"
    model_type = "llama"
    qk_norm = False
    """True where q and k of each head pass an RMSNorm of their own before they turn."""
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "eos_token_id": 2,
    }
    """Values of transformers' class for keys that the file leaves out; a key that is null stays."""
    rope_names: ClassVar[Mapping[str, str]] = {}
    """Names of ropes that mean another one in this architecture's files."""

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """Three flags: q, k and v have biases; o has; gate, up and down have."""
        attention = keys.flag("attention_bias", False)
        return attention, attention, keys.flag("mlp_bias", False)

    def window(self, keys: Keys) -> int | None:
        """Positions that a sliding layer sees, itself included; None where no layer slides."""
        return None

    def slides(self, keys: Keys, layer: int) -> bool:
        """True if a layer slides, where there is a window and no `layer_types`."""
        return True

    def experts(self, keys: Keys) -> ExpertsConfig | None:
        """The experts of layers that have some; None where no layer has."""
        return None

    def is_sparse(self, keys: Keys, layer: int) -> bool:
        """True where a layer has experts in the place of an MLP, if the model has some."""
        return True
