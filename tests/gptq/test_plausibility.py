"""Plausibility: each sign is seen, and no sound layer shows any."""

from dataclasses import replace

import numpy as np
import pytest

from ferrum_numba.gptq import Checkpoint, Recipe, make_checkpoint
from ferrum_numba.gptq.packing import pack_columns, pack_rows, unpack_rows
from ferrum_numba.gptq.plausibility import SIGNS, implausible
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import FIXTURES, fixture

LAYER = random_tensors(256, 64, 64, symmetric=True)
RAGGED = random_tensors(200, 64, 64)  # a last group of 8 rows
ORDER = np.random.default_rng(0).permutation(np.arange(256, dtype=np.int32) // np.int32(64))
ACT_ORDER = replace(LAYER, g_idx=ORDER)


@pytest.mark.parametrize("name", FIXTURES)
def test_no_layer_of_a_producer_shows_a_sign(name):
    checkpoint = Checkpoint.open(fixture(name))
    for layer, spec in checkpoint.layers.items():
        assert implausible(checkpoint.load(layer), spec.symmetric) == {}


@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"act_order": True}, {"bias": True}])
@pytest.mark.parametrize("group_size", [-1, 8, 32, 100])
def test_no_layer_that_is_made_shows_a_sign(tmp_path, options, group_size):
    make_checkpoint(tmp_path, Recipe(layers=1, layers_only=True, group_size=group_size, **options))
    checkpoint = Checkpoint.open(tmp_path)
    for layer, spec in checkpoint.layers.items():
        assert implausible(checkpoint.load(layer), spec.symmetric) == {}


def with_levels(tensors, change):
    levels = unpack_rows(tensors.qweight)
    change(levels)
    return replace(tensors, qweight=pack_rows(levels))


def with_scales(tensors, change):
    scales = tensors.scales.copy()
    change(scales)
    return replace(tensors, scales=scales)


def fill(place, value):
    def change(array):
        array[place] = value

    return change


def multiply(place, factor):
    def change(array):
        array[place] *= np.float16(factor)

    return change


ALL = slice(None)
FIRST_GROUP = slice(64)
COLUMN = (ALL, 5)

SEEN = {
    "zero words": (with_levels(LAYER, fill(ALL, 0)), {"constant-words", "constant-groups"}),
    "words of ones": (with_levels(LAYER, fill(ALL, 15)), {"constant-words", "constant-groups"}),
    "one word": (
        replace(LAYER, qweight=np.full_like(LAYER.qweight, 0x12345678)),
        {"constant-words"},
    ),
    "three words": (
        replace(LAYER, qweight=(np.arange(32 * 64, dtype=np.int32) % 3 + 77).reshape(32, 64)),
        {"constant-words"},
    ),
    "words of zero weights": (with_levels(LAYER, fill(ALL, 8)), {"all-zero"}),
    "scales of 0": (with_scales(LAYER, fill(ALL, 0)), {"all-zero"}),
    "nothing was ever written": (
        replace(
            LAYER,
            qweight=np.zeros_like(LAYER.qweight),
            qzeros=np.zeros_like(LAYER.qzeros),
            scales=np.zeros_like(LAYER.scales),
        ),
        {"all-zero"},
    ),
    "a group without spread": (with_levels(LAYER, fill(FIRST_GROUP, 3)), {"constant-groups"}),
    "a group of one column": (with_levels(LAYER, fill((FIRST_GROUP, 9), 15)), {"constant-groups"}),
    "a column without spread": (with_levels(LAYER, fill(COLUMN, 0)), {"constant-groups"}),
    "act-order, a group without": (
        with_levels(ACT_ORDER, fill(ORDER == 2, 1)),
        {"constant-groups"},
    ),
    "act-order, in one column": (
        with_levels(ACT_ORDER, fill(np.ix_(ORDER == 2, [7]), 1)),
        {"constant-groups"},
    ),
    "half of the groups are 0": (with_levels(LAYER, fill(slice(128), 8)), {"zero-groups"}),
    "a column of padding": (with_levels(LAYER, fill(COLUMN, 8)), set()),
    "a last group of few rows": (with_levels(RAGGED, fill(slice(192, 200), 0)), set()),
    "one scale of 0": (with_scales(LAYER, fill((1, 3), 0)), {"zero-scales"}),
    "a scale of 0, padding": (
        with_scales(with_levels(LAYER, fill(COLUMN, 8)), fill(COLUMN, 0)),
        set(),
    ),
    "the same scales": (with_scales(LAYER, fill(ALL, 0.01)), {"constant-scales"}),
    "a scale of 1000 times": (with_scales(LAYER, multiply((2, 2), 1000)), {"absurd-scales"}),
    "large scales": (with_scales(LAYER, multiply(ALL, 2000)), {"absurd-scales"}),
    "scales near 0": (with_scales(LAYER, multiply(ALL, 2e-5)), {"absurd-scales"}),
    "an outlier": (with_scales(LAYER, multiply((2, 2), 60)), set()),
    "negative scales": (with_scales(LAYER, multiply(ALL, -1)), set()),
}


@pytest.mark.parametrize("case", SEEN)
def test_signs(case):
    tensors, signs = SEEN[case]
    found = implausible(tensors, symmetric=True)
    assert found.keys() == signs
    assert found.keys() <= SIGNS.keys()
    assert all("expected" in said and "found" in said for said in found.values())


@pytest.mark.parametrize("zero", [0, 1, 15])
def test_zeros_that_were_dropped(zero):
    zeros = pack_columns(np.full((4, 64), zero, np.uint8))
    tensors = replace(LAYER, qzeros=zeros, zero_format="v2")
    for symmetric in (False, None):
        assert implausible(tensors, symmetric).keys() == {"constant-zeros"}
    middle = replace(tensors, qzeros=pack_columns(np.full((4, 64), 7, np.uint8)))
    assert implausible(middle, False) == {}


def test_where_a_group_is_without_spread():
    found = implausible(with_levels(ACT_ORDER, fill(np.ix_(ORDER == 2, [7]), 1)))
    assert (
        "found 1 groups of 256 without, the first at [group, column] [2, 7]"
        in (found["constant-groups"])
    )
