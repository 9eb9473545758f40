"""Names of weights: those that are missing, misshapen or superfluous are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint
from ferrum_numba.models import ModelConfig, ModelNames
from tests.conftest import FIXTURES
from tests.gptq.fixtures import edit_tensors
from tests.models.tiny import make_model


def find(folder: Path) -> ModelNames:
    return ModelNames.find(ModelConfig.load(folder), Checkpoint.open(folder))


def test_split_and_fused() -> None:
    llama, phi3 = (find(FIXTURES / "models" / name) for name in ("llama31_rope", "phi3_fused"))
    q, k, v = llama.layers[1].qkv
    assert (q.name, q.K, q.N, q.quantised) == ("model.layers.1.self_attn.q_proj", 256, 256, True)
    assert (k.N, v.N) == (64, 64)
    assert llama.head is not None
    assert (llama.head.name, llama.head.N, llama.head.quantised) == ("lm_head", 320, False)
    ((qkv,), (gate_up,)) = phi3.layers[0].qkv, phi3.layers[0].mlp.gate_up
    assert (qkv.N, gate_up.N) == (512, 768)
    assert gate_up.name == "model.layers.0.mlp.gate_up_proj"


def test_what_is_tied_has_no_head(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", tie_word_embeddings=True)
    assert find(folder).head is None
    copy = {"lm_head.weight": np.zeros((160, 64), np.float16)}
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update(copy))
    assert find(folder).head is None  # some files carry the embedding twice


def test_a_zero_bias_that_the_model_does_not_have(tmp_path: Path) -> None:
    """AutoGPTQ writes them for every layer that it quantises."""
    folder = make_model(tmp_path / "model")
    name = "model.layers.0.self_attn.o_proj"
    zeros = {f"{name}.bias": np.zeros(64, np.float16)}
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update(zeros))
    layer = find(folder).layers[0].o
    assert (layer.name, layer.bias) == (name, True)


def add(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: np.zeros(4, np.float16)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.norm.weight"),
            r"model.norm.weight: expected .* \[64\], .* nothing",
        ),
        (lambda t: t.pop("lm_head.weight"), r"lm_head.weight: expected .* \[160, 64\], .* nothing"),
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.qzeros"),
            r"model.layers.1.mlp.up_proj.qzeros: expected in model.safetensors",
        ),
        (
            lambda t: t.update({"model.embed_tokens.weight": np.zeros((159, 64), np.float16)}),
            r"model.embed_tokens.weight: expected .* \[160, 64\], .* found float16 \[159, 64\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(64, np.int32)}),
            r"model.norm.weight: expected float16, bfloat16, float32 \[64\], .* found int32 \[64\]",
        ),
        (
            add("model.layers.0.self_attn.sinks"),
            r"model.layers.0.self_attn.sinks: expected no such tensor in a LlamaForCausalLM of 2",
        ),
        (
            add("model.layers.2.input_layernorm.weight"),
            r"layers.2.input_layernorm.weight: expected",
        ),
        (add("lm_head.bias"), r"lm_head.bias: expected no such tensor"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable, message: str) -> None:
    folder = make_model(tmp_path / "model")
    edit_tensors(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        find(folder)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "adapter.lora_A.weight"]
)
def test_what_is_no_part_of_the_model_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "model")
    edit_tensors(folder / "model.safetensors", add(name))
    assert len(find(folder).layers) == 2


def test_another_models_config(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_model(tmp_path / "model"))
    other = ModelConfig.load(make_model(tmp_path / "other", num_key_value_heads=4))
    expected = r"k_proj: expected a layer of K=64, N=128, .* found K=64, N=64"
    with pytest.raises(CheckpointError, match=expected):
        ModelNames.find(other, checkpoint)
    biased = ModelConfig.load(make_model(tmp_path / "biased", attention_bias=True))
    with pytest.raises(CheckpointError, match=r"q_proj.bias: expected a bias \[128\], "):
        ModelNames.find(biased, checkpoint)


@pytest.mark.parametrize("name", ["llama31_rope", "phi3_fused"])
def test_bytes_on_a_device(name: str) -> None:
    """Told ahead, what a file has in float32 included; norms, which stay so, are small."""
    folder = FIXTURES / "models" / name
    model = fe.Model.load(folder, device=fe.open_device("cpu"))
    assert find(folder).nbytes(Checkpoint.open(folder)) == pytest.approx(model.nbytes, rel=0.01)
