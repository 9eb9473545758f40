"""Qwen2-MoE and Qwen3-MoE: experts in the place of MLPs, with an MLP for all tokens in Qwen2's."""

from __future__ import annotations

from typing import ClassVar

from ...gptq.keys import Keys
from ..experts import ExpertsConfig
from .qwen2 import Qwen2
from .qwen3 import Qwen3


class Qwen3Moe(Qwen3):
    """Source: transformers, models/qwen3_moe."""

    name = "Qwen3MoeForCausalLM"
    model_type = "qwen3_moe"
    shared = False
    defaults: ClassVar = {
        **Qwen3.defaults,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    }

    def experts(self, keys: Keys) -> ExpertsConfig | None:
        """transformers 5 writes `num_local_experts` for `num_experts`."""
        new = keys["num_local_experts"] is not None
        return ExpertsConfig(
            count=keys.count("num_local_experts" if new else "num_experts"),
            top_k=keys.count("num_experts_per_tok"),
            width=keys.count("moe_intermediate_size"),
            renormalise=keys.flag("norm_topk_prob"),
            shared=keys.count("shared_expert_intermediate_size") if self.shared else 0,
            shared_gate=self.shared,
        )

    def is_sparse(self, keys: Keys, layer: int) -> bool:
        """`mlp_only_layers` and all but every `decoder_sparse_step`-th layer have a dense MLP."""
        dense = keys["mlp_only_layers"] or ()
        return layer not in dense and (layer + 1) % keys.count("decoder_sparse_step") == 0


class Qwen2Moe(Qwen3Moe):
    """Qwen2's attention.  Source: transformers, models/qwen2_moe."""

    name = "Qwen2MoeForCausalLM"
    model_type = "qwen2_moe"
    qk_norm = False
    shared = True
    defaults: ClassVar = {
        **Qwen3Moe.defaults,
        **Qwen2.defaults,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "head_dim": None,
    }
    biases = Qwen2.biases
