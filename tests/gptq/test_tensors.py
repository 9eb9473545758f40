"""GptqTensors: the reference against the producers' own results, and every refusal."""

import dataclasses
import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint, GptqTensors
from ferrum_numba.gptq.packing import unpack_columns, unpack_rows
from ferrum_numba.gptq.zeros import kernel_words
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import FIXTURES, fixture

HASHED = [name for name in FIXTURES if name.startswith("gm_")]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def relative_error(found, expected):
    expected = expected.astype(np.float64)
    return np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)


def forward(tensors, oracle, dtype=np.float32):
    """x @ weight + bias in float64, the inputs rounded to `dtype` as the producer did."""
    x = oracle[f"x_{tensors.K}"].astype(dtype).astype(np.float64)
    y = x @ tensors.dequantize().astype(dtype).astype(np.float64)
    return y if tensors.bias is None else y + tensors.bias.astype(np.float64)


@pytest.mark.parametrize("name", HASHED)
def test_dequantised_bits_equal_the_producer(name):
    checkpoint = Checkpoint.open(fixture(name))
    expected = json.loads((fixture(name) / "oracle_modules.json").read_text())
    assert set(checkpoint.layers) == set(expected)
    for layer, oracle in expected.items():
        weight = checkpoint.load(layer).dequantize()
        assert weight.dtype == np.float16
        assert weight.flags.c_contiguous
        digest = hashlib.sha256(weight.tobytes()).hexdigest()[:16]
        assert digest == oracle["dequant_f16_sha"], layer


@pytest.mark.parametrize("name", HASHED)
def test_dequantised_values_equal_the_producer(name):
    checkpoint = Checkpoint.open(fixture(name))
    oracle = load_file(fixture(name) / "oracle.safetensors")
    stored = [key.removesuffix(".dequant") for key in oracle if key.endswith(".dequant")]
    assert stored
    for layer in stored:
        weight = checkpoint.load(layer).dequantize()
        np.testing.assert_array_equal(
            weight.view(np.uint16), oracle[f"{layer}.dequant"].view(np.uint16)
        )


def test_auto_round_identity_forward_is_the_weight():
    layer = "model.layers.0.self_attn.k_proj"
    oracle = load_file(fixture("ar_v1_sym_g128") / "oracle.safetensors")
    tensors = Checkpoint.open(fixture("ar_v1_sym_g128")).load(layer)
    expected = oracle[f"{layer}.eye_forward_f32_minus_bias"]  # float32, not rounded to float16
    np.testing.assert_array_equal(tensors.dequantize(), expected.astype(np.float16))


@pytest.mark.parametrize("layer", ["self_attn.k_proj", "mlp.down_proj"])
def test_bfloat16_scales_dequantise_exactly(layer):
    """AutoGPTQ rounds to bfloat16; ours is the exact product, which rounds to the same bits."""
    layer = f"model.layers.0.{layer}"
    oracle = load_file(fixture("ag_v1_sym_g64_bf16scales") / "oracle.safetensors")
    tensors = Checkpoint.open(fixture("ag_v1_sym_g64_bf16scales")).load(layer)
    assert tensors.scales.dtype == BFLOAT16
    weight = tensors.dequantize()
    np.testing.assert_array_equal(weight.astype(np.float64), exact_weight(tensors))
    np.testing.assert_array_equal(
        weight.astype(BFLOAT16).view(np.uint16), oracle[f"{layer}.eye_forward"].view(np.uint16)
    )


@pytest.mark.parametrize("name", [name for name in FIXTURES if not name.startswith("ag_")])
def test_forward_equals_the_producer(name):
    checkpoint = Checkpoint.open(fixture(name))
    oracle = load_file(fixture(name) / "oracle.safetensors")
    for layer in checkpoint.layers:
        error = relative_error(forward(checkpoint.load(layer), oracle), oracle[f"{layer}.y_f32"])
        # auto-round's float32 forward leaves the weights unrounded; GPTQModel's rounds them
        # to float16 first, as the reference does.
        assert error < (3e-4 if name.startswith("ar_") else 2e-6), layer


def test_forward_with_bfloat16_scales_equals_the_producer():
    name = "ag_v1_sym_g64_bf16scales"
    checkpoint = Checkpoint.open(fixture(name))
    oracle = load_file(fixture(name) / "oracle.safetensors")
    for layer in checkpoint.layers:
        y = forward(checkpoint.load(layer), oracle, BFLOAT16)
        # What is left is the rounding of the producer's output to bfloat16: 2^-9 at most.
        assert relative_error(y, oracle[f"{layer}.y_bf16"]) < 2**-9, layer


def exact_weight(tensors):
    """scale * (level - zero) in float64, written out anew."""
    in_order = np.arange(tensors.K) // tensors.group_size
    groups = in_order if tensors.g_idx is None else tensors.g_idx
    levels = unpack_rows(tensors.qweight).astype(np.float64)
    zeros = tensors.zeros().astype(np.float64)
    return tensors.scales.astype(np.float64)[groups] * (levels - zeros[groups])


@given(
    K=st.integers(1, 40).map(lambda n: n * 8),
    N=st.integers(1, 9).map(lambda n: n * 8),
    group_size=st.sampled_from([-1, 12, 16, 32, 64, 128]),
    zero_format=st.sampled_from(["v1", "v2", "v1_gptqmodel", "v1_autogptq"]),
    act_order=st.booleans(),
    seed=st.integers(0, 99),
)
def test_dequantise_rounds_the_exact_product_once(K, N, group_size, zero_format, act_order, seed):
    tensors = random_tensors(K, N, group_size, zero_format=zero_format, seed=seed)
    if act_order:
        g_idx = np.random.default_rng(seed).integers(0, tensors.groups, K, dtype=np.int32)
        tensors = dataclasses.replace(tensors, g_idx=g_idx)
    np.testing.assert_array_equal(tensors.dequantize(), exact_weight(tensors).astype(np.float16))


def test_dequantise_over_several_blocks():
    tensors = random_tensors(1000, 2048, 96, seed=3)  # 2M elements, groups across block edges
    before = tensors.qweight.copy()
    np.testing.assert_array_equal(tensors.dequantize(), exact_weight(tensors).astype(np.float16))
    np.testing.assert_array_equal(tensors.qweight, before)


def test_the_zero_point_fixture_has_zeros_of_0_and_borrows():
    checkpoint = Checkpoint.open(fixture("gm_v1_asym_g32_zp0"))
    plain = Checkpoint.open(fixture("gm_v1_asym_g32_zp0"), zero_format="v1")
    for layer in checkpoint.layers:
        tensors = checkpoint.load(layer)
        nibbles = unpack_columns(tensors.qzeros)
        assert (nibbles == 15).any()
        assert (tensors.zeros() == 0).any()
        assert (tensors.zeros() == nibbles + 2).any()  # one for v1, one given back
        words, bias = kernel_words(tensors.qzeros, tensors.zero_format)
        assert bias == 0
        assert words is not tensors.qzeros
        assert (plain.load(layer).zeros() != tensors.zeros()).any()


def test_properties():
    tensors = random_tensors(136, 72, 64, bias=True)
    assert (tensors.K, tensors.N, tensors.groups, tensors.group_size) == (136, 72, 3, 64)
    assert tensors.zeros().shape == (3, 72)
    assert not tensors.act_order
    assert tensors.nbytes == 17 * 72 * 4 + 3 * 9 * 4 + 3 * 72 * 2 + 72 * 2
    assert random_tensors(136, 72, -1).group_size == 136
    assert random_tensors(64, 8, 128).groups == 1


def test_random_tensors_are_repeatable_and_about_unit_gain():
    a, b = random_tensors(512, 64, 64, seed=5), random_tensors(512, 64, 64, seed=5)
    np.testing.assert_array_equal(a.dequantize(), b.dequantize())
    for symmetric in (False, True):
        weight = random_tensors(512, 64, 64, symmetric=symmetric).dequantize().astype(np.float64)
        assert 0.7 < np.sqrt((weight**2).sum(axis=0).mean()) < 1.4
    assert (random_tensors(64, 8, 32, symmetric=True, zero_format="v2").zeros() == 8).all()


def test_act_order_follows_the_values_of_g_idx():
    tensors = random_tensors(64, 8, 32)
    trivial = np.arange(64, dtype=np.int32) // 32
    assert not dataclasses.replace(tensors, g_idx=trivial).act_order
    assert dataclasses.replace(tensors, g_idx=trivial[::-1].copy()).act_order


def with_value(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


GOOD = random_tensors(64, 16, 32, bias=True)
G_IDX = np.arange(64, dtype=np.int32) // 32

REFUSALS = {
    "qweight is a list": ({"qweight": [1]}, r"^qweight: expected a NumPy array, found list"),
    "qweight dtype": (
        {"qweight": GOOD.qweight.astype(np.int64)},
        r"^qweight: expected dtype int32, found int64; convert",
    ),
    "qweight dimensions": (
        {"qweight": GOOD.qweight[0]},
        r"^qweight: expected 2 dimensions, found shape \[16\]",
    ),
    "qweight order": (
        {"qweight": np.asfortranarray(GOOD.qweight)},
        r"^qweight: expected a C-contiguous array, found strides .*ascontiguousarray",
    ),
    "qweight empty": ({"qweight": GOOD.qweight[:0]}, r"^qweight: .*found \[0, 16\]"),
    "N not a multiple of 8": (
        {"qweight": GOOD.qweight[:, :12].copy()},
        r"^qweight: .*N a multiple of 8.*found \[8, 12\]",
    ),
    "qzeros dtype": (
        {"qzeros": GOOD.qzeros.view(np.uint32)},
        r"^qzeros: expected dtype int32, found uint32",
    ),
    "qzeros shape": (
        {"qzeros": GOOD.qzeros[:1]},
        r"^qzeros: expected shape \[2, 2\] = .*K=64 and N=16 from qweight, group_size=32.*"
        r"found \[1, 2\]",
    ),
    "scales dtype": (
        {"scales": GOOD.scales.astype(np.float32)},
        r"^scales: expected dtype float16 or bfloat16, found float32",
    ),
    "scales shape": (
        {"scales": GOOD.scales[:, :8].copy()},
        r"^scales: expected shape \[2, 16\].*check group_size, found \[2, 8\]",
    ),
    "scales NaN": (
        {"scales": with_value(GOOD.scales, (1, 3), np.nan)},
        r"^scales: expected finite numbers, found 1 that are not, the first at \[1, 3\]",
    ),
    "bfloat16 scales infinite": (
        {"scales": with_value(GOOD.scales.astype(BFLOAT16), (0, 0), np.inf)},
        r"^scales: expected finite numbers",
    ),
    "group size against shapes": (
        {"group_size": 64},
        r"^qzeros: expected shape \[1, 2\].*group_size=64; check group_size, found \[2, 2\]",
    ),
    "group size 0": ({"group_size": 0}, r"^group_size: expected a positive.*found 0"),
    "group size of 33 bits": ({"group_size": 1 << 33}, r"^group_size: .*found 8589934592"),
    "group size -2": ({"group_size": -2}, r"^group_size: .*found -2"),
    "group size not an integer": ({"group_size": 32.0}, r"^group_size: .*integer, found 32\.0"),
    "group size a bool": ({"group_size": True}, r"^group_size: .*integer, found True"),
    "g_idx dtype": (
        {"g_idx": G_IDX.astype(np.int64)},
        r"^g_idx: expected dtype int32, found int64",
    ),
    "g_idx shape": ({"g_idx": G_IDX[:32]}, r"^g_idx: expected shape \[64\].*found \[32\]"),
    "g_idx too large": (
        {"g_idx": G_IDX + np.int32(1)},
        r"^g_idx: expected groups 0\.\.1, .*found 1\.\.2",
    ),
    "g_idx negative": ({"g_idx": G_IDX - np.int32(1)}, r"^g_idx: .*found -1\.\.0"),
    "bias dtype": (
        {"bias": np.zeros(16)},
        r"^bias: expected dtype float16 or bfloat16 or float32, found float64",
    ),
    "bias shape": ({"bias": np.zeros(8, np.float16)}, r"^bias: expected shape \[16\].*\[8\]"),
    "bias dimensions": (
        {"bias": np.zeros((1, 16), np.float16)},
        r"^bias: expected 1 dimension, found shape \[1, 16\]",
    ),
    "bias infinite": (
        {"bias": np.full(16, np.inf, np.float16)},
        r"^bias: expected finite numbers, found 16 that are not, the first at \[0\]",
    ),
    "zero format": ({"zero_format": "v3"}, r"^zero_format: expected one of 'v1', .*found 'v3'"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_refusals(fault):
    changes, message = REFUSALS[fault]
    fields = {field.name: getattr(GOOD, field.name) for field in dataclasses.fields(GOOD)}
    with pytest.raises(CheckpointError, match=message):
        GptqTensors(**{**fields, **changes})


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_weights_beyond_float16_are_refused(dtype):
    scales = np.full(GOOD.scales.shape, 60000, dtype)
    tensors = dataclasses.replace(GOOD, scales=scales)
    with pytest.raises(CheckpointError, match=r"^scales: expected .* within float16 .*rows 0\.\."):
        tensors.dequantize()
