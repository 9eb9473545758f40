"""Mixtral: Mistral with experts in every layer; the weights of the chosen ones sum to 1."""

from __future__ import annotations

from typing import ClassVar

from ...gptq.keys import Keys
from ..experts import ExpertsConfig
from .mistral import Mistral


class Mixtral(Mistral):
    """Source: transformers, models/mixtral."""

    name = "MixtralForCausalLM"
    model_type = "mixtral"
    defaults: ClassVar = {
        **Mistral.defaults,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }

    def experts(self, keys: Keys) -> ExpertsConfig | None:
        """Experts, each as wide as a dense MLP would be."""
        count, width = keys.count("num_local_experts"), keys.count("intermediate_size")
        return ExpertsConfig(count, keys.count("num_experts_per_tok"), width, renormalise=True)
