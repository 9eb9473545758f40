"""Round-to-nearest: the error of each weight, and models quantised from dense files."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ferrum_numba.gptq import Checkpoint, quantize, quantize_checkpoint
from tests.gptq.fixtures import refused

CHOICES = {
    "group_size": st.sampled_from([-1, 12, 16, 32, 128]),
    "symmetric": st.booleans(),
    "zero_format": st.sampled_from(["v1", "v2"]),
    "dtype": st.sampled_from([np.float16, ml_dtypes.bfloat16]),
}


def check_bound(weight, tensors):
    """Each weight within half a scale of the dense one, and what float32 rounds."""
    scales = tensors.scales.astype(np.float64)
    step = scales[np.arange(tensors.K) // tensors.group_size]
    error = np.abs(tensors.dequantize(np.float32).astype(np.float64) - weight)
    assert (error <= step * (0.5 + 1e-5)).all()


@given(
    K=st.integers(1, 12).map(lambda n: n * 8),
    N=st.integers(1, 4).map(lambda n: n * 8),
    offset=st.sampled_from([0.0, 0.5, -0.5, 10.0]),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 100.0]),
    seed=st.integers(0, 999),
    **CHOICES,
)
def test_the_error_is_at_most_half_a_scale(K, N, offset, size, seed, **choices):
    rng = np.random.default_rng(seed)
    weight = ((rng.standard_normal((K, N)) + offset) * size).astype(np.float32)
    tensors = quantize(weight, **choices)
    assert (tensors.K, tensors.N) == (K, N)
    check_bound(weight, tensors)
    if choices["symmetric"]:
        assert (tensors.zeros() == 8).all()
    elif choices["zero_format"] == "v1":
        assert tensors.zeros().min() >= 1
        assert tensors.zeros().max() <= 15


@given(**CHOICES)
def test_weights_on_the_grid_are_exact(**choices):
    levels = np.random.default_rng(0).integers(-7, 8, (32, 8))
    levels[::4], levels[1::4] = -8, 7  # every group spans all levels
    tensors = quantize(levels.astype(np.float32), **choices)
    if not choices["symmetric"]:
        np.testing.assert_array_equal(tensors.dequantize(), levels)
    check_bound(levels, tensors)


@given(**CHOICES)
def test_a_group_of_zeros(**choices):
    tensors = quantize(np.zeros((16, 8), np.float16), **choices)
    assert not tensors.dequantize().any()


def test_a_bias_is_kept():
    bias = np.arange(8, dtype=np.float32)
    assert quantize(np.ones((8, 8), np.float32), bias=bias).bias is bias


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.ones((12, 8), "f4"), {}, r"^weight: expected shape \[K, N\], .*of 8, found \[12, 8\]"),
        (np.ones(8, "f4"), {}, r"^weight: expected shape \[K, N\], .*found \[8\]"),
        (np.full((8, 8), np.nan, "f4"), {}, r"^weight: expected finite numbers, found 64"),
        (np.full((8, 8), 1e9, "f4"), {}, r"^weight: expected scales within float16 \(65504\), fou"),
        (np.full((8, 8), 3e38, "f4"), {}, r"^weight: expected scales within float16 .*found inf"),
        (np.ones((8, 8), "f4"), {"dtype": "f4"}, "^dtype: expected float16 or bfloat16, found fl"),
        (np.ones((8, 8), "f4"), {"group_size": 0}, "^group_size: expected a positive number"),
    ],
)
def test_refusals(weight, options, message):
    with refused(message):
        quantize(weight, **options)


@pytest.fixture
def dense(tmp_path):
    """A small dense model in two files, with all that stays as it is."""
    rng = np.random.default_rng(0)

    def normal(*shape, dtype=np.float16):
        return rng.standard_normal(shape).astype(dtype)

    folder = tmp_path / "dense"
    folder.mkdir()
    first = {
        "model.embed_tokens.weight": normal(64, 32),
        "model.layers.0.self_attn.q_proj.weight": normal(48, 32),
        "model.layers.0.self_attn.q_proj.bias": normal(48),
        "model.layers.0.input_layernorm.weight": normal(32),
        "model.layers.0.mlp.gate.weight": normal(8, 32),
    }
    second = {
        "model.layers.0.mlp.down_proj.weight": normal(32, 96, dtype=ml_dtypes.bfloat16),
        "model.layers.0.odd.weight": normal(32, 12),
        "lm_head.weight": normal(64, 32),
    }
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder, first | second


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("zero_format", ["v1", "v2"])
def test_a_dense_model(dense, tmp_path, symmetric, zero_format):
    source, tensors = dense
    out, seen = tmp_path / "out", []
    names = quantize_checkpoint(
        source,
        out,
        group_size=32,
        symmetric=symmetric,
        zero_format=zero_format,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert names == ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"]
    assert seen[-1][0] == seen[-1][1] == sum(array.nbytes for array in tensors.values())
    checkpoint = Checkpoint.open(out)
    assert set(checkpoint.layers) == set(names)
    assert not checkpoint.problems
    for name in names:
        loaded = checkpoint.load(name)
        check_bound(tensors[f"{name}.weight"].T.astype(np.float64), loaded)
        assert (loaded.bias is not None) == ("q_proj" in name)
    stored = load_file(out / "model.safetensors")
    for name, array in tensors.items():
        if name.removesuffix(".weight") not in names:
            np.testing.assert_array_equal(stored[name], array)
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["quantization_config"]["sym"] is symmetric
    assert (out / "tokenizer.json").is_file()
    assert not list(out.glob("*.index.json"))


def test_a_single_dense_file(dense, tmp_path):
    source, _ = dense
    names = quantize_checkpoint(
        source / "model-00002-of-00002.safetensors", tmp_path / "out", dtype="bfloat16"
    )
    assert Checkpoint.open(tmp_path / "out").layers[names[0]].scales_dtype == "bfloat16"


def test_sources_and_folders_that_do_not_fit(dense, tmp_path):
    source, _ = dense
    quantize_checkpoint(source, tmp_path / "out")
    with refused(r"out: expected \*\.weight tensors .*found none among \d+ tensors; is it quant"):
        quantize_checkpoint(tmp_path / "out", tmp_path / "again")
    with refused(r"out: expected no such path, or an empty directory, found something there"):
        quantize_checkpoint(source, tmp_path / "out")
