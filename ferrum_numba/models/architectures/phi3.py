"""Phi-3 and Phi-4-mini: Mistral's window, other defaults, and ropes by older names.

Files have q, k, v as one layer and gate, up as one, or split; both are found by their names.
"""

from __future__ import annotations

from typing import ClassVar

from .mistral import Mistral


class Phi3(Mistral):
    """Source: transformers, models/phi3."""

    name = "Phi3ForCausalLM"
    model_type = "phi3"
    defaults: ClassVar = {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "eos_token_id": 32000,
    }
    rope_names: ClassVar = {"su": "longrope", "yarn": "longrope"}  # as its first files had them
