"""Configurations: each architecture's defaults, both dialects, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrum_numba.errors import CheckpointError
from ferrum_numba.models import ModelConfig
from ferrum_numba.models.experts import ExpertsConfig
from ferrum_numba.models.rope import KINDS
from tests.conftest import FIXTURES

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 160,
}


def read(architecture: str = "LlamaForCausalLM", **keys: Any) -> ModelConfig:
    return ModelConfig.read({"architectures": [architecture], **SIZES, **keys})


def test_defaults_of_the_class() -> None:
    """As transformers' configuration classes have them."""
    llama = read()
    assert (llama.kv_heads, llama.head_dim, llama.eps) == (8, 8, 1e-6)
    assert (llama.max_positions, llama.rope.theta, llama.tied) == (2048, 10000.0, False)
    assert (llama.dtype, llama.eos, llama.windows) == ("float16", (2,), (None,) * 4)
    assert (llama.q_width, llama.kv_width) == (64, 64)
    mistral = read("MistralForCausalLM")
    assert mistral.windows == (4096,) * 4
    assert mistral.max_positions == 131072
    qwen2 = read("Qwen2ForCausalLM", num_key_value_heads=2)
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.mlp_bias) == (True, False, False)
    assert (qwen2.windows, qwen2.eos, qwen2.qk_norm) == ((None,) * 4, (), False)
    qwen3 = read("Qwen3ForCausalLM", num_key_value_heads=2)
    assert (qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias) == (128, True, False)
    phi3 = read("Phi3ForCausalLM")
    assert (phi3.eps, phi3.eos, phi3.windows, phi3.rope.limit) == (
        1e-5,
        (32000,),
        (None,) * 4,
        4096,
    )


def test_experts() -> None:
    """Counts under both names, dense layers between sparse ones, and Qwen2's MLP for all."""
    assert read().experts is None
    assert read().sparse == (False,) * 4
    mixtral = read("MixtralForCausalLM")
    assert mixtral.experts == ExpertsConfig(8, 2, 96, renormalise=True)
    assert (mixtral.windows, mixtral.eps, mixtral.sparse) == ((None,) * 4, 1e-5, (True,) * 4)
    keys = {"num_key_value_heads": 2, "moe_intermediate_size": 32, "num_local_experts": 16}
    qwen3 = read("Qwen3MoeForCausalLM", **keys, decoder_sparse_step=2, mlp_only_layers=[3])
    assert qwen3.experts == ExpertsConfig(16, 8, 32, renormalise=False)
    assert (qwen3.sparse, qwen3.qk_norm) == ((False, True, False, False), True)
    qwen2 = read("Qwen2MoeForCausalLM", num_key_value_heads=2, norm_topk_prob=True)
    assert qwen2.experts == ExpertsConfig(60, 4, 1408, True, 5632, shared_gate=True)
    assert (qwen2.qkv_bias, qwen2.qk_norm, qwen2.head_dim) == (True, False, 8)


def test_null_is_not_the_default() -> None:
    """Null means no window, as many kv heads as heads, and hidden / heads."""
    assert read("MistralForCausalLM", sliding_window=None).windows == (None,) * 4
    assert read("MistralForCausalLM", num_key_value_heads=None).kv_heads == 8
    assert read("Qwen3ForCausalLM", num_key_value_heads=2, head_dim=None).head_dim == 8


def test_windows() -> None:
    """`layer_types` wins over max_window_layers."""
    keys: dict[str, Any] = {"num_key_value_heads": 2, "sliding_window": 8}
    on = {**keys, "use_sliding_window": True, "max_window_layers": 3}
    assert read("Qwen2ForCausalLM", **keys).windows == (None,) * 4
    assert read("Qwen2ForCausalLM", **on).windows == (None, None, None, 8)
    types = ["sliding_attention", "full_attention"] * 2
    assert read("Qwen2ForCausalLM", **on, layer_types=types).windows == (8, None) * 2


def test_biases() -> None:
    llama = read(attention_bias=True, mlp_bias=True)
    assert (llama.qkv_bias, llama.o_bias, llama.mlp_bias) == (True, True, True)
    qwen3 = read("Qwen3ForCausalLM", num_key_value_heads=2, attention_bias=True)
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.mlp_bias) == (True, True, False)


def test_dialects() -> None:
    old = read(torch_dtype="bfloat16", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2})
    new = read(
        dtype="bfloat16",
        rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
    )
    assert old == new
    assert old.dtype == "bfloat16"
    assert read("Phi3ForCausalLM", rope_scaling=None).rope.kind == "default"
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    for kind in ("su", "yarn", "longrope"):
        spec = read("Phi3ForCausalLM", rope_scaling={"type": kind, **factors}).rope
        assert (spec.kind, spec.limit) == ("longrope", 4096)


def test_eos_of_generation_config_goes_first(tmp_path: Path) -> None:
    content = {"architectures": ["LlamaForCausalLM"], **SIZES, "eos_token_id": [5, 6]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert ModelConfig.load(tmp_path).eos == (5, 6)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert ModelConfig.load(tmp_path).eos == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(CheckpointError, match="eos_token_id in generation_config.json: expected a"):
        ModelConfig.load(tmp_path)


def test_the_architecture_of_old_files_by_its_type() -> None:
    assert ModelConfig.read({"model_type": "mistral", **SIZES}).architecture == "MistralForCausalLM"
    with pytest.raises(CheckpointError, match="model_type in config.json: .*found 'gpt2'"):
        ModelConfig.read({"model_type": "gpt2", **SIZES})


def test_dtype_in_place_of_the_files() -> None:
    config = {"architectures": ["LlamaForCausalLM"], **SIZES, "torch_dtype": "float32"}
    assert ModelConfig.read(config, dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(CheckpointError, match="dtype in the arguments: .*found 'float64'"):
        ModelConfig.read(config, dtype="float64")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            r"architectures in config.json: expected one of ",
        ),
        ({"architectures": ["LlamaModel", "LlamaForCausalLM"]}, r"found \['LlamaModel', "),
        ({"hidden_act": "gelu"}, "hidden_act in config.json: expected one of silu, .*found 'gelu'"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping in config.json: expected none"),
        ({"num_local_experts": 8}, "num_local_experts in config.json: expected none, found 8"),
        ({"rope_scaling": {"type": "other"}}, "type in rope_scaling of config.json: .*'other'"),
        ({"torch_dtype": "float32"}, "torch_dtype in config.json: expected float16 or bfloat16, "),
        ({"hidden_size": None}, "hidden_size in config.json: .* at least 1, found None"),
        ({"vocab_size": True}, "vocab_size in config.json: .* found True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads in config.json: expected a divisor of 8"),
        ({"num_attention_heads": 7}, "head_dim in config.json: expected a number, as 7 heads do"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps in config.json: expected a finite number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings in config.json: expected true or false"),
        ({"layer_types": ["full_attention"]}, "layer_types in config.json: .* each of 4 layers"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_window in config.json: expected a"),
        ({"layer_types": ["linear_attention"] * 4}, "layer_types in config.json: expected one of"),
    ],
)
def test_what_is_not_computed_here_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(**keys)


scalars = st.none() | st.booleans() | st.integers() | st.floats(width=16) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=4), part)
)
FULL: dict[str, Any] = {
    **SIZES,
    "model_type": "qwen2",
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "layer_types": ["full_attention"] * 4,
    "use_sliding_window": True,
    "sliding_window": 8,
    "eos_token_id": 2,
    "dtype": "float16",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "truncate": True,
    "attention_factor": None,
}


@given(st.sampled_from([*FULL, "architectures", "rope_parameters", "rope_scaling"]), values)
def test_any_value_is_read_or_refused(key: str, value: Any) -> None:
    _read_or_refused({**FULL, "rope_scaling": ROPE, key: value})


@given(st.sampled_from([*ROPE, "type", "short_factor"]), values, st.sampled_from(KINDS))
def test_any_value_of_a_rope_is_read_or_refused(key: str, value: Any, kind: str) -> None:
    _read_or_refused({**FULL, "rope_scaling": {**ROPE, "rope_type": kind, key: value}})


def _read_or_refused(config: dict[str, Any]) -> None:
    """Anything else that is raised fails the test."""
    try:
        spec = ModelConfig.read(config).rope
    except CheckpointError:
        return
    assert spec.frequencies(300)[0].shape == (spec.size // 2,)


def test_more_layers_than_any_model_has() -> None:
    with pytest.raises(CheckpointError, match="num_hidden_layers in config.json: .* at most 10000"):
        ModelConfig.read(
            {"architectures": ["LlamaForCausalLM"], **SIZES, "num_hidden_layers": 10**9}
        )


def test_a_size_that_is_missing() -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "num_hidden_layers"}
    with pytest.raises(CheckpointError, match="num_hidden_layers in config.json: .* found nothing"):
        ModelConfig.read({"architectures": ["LlamaForCausalLM"], **sizes})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="config.json: expected a regular file, found nothing"
    ):
        ModelConfig.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, found list"):
        ModelConfig.load(tmp_path)


def test_real_files() -> None:
    models = FIXTURES / "models"
    llama, qwen3, phi3 = (
        ModelConfig.load(models / name) for name in ("llama31_rope", "qwen3_dense", "phi3_fused")
    )
    assert (llama.rope.kind, llama.rope.limit, llama.rope.factor) == ("llama3", 64, 8.0)
    assert (qwen3.head_dim, qwen3.q_width, qwen3.rope.theta) == (64, 384, 1e6)
    assert (phi3.eps, phi3.rope.kind, phi3.eos) == (1e-5, "default", (2,))
