"""Recipe of a synthetic checkpoint: the model's shapes, the dialect, and the files' texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import CheckpointError
from .packing import WIDTHS, period
from .tensors import effective_group_size

Producer = Literal["gptqmodel", "autogptq", "auto-round"]
PRODUCERS: tuple[Producer, ...] = get_args(Producer)

_WIDE_BITS = 8  # of the head, and of the layers that a rule widens


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama model, by the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float

    def linears(self) -> dict[str, tuple[int, int]]:
        """(K, N) of a decoder layer's linear layers, by name."""
        hidden, inner = self.hidden_size, self.intermediate_size
        heads = self.num_attention_heads * self.head_dim
        kv_heads = self.num_key_value_heads * self.head_dim
        return {
            "self_attn.q_proj": (hidden, heads),
            "self_attn.k_proj": (hidden, kv_heads),
            "self_attn.v_proj": (hidden, kv_heads),
            "self_attn.o_proj": (heads, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }


MODELS: Mapping[str, ModelShape] = {
    "tiny": ModelShape(256, 512, 2, 4, 2, 64, 512, 10000.0),
    "llama-3.1-8b": ModelShape(4096, 14336, 32, 32, 8, 128, 128256, 500000.0),
}
"""Models whose shapes can be taken, by name; llama-3.1-8b's are those of its config.json."""


@dataclass(frozen=True)
class Linear:
    """A quantised layer to be made: K rows, N columns, `bits` wide."""

    name: str
    K: int
    N: int
    bits: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a synthetic checkpoint.

    like         a name of MODELS
    layers       decoder layers; None is as many as the model has
    bits         2, 3, 4 or 8
    group_size   rows in a group, -1 for one group
    format       "v1" or "v2": how zeros are stored
    producer     whose configuration and zeros are written; GPTQModel alone writes v2
    symmetric    zeros in the middle; else any, 0 included, as the producer writes them
    act_order    rows in groups in random order
    bias         a random bias in every layer; without, AutoGPTQ still writes zeros
    dtype        of scales, bias and dense tensors: "float16" or "bfloat16"
    mixed        8 bits for mlp.down_proj, by a rule
    lm_head      the head too, in 8 bits
    layers_only  no embeddings, norms and dense head: not a whole model
    shards       files
    seed         of all values
    """

    like: str = "tiny"
    layers: int | None = None
    bits: int = 4
    group_size: int = 128
    format: Literal["v1", "v2"] = "v1"
    producer: Producer = "gptqmodel"
    symmetric: bool = True
    act_order: bool = False
    bias: bool = False
    dtype: Literal["float16", "bfloat16"] = "float16"
    mixed: bool = False
    lm_head: bool = False
    layers_only: bool = False
    shards: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check("like", self.like, tuple(MODELS))
        _check("bits", self.bits, WIDTHS)
        _check("format", self.format, ("v1", "v2"))
        _check("producer", self.producer, PRODUCERS)
        _check("dtype", self.dtype, ("float16", "bfloat16"))
        for field, number in (("shards", self.shards), ("layers", self.layers)):
            if number is not None and number < 1:
                raise CheckpointError(field, "at least 1", number)
        if self.producer != "gptqmodel":
            own = {"format v2": self.format == "v2", "mixed": self.mixed, "lm_head": self.lm_head}
            if self.producer == "auto-round":
                own["act_order"] = self.act_order
            for option, asked in own.items():
                if asked:
                    raise CheckpointError(
                        "producer",
                        f"gptqmodel for {option}",
                        f"{self.producer}, which does not write it",
                    )
        for linear in self.linears():
            effective_group_size(self.group_size, linear.K)
            if linear.K % period(linear.bits)[0] or linear.N % period(linear.bits)[0]:
                raise CheckpointError(
                    "bits",
                    f"whole words of {linear.bits}-bit levels",
                    f"{linear.name} of K={linear.K} and N={linear.N}",
                )

    @property
    def shape(self) -> ModelShape:
        """The model's sizes."""
        return MODELS[self.like]

    @property
    def decoder_layers(self) -> int:
        """Count of decoder layers."""
        return self.layers or self.shape.num_hidden_layers

    def linears(self) -> Iterator[Linear]:
        """Every quantised layer, in the model's order."""
        for number in range(self.decoder_layers):
            for name, (K, N) in self.shape.linears().items():
                widened = self.mixed and name == "mlp.down_proj"
                bits = _WIDE_BITS if widened else self.bits
                yield Linear(f"model.layers.{number}.{name}", K, N, bits)
        if self.lm_head:
            yield Linear("lm_head", self.shape.hidden_size, self.shape.vocab_size, _WIDE_BITS)

    def configuration(self) -> tuple[str, dict[str, Any]]:
        """(file name, content) of the producer's own configuration file."""
        common = {
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.act_order,
            "sym": self.symmetric,
        }
        if self.producer == "auto-round":
            own: dict[str, Any] = {
                "data_type": "int",
                "autoround_version": "0.16.1",
                "provider": "auto-round",
            }
            return "quantization_config.json", {**common, **own, "quant_method": "gptq"}
        if self.producer == "autogptq":
            own = {"static_groups": False, "true_sequential": True, "is_marlin_format": False}
            return "quantize_config.json", {**common, **own, "quant_method": "gptq"}
        name = "gptq" if self.format == "v1" else "gptq_v2"
        wide = {"bits": _WIDE_BITS}
        dynamic = {r"+:.*\.mlp\.down_proj": wide} if self.mixed else {}
        if self.lm_head:
            dynamic["+:^lm_head$"] = wide
        return "quantize_config.json", {
            **common,
            **({"dynamic": dynamic} if dynamic else {}),
            "lm_head": self.lm_head,
            "quant_method": "gptq",
            "checkpoint_format": name,
            "pack_dtype": "int32",
            "meta": {"quantizer": ["gptqmodel:7.6.0"]},
        }

    def metadata(self) -> dict[str, str]:
        """Metadata that the producer writes into its safetensors files."""
        if self.producer == "autogptq":
            return {"format": "pt", "auto_gptq_version": "0.7.1"}
        return {"format": "pt"}

    def file_stem(self) -> str:
        """Name that the producer gives its safetensors files."""
        if self.producer == "autogptq":
            return f"gptq_model-{self.bits}bit-{self.group_size}g"
        return "model"

    def model_configuration(self) -> dict[str, Any]:
        """The content of config.json."""
        sizes = {
            name: value
            for name, value in vars(self.shape).items()
            if name not in ("num_hidden_layers", "rope_theta")
        }
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **sizes,
            "num_hidden_layers": self.decoder_layers,
            "attention_bias": self.bias,
            "mlp_bias": self.bias,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.shape.rope_theta,
            "tie_word_embeddings": False,
            "torch_dtype": self.dtype,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "quantization_config": self.configuration()[1],
        }


def _check(field: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise CheckpointError(field, f"one of {', '.join(map(str, known))}", f"{value!r}")
