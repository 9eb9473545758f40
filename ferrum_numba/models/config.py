"""Configuration of a model, out of its config.json, checked before a weight is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gptq.keys import Keys
from .architectures import Llama, find_architecture
from .experts import ExpertsConfig
from .rope import RopeSpec

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"

_MOST_LAYERS = 10_000
_ACTIVATIONS = ("silu", "swish")  # two names of x * sigmoid(x)
# Keys of other architectures' arithmetic
_OTHERS = ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar")
_FACTORS = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of Llama's kind.

    architecture   such as "LlamaForCausalLM"
    hidden         width of the residual stream
    layers         decoder layers
    heads, kv_heads  query heads, and key and value heads, which query heads share in order
    head_dim       width of a head; heads * head_dim may differ from hidden
    intermediate   width of the MLP
    vocab          rows of the embedding and of the head
    eps            of every RMSNorm
    tied           whether the embedding is the head, too
    dtype          of activations and cache
    max_positions  that the model is made for
    eos            ids that end a text, the model's own or those of generation_config.json
    windows        for each layer the positions that it sees, itself included; None: all before
    qkv_bias, o_bias, mlp_bias  whether q, k, v; o; gate, up, down have biases
    qk_norm        whether q and k of each head pass an RMSNorm over head_dim before they turn
    rope           how positions turn q and k
    experts        of layers that have experts in the place of an MLP; None where none has
    sparse         for each layer, whether it has experts
    """

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    tied: bool
    dtype: str
    max_positions: int
    eos: tuple[int, ...]
    windows: tuple[int | None, ...]
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope: RopeSpec
    experts: ExpertsConfig | None
    sparse: tuple[bool, ...]

    @classmethod
    def load(cls, folder: str | os.PathLike[str], dtype: str | None = None) -> ModelConfig:
        """`read` of what lies in `folder`; generation_config.json may be missing."""
        generation = Keys.load(Path(folder) / GENERATION_FILE, optional=True)
        return cls.read(Keys.load(Path(folder) / CONFIG_FILE).values, generation.values, dtype)

    @classmethod
    def read(
        cls,
        config: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
        dtype: str | None = None,
    ) -> ModelConfig:
        """The model that `config`, the content of a config.json, describes.

        generation  the content of generation_config.json, whose `eos_token_id` goes first
        dtype       in place of the file's

        Reads what transformers 5 and what older versions write. Raises CheckpointError for an
        architecture, an activation, a rope or anything else that is not computed here.
        """
        architecture = find_architecture(Keys(config))
        keys = Keys({**architecture.defaults, **config})
        experts = architecture.experts(keys)
        _refuse_other_arithmetic(keys, experts)
        hidden, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
        kv_heads = keys.count("num_key_value_heads", heads)
        if heads % kv_heads:
            raise keys.error("num_key_value_heads", f"a divisor of {heads} heads")
        if keys["head_dim"] is None and hidden % heads:
            expected = f"a number, as {heads} heads do not divide hidden_size, {hidden}"
            raise keys.error("head_dim", expected)
        head_dim = keys.count("head_dim", hidden // heads)
        layers = keys.count("num_hidden_layers")
        if layers > _MOST_LAYERS:  # before lists of as many are made
            raise keys.error("num_hidden_layers", f"at most {_MOST_LAYERS}")
        qkv_bias, o_bias, mlp_bias = architecture.biases(keys)
        return cls(
            architecture=architecture.name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=keys.count("intermediate_size"),
            vocab=keys.count("vocab_size"),
            eps=keys.number("rms_norm_eps"),
            tied=keys.flag("tie_word_embeddings", False),
            dtype=_dtype(keys, dtype),
            max_positions=keys.count("max_position_embeddings"),
            eos=eos_ids(keys, Keys(generation or {}, GENERATION_FILE)),
            windows=_windows(keys, architecture, layers),
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            mlp_bias=mlp_bias,
            qk_norm=architecture.qk_norm,
            rope=RopeSpec.read(keys, head_dim, architecture.rope_names),
            experts=experts,
            sparse=tuple(
                experts is not None and architecture.is_sparse(keys, i) for i in range(layers)
            ),
        )

    @property
    def q_width(self) -> int:
        """Columns of q: heads * head_dim."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of k, and of v: kv_heads * head_dim."""
        return self.kv_heads * self.head_dim


def eos_ids(config: Keys, generation: Keys) -> tuple[int, ...]:
    """Ids that end a text: generation_config.json's, where it has some, or else config.json's."""
    return generation.token_ids("eos_token_id") or config.token_ids("eos_token_id")


def _refuse_other_arithmetic(keys: Keys, experts: ExpertsConfig | None) -> None:
    if keys["hidden_act"] not in (None, *_ACTIVATIONS):
        expected = f"one of {', '.join(_ACTIVATIONS)}"
        raise keys.error("hidden_act", expected, "other activations are not computed here")
    wrong = [key for key in _OTHERS if keys[key] is not None]
    wrong += [key for key in _FACTORS if keys[key] not in (None, 1)]
    wrong += [key for key in _EXPERTS if keys[key] not in (None, 0, 1) and experts is None]
    if wrong:
        raise keys.error(wrong[0], "none", "models that have it are not computed here")


def _dtype(keys: Keys, stated: str | None) -> str:
    key = "dtype" if stated or keys["dtype"] is not None else "torch_dtype"
    keys = Keys({key: stated}, "the arguments") if stated else keys
    found = keys[key] or "float16"
    if found not in ("float16", "bfloat16"):
        raise keys.error(key, "float16 or bfloat16", 'say dtype="float16" or "bfloat16"')
    return str(found)


def _windows(keys: Keys, architecture: Llama, layers: int) -> tuple[int | None, ...]:
    """The window of each layer; `layer_types` wins where it is there."""
    window, types = architecture.window(keys), keys["layer_types"]
    if types is None:
        slides = [window is not None and architecture.slides(keys, i) for i in range(layers)]
        return tuple(window if sliding else None for sliding in slides)
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or not all(t in kinds for t in types):
        expected = f"one of {', '.join(kinds)} for each of {layers} layers"
        raise keys.error("layer_types", expected, "other kinds of layers are not computed here")
    if window is None and "sliding_attention" in types:
        raise keys.error("sliding_window", "a number, as layers of layer_types slide")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
