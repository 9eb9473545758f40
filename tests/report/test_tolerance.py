"""The bounds of theory: they hold for honest arithmetic, and not for much else."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.report.tolerance import WeightNorms, error_bounds


def layer(K, N, M, seed=0):
    """(x, weight, norms) as float16 data of unit variance."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((M, K)).astype(np.float16)
    levels, zeros = rng.integers(0, 16, (K, N)), rng.integers(1, 17, N)
    scale = np.float32(0.15 / np.sqrt(K))
    weight = (scale * (levels - zeros)).astype(np.float16)
    columns = np.linalg.norm(weight.astype(np.float32), axis=0)
    return x, weight, WeightNorms(columns, columns + 2 * scale * zeros * np.sqrt(K))


def exact(x, weight):
    return x.astype(np.float64) @ weight.astype(np.float64)


@pytest.mark.parametrize("K", [16, 512, 8192])
@pytest.mark.parametrize("M", [1, 32])
def test_one_rounding_passes(K, M):
    x, weight, norms = layer(K, 96, M)
    y = exact(x, weight)
    bounds = error_bounds(x, y.astype(np.float32), norms, None)
    error = y.astype(np.float16).astype(np.float64) - y
    assert (np.abs(error) <= bounds.elements).all()
    assert np.linalg.norm(error) <= bounds.relative * np.linalg.norm(y)


def test_a_sum_in_float32_one_by_one_passes():
    x, weight, norms = layer(4096, 32, 4)
    total = np.zeros((4, 32), np.float32)
    for k in range(4096):
        total += x[:, k : k + 1].astype(np.float32) * weight[k].astype(np.float32)
    y = exact(x, weight)
    bounds = error_bounds(x, y.astype(np.float32), norms, None)
    assert (np.abs(total - y) <= bounds.elements).all()


def test_a_sum_in_float16_does_not_pass():
    x, weight, norms = layer(2048, 32, 4)
    total = np.zeros((4, 32), np.float16)
    for k in range(2048):
        total += x[:, k : k + 1] * weight[k]
    y = exact(x, weight)
    bounds = error_bounds(x, y.astype(np.float32), norms, None)
    assert (np.abs(total - y) > bounds.elements).any()
    assert np.linalg.norm(total - y) > bounds.relative * np.linalg.norm(y)


@pytest.mark.parametrize("K", [128, 4096])
def test_one_wrong_level_in_one_column_is_beyond_the_bound(K):
    x, weight, norms = layer(K, 64, 64)
    y = exact(x, weight)
    bounds = error_bounds(x, y.astype(np.float32), norms, None)
    k = int(np.argmax(np.abs(x).max(axis=0)))
    wrong = x[:, k].astype(np.float64) * 0.15 / np.sqrt(K)
    assert (np.abs(wrong) > bounds.elements[:, 7]).any()


def test_a_bias_is_one_more_rounding():
    x, weight, norms = layer(64, 16, 2)
    bias = np.full(16, 100, np.float32)
    y = exact(x, weight).astype(np.float32)
    plain = error_bounds(x, y, norms, None)
    with_bias = error_bounds(x, y + bias, norms, bias)
    added = with_bias.elements - plain.elements
    assert added == pytest.approx(2.0**-11 * np.abs(y + bias), rel=0.02)


def test_bfloat16_is_eight_times_as_coarse():
    x, weight, norms = layer(256, 64, 16)
    y = exact(x, weight).astype(np.float32)
    fine = error_bounds(x, y, norms, None)
    coarse = error_bounds(x, y, norms, None, "bfloat16")
    assert coarse.relative / fine.relative == pytest.approx(8, rel=0.05)


def test_a_result_of_zeros_has_no_relative_bound():
    x = np.ones((2, 16), np.float16)
    nothing = np.zeros(8, np.float32)
    bounds = error_bounds(x, np.zeros((2, 8), np.float32), WeightNorms(nothing, nothing), None)
    assert bounds.relative == 0
    assert (bounds.elements <= 2.0**-25).all()
