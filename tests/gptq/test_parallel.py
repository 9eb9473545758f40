"""Shards of a layer for tensor parallelism, and layers fused side by side."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrum_numba.gptq import Checkpoint, GptqTensors, fuse
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import FIXTURES, fixture, refused

FORMATS = st.sampled_from(["v1", "v2", "v1_gptqmodel", "v1_autogptq"])


def layer(K, N, group_size, rows="in order", *, seed=0, **options):
    """A random layer whose g_idx is missing, in order, permuted or any."""
    tensors = random_tensors(K, N, group_size, seed=seed, **options)
    rng = np.random.default_rng(seed)
    in_order = np.arange(K, dtype=np.int32) // np.int32(tensors.group_size)
    g_idx = {
        "missing": None,
        "in order": in_order,
        "permuted": rng.permutation(in_order),
        "any": rng.integers(0, tensors.groups, K, dtype=np.int32),
    }[rows]
    return dataclasses.replace(tensors, g_idx=g_idx)


def check_parts(whole, parts, axis):
    """Assert that the parts are the whole, bit for bit, and share none of its memory."""
    weight = np.concatenate([part.dequantize() for part in parts], axis=0 if axis == "K" else 1)
    np.testing.assert_array_equal(weight, whole.dequantize())
    for part in parts:
        assert isinstance(part, GptqTensors)  # so its shapes agree with its group size
        for name in ("qweight", "qzeros", "scales", "g_idx", "bias"):
            mine, all_of_it = getattr(part, name), getattr(whole, name)
            assert mine is None or not np.shares_memory(mine, all_of_it)


@given(
    K=st.integers(1, 12).map(lambda n: n * 8),
    columns=st.integers(1, 4).map(lambda n: n * 8),
    world=st.integers(1, 5),
    group_size=st.sampled_from([-1, 16, 24, 32, 128]),
    rows=st.sampled_from(["missing", "in order", "permuted", "any"]),
    zero_format=FORMATS,
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_columns(K, columns, world, group_size, rows, zero_format, bias, seed):
    whole = layer(
        K, columns * world, group_size, rows, zero_format=zero_format, bias=bias, seed=seed
    )
    parts = [whole.shard(rank, world, "N") for rank in range(world)]
    check_parts(whole, parts, "N")
    if bias:
        np.testing.assert_array_equal(np.concatenate([part.bias for part in parts]), whole.bias)


@given(
    rows_of_part=st.integers(1, 12).map(lambda n: n * 8),
    N=st.integers(1, 4).map(lambda n: n * 8),
    world=st.integers(1, 5),
    group_size=st.sampled_from([-1, 16, 24, 32, 64, 128]),
    rows=st.sampled_from(["missing", "in order"]),
    zero_format=FORMATS,
    seed=st.integers(0, 99),
)
def test_rows_in_order(rows_of_part, N, world, group_size, rows, zero_format, seed):
    whole = layer(
        rows_of_part * world, N, group_size, rows, zero_format=zero_format, bias=True, seed=seed
    )
    parts = [whole.shard(rank, world, "K") for rank in range(world)]
    check_parts(whole, parts, "K")
    assert not any(part.act_order for part in parts)
    assert [part.bias is None for part in parts] == [False] + [True] * (world - 1)
    assert all((part.g_idx is None) == (rows == "missing") for part in parts)


@given(
    groups=st.integers(1, 6),
    world=st.sampled_from([1, 2, 4]),
    group_size=st.sampled_from([16, 32, 64]),
    rows=st.sampled_from(["permuted", "any"]),
    zero_format=FORMATS,
    seed=st.integers(0, 99),
)
def test_rows_in_activation_order(groups, world, group_size, rows, zero_format, seed):
    K = groups * group_size * 2
    whole = layer(K, 16, group_size, rows, zero_format=zero_format, seed=seed)
    parts = [whole.shard(rank, world, "K") for rank in range(world)]
    check_parts(whole, parts, "K")
    if whole.act_order:
        g_idx = np.concatenate([part.g_idx for part in parts])
        np.testing.assert_array_equal(g_idx, whole.g_idx)


def test_the_sum_over_row_shards_is_the_output():
    whole = layer(128, 16, 32, "permuted", bias=True)
    x = np.random.default_rng(1).standard_normal((3, 128))
    y = np.zeros((3, 16))
    for rank in range(4):
        part = whole.shard(rank, 4, "K")
        y += x[:, rank * 32 : (rank + 1) * 32] @ part.dequantize().astype(np.float64)
        y += 0 if part.bias is None else part.bias.astype(np.float64)
    expected = x @ whole.dequantize().astype(np.float64) + whole.bias.astype(np.float64)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_a_part_that_ends_within_a_group_gets_smaller_groups():
    part = random_tensors(2368, 16, 128).shard(1, 2, "K")
    assert (part.K, part.group_size, part.groups) == (1184, 32, 37)
    assert random_tensors(256, 16, 64).shard(0, 2, "K").group_size == 64


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("axis", ["N", "K"])
def test_real_layers(name, axis):
    checkpoint = Checkpoint.open(fixture(name))
    for layer_name in checkpoint.layers:
        whole = checkpoint.load(layer_name)
        if (whole.K if axis == "K" else whole.N) % 16 == 0:
            parts = [whole.shard(rank, 2, axis) for rank in range(2)]
            check_parts(whole, parts, axis)


@pytest.mark.parametrize(
    ("rank", "world", "axis", "message"),
    [
        (2, 2, "N", r"^rank: expected 0\.\.1 \(world=2\), found 2"),
        (-1, 2, "K", r"^rank: expected 0\.\.1 .*found -1"),
        (0, 0, "N", r"^rank: expected 0\.\.-1 \(world=0\), found 0"),
        (0, 2, "M", r"^axis: expected 'N' \(columns\) or 'K' \(rows\), found 'M'"),
        (0, 5, "N", r"^N: expected 5 equal parts .*multiples of 8, found N=72; .*into 3, 9$"),
        (0, 2, "N", r"^N: expected 2 equal parts of whole words, .*found N=72"),
        (0, 3, "K", r"^K: expected 3 equal parts .*found K=128; it splits into 2, 4, 8, 16$"),
        (0, 32, "K", r"^K: expected 32 equal parts .*found K=128"),
    ],
)
def test_splits_that_cannot_be(rank, world, axis, message):
    with refused(message):
        random_tensors(128, 72, 32).shard(rank, world, axis)


def test_an_act_order_split_that_no_group_size_counts():
    whole = layer(3 * 40, 8, 8, "permuted")  # 15 groups; 40 rows make 14 or 20, not 15
    with refused(r"^K: expected parts whose rows make 15 groups, .*found 40 rows, .*or along N"):
        whole.shard(0, 3, "K")


@given(
    sizes=st.lists(st.integers(1, 4).map(lambda n: n * 8), min_size=1, max_size=4),
    rows=st.sampled_from(["missing", "in order", "permuted"]),
    zero_format=FORMATS,
    biases=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_fused_columns(sizes, rows, zero_format, biases):
    layers = [
        dataclasses.replace(
            layer(96, N, 32, rows, zero_format=zero_format, bias=bias, seed=number),
            g_idx=layer(96, 8, 32, rows).g_idx,
        )
        for number, (N, bias) in enumerate(zip(sizes, biases, strict=False))
    ]
    fused = fuse(layers)
    expected = np.concatenate([one.dequantize() for one in layers], axis=1)
    np.testing.assert_array_equal(fused.dequantize(), expected)
    assert (fused.bias is not None) == any(one.bias is not None for one in layers)
    if fused.bias is not None:
        zeros = [np.zeros(one.N, np.float16) if one.bias is None else one.bias for one in layers]
        np.testing.assert_array_equal(fused.bias, np.concatenate(zeros))


def test_fusing_real_layers():
    checkpoint = Checkpoint.open(fixture("gm_v1_sym_g64_actorder_bias"))
    names = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    layers = [checkpoint.load(name) for name in names]
    expected = np.concatenate([one.dequantize() for one in layers], axis=1)
    np.testing.assert_array_equal(fuse(layers).dequantize(), expected)


def test_a_g_idx_in_order_fuses_with_none():
    fused = fuse([layer(64, 8, 32, "missing"), layer(64, 8, 32, "in order")])
    assert not fused.act_order


GOOD = layer(64, 8, 32, bias=True)

UNLIKE = {
    "none": ([], "^layers: expected at least one layer"),
    "K": ([GOOD, layer(96, 8, 32)], "^K: expected 64 in layer 1, as in layer 0, found 96"),
    "group_size": (
        [GOOD, GOOD, layer(64, 8, 16)],
        "^group_size: expected 32 in layer 2, as in layer 0, found 16",
    ),
    "zero_format": (
        [GOOD, layer(64, 8, 32, zero_format="v2")],
        "^zero_format: expected v1 in layer 1, as in layer 0, found v2",
    ),
    "scales' dtype": (
        [GOOD, dataclasses.replace(GOOD, scales=GOOD.scales.astype(ml_dtypes.bfloat16))],
        "^scales' dtype: expected float16 in layer 1, as in layer 0, found bfloat16",
    ),
    "act-order": (
        [layer(64, 8, 32, "permuted"), layer(64, 8, 32, "permuted", seed=1)],
        "^g_idx: expected layer 1 to group its rows as layer 0 does, found another act-order",
    ),
    "bias": (
        [GOOD, dataclasses.replace(GOOD, bias=np.zeros(8, np.float32))],
        "^bias: expected one dtype in all layers, found float16 and float32",
    ),
}


@pytest.mark.parametrize("fault", UNLIKE)
def test_layers_that_do_not_fuse(fault):
    layers, message = UNLIKE[fault]
    with refused(message):
        fuse(layers)
