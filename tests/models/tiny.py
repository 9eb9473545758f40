"""Tiny models of any architecture, with random weights, as GPTQ directories."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ferrum_numba.gptq.packing import pack_columns
from ferrum_numba.gptq.safetensors_file import write_file
from ferrum_numba.gptq.safetensors_header import NUMPY_DTYPES
from ferrum_numba.models import ModelConfig

_CODES = {dtype: code for code, dtype in NUMPY_DTYPES.items()}
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 256,
    "head_dim": 32,
}

_LONG = {
    "short_factor": [1.0 + j / 8 for j in range(12)],
    "long_factor": [2.0 + j for j in range(12)],
}

_MIXED = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

KINDS: dict[str, dict[str, Any]] = {
    "llama2": {},
    "llama2_biases": {"attention_bias": True, "mlp_bias": True},
    "llama31": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    # Longer than 24 is what its rope is made for.
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 24},
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral_window": {"architecture": "MistralForCausalLM", "sliding_window": 16},
    "qwen2": {"architecture": "Qwen2ForCausalLM"},
    "qwen2_window": {
        "architecture": "Qwen2ForCausalLM",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    "qwen3": {"architecture": "Qwen3ForCausalLM"},
    "phi3_fused": {"architecture": "Phi3ForCausalLM", "fused": True},
    "phi3_split_longrope": {
        "architecture": "Phi3ForCausalLM",
        "hidden_size": 128,  # transformers has no head_dim for it
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", **_LONG},
    },
    "mixtral": {"architecture": "MixtralForCausalLM", **_MIXED, "num_local_experts": 5},
    "mixtral_hub_names": {
        "architecture": "MixtralForCausalLM",
        **_MIXED,
        "expert_names": ("block_sparse_moe.", ("w1", "w3", "w2")),
        "num_local_experts": 4,
    },
    "mixtral_fused": {
        "architecture": "MixtralForCausalLM",
        **_MIXED,
        "expert_names": ("mlp.", ()),
        "num_local_experts": 4,
    },
    "mixtral_act_order": {
        "architecture": "MixtralForCausalLM",
        **_MIXED,
        "expert_names": ("mlp.", ()),
        "num_local_experts": 4,
        "act_order": True,
    },
    "qwen2_moe": {
        "architecture": "Qwen2MoeForCausalLM",
        **_MIXED,
        "num_experts": 6,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "architecture": "Qwen3MoeForCausalLM",
        **_MIXED,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "dtype": "bfloat16",
    },
    "tied": {"tie_word_embeddings": True},
    "quantised_head": {"quantised_head": True},
    "act_order": {"act_order": True},
    "one_layer_of_8_bits": {"wide": ("down_proj",)},
    "some_layers_dense": {"dense": ("o_proj", "k_proj")},
    "bfloat16": {"dtype": "bfloat16"},
    "other_prefix": {"prefix": "model.language_model."},
}
"""Arguments of `make_model` for a model of each kind that there is."""


def make_model(
    folder: Path,
    architecture: str = "LlamaForCausalLM",
    *,
    dtype: str = "float16",
    group_size: int = 32,
    act_order: bool = False,
    fused: bool = False,
    quantised_head: bool = False,
    wide: Collection[str] = (),
    dense: Collection[str] = (),
    prefix: str = "model.",
    expert_names: tuple[str, Sequence[str]] = ("mlp.", ("gate_proj", "up_proj", "down_proj")),
    seed: int = 0,
    **keys: Any,
) -> Path:
    """Write a model into `folder`, which is made, and return it; the same arguments, same bytes.

    dtype       of all that is not packed
    act_order   rows in groups in random order, other ones in each layer
    fused       q, k, v as one layer, and gate, up
    wide        layers of 8 bits, such as "down_proj"
    dense       layers that are not quantised
    keys        of config.json, over the tiny sizes; None writes null

    Zeros are any, stored as format v2. Logits have a standard deviation of about 3.
    """
    pattern = "|".join(wide)
    quantisation = {
        "bits": 4,
        "group_size": group_size,
        "desc_act": act_order,
        "sym": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2",
        "lm_head": quantised_head,
        **({"dynamic": {rf"+:.*\.({pattern})$": {"bits": 8}}} if wide else {}),
    }
    content = {
        "architectures": [architecture],
        **_SIZES,
        "torch_dtype": dtype,
        **keys,
        "quantization_config": quantisation,
    }
    config = ModelConfig.read(content)
    writer = _Writer(config, group_size, act_order, wide, dense, seed)
    writer.dense(f"{prefix}embed_tokens.weight", config.vocab, config.hidden, scale=1.0)
    q, kv, inner = config.q_width, config.kv_width, config.intermediate
    for number in range(config.layers):
        layer = f"{prefix}layers.{number}."
        writer.norm(f"{layer}input_layernorm.weight", config.hidden)
        writer.norm(f"{layer}post_attention_layernorm.weight", config.hidden)
        if config.qk_norm:
            writer.norm(f"{layer}self_attn.q_norm.weight", config.head_dim)
            writer.norm(f"{layer}self_attn.k_norm.weight", config.head_dim)
        qkv = {"qkv": q + 2 * kv} if fused else {"q": q, "k": kv, "v": kv}
        for name, N in qkv.items():
            name = f"{layer}self_attn.{name}_proj"
            writer.linear(name, config.hidden, N, config.qkv_bias)
        writer.linear(f"{layer}self_attn.o_proj", q, config.hidden, config.o_bias)
        if config.sparse[number]:
            writer.experts(layer, expert_names)
        else:
            writer.mlp(f"{layer}mlp.", inner, fused)
    writer.norm(f"{prefix}norm.weight", config.hidden)
    if quantised_head:
        writer.linear("lm_head", config.hidden, config.vocab, False)
    elif not config.tied:
        writer.dense("lm_head.weight", config.vocab, config.hidden, scale=3 / config.hidden**0.5)
    folder.mkdir(parents=True)
    header = {name: (_CODES[array.dtype], array.shape) for name, array in writer.tensors.items()}
    write_file(folder / "model.safetensors", header, writer.tensors.values())
    (folder / "config.json").write_text(json.dumps(content))
    return folder


class _Writer:
    """The tensors of a model, each with random numbers of its own."""

    def __init__(
        self,
        config: ModelConfig,
        group_size: int,
        act_order: bool,
        wide: Collection[str],
        dense: Collection[str],
        seed: int,
    ) -> None:
        self.config = config
        self.group_size, self.act_order, self.seed = group_size, act_order, seed
        self.wide, self.left_dense = tuple(wide), tuple(dense)
        code = "F16" if config.dtype == "float16" else "BF16"
        self.dtype = NUMPY_DTYPES[code]
        self.tensors: dict[str, npt.NDArray[Any]] = {}

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def norm(self, name: str, size: int) -> None:
        self.tensors[name] = self.random(name).uniform(0.5, 1.5, size).astype(self.dtype)

    def dense(self, name: str, rows: int, columns: int, scale: float) -> None:
        values = self.random(name).standard_normal((rows, columns)) * scale
        self.tensors[name] = values.astype(self.dtype)

    def mlp(self, prefix: str, inner: int, fused: bool = False) -> None:
        hidden, bias = self.config.hidden, self.config.mlp_bias
        for name, N in ({"gate_up": 2 * inner} if fused else {"gate": inner, "up": inner}).items():
            self.linear(f"{prefix}{name}_proj", hidden, N, bias)
        self.linear(f"{prefix}down_proj", inner, hidden, bias)

    def experts(self, layer: str, names: tuple[str, Sequence[str]]) -> None:
        spec, hidden = self.config.experts, self.config.hidden
        whole, parts = names
        # Choices that are far from a tie, whatever the rounding.
        self.dense(f"{layer}{whole}gate.weight", spec.count, hidden, scale=8 / hidden**0.5)
        if not parts:
            self.fused_experts(f"{layer}{whole}experts.")
        for number in range(spec.count if parts else 0):
            gate, up, down = parts
            expert = f"{layer}{whole}experts.{number}."
            for name in (gate, up):
                self.linear(expert + name, hidden, spec.width, False)
            self.linear(expert + down, spec.width, hidden, False)
        if spec.shared:
            self.mlp(f"{layer}mlp.shared_expert.", spec.shared)
            self.dense(f"{layer}mlp.shared_expert_gate.weight", 1, hidden, scale=hidden**-0.5)

    def fused_experts(self, prefix: str) -> None:
        spec, hidden = self.config.experts, self.config.hidden
        shapes = (("gate_up_proj", hidden, 2 * spec.width), ("down_proj", spec.width, hidden))
        for name, K, N in shapes:
            for number in range(spec.count):
                self.linear(f"{number}.{name}", K, N, False)
            for part in ("qweight", "qzeros", "scales", *(["g_idx"] if self.act_order else [])):
                own = [self.tensors.pop(f"{n}.{name}.{part}") for n in range(spec.count)]
                self.tensors[f"{prefix}{name}.{part}"] = np.stack(own)
            for number in range(spec.count):
                self.tensors.pop(f"{number}.{name}.g_idx", None)

    def linear(self, name: str, K: int, N: int, bias: bool) -> None:
        """A layer whose outputs have a variance of about 1, where its inputs have."""
        random = self.random(name)
        if bias:
            self.tensors[f"{name}.bias"] = random.standard_normal(N).astype(self.dtype)
        if name.endswith(self.left_dense or ("\0",)):
            self.dense(f"{name}.weight", N, K, scale=K**-0.5)
            return
        bits = 8 if name.endswith(self.wide or ("\0",)) else 4
        groups = -(-K // self.group_size)
        # Levels are uniform; zeros keep to the middle half of their range.
        zeros = random.integers(1 << bits - 2, 3 << bits - 2, (groups, N), dtype=np.uint8)
        spread = (1 << bits) * np.sqrt((1 + 1 / 4) / 12)
        scales = random.uniform(0.5, 1.5, (groups, N)) / (spread * np.sqrt(K))
        words = random.integers(0, 1 << 32, (K * bits // 32, N), dtype=np.uint32)
        g_idx = np.arange(K, dtype=np.int32) // np.int32(self.group_size)
        self.tensors |= {
            f"{name}.qweight": words.view(np.int32),
            f"{name}.qzeros": pack_columns(zeros, bits),
            f"{name}.scales": scales.astype(self.dtype),
            f"{name}.g_idx": random.permutation(g_idx) if self.act_order else g_idx,
        }
