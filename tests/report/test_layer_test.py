"""Layer tests: what is measured, and what passes, mismatches or is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import report
from ferrum_numba.report import layer_test
from tests.gptq.fixtures import copy_of, edit_tensors, fixture
from tests.layers import random_tensors
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import FaultyCpu

Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.0.mlp.down_proj"


@pytest.fixture
def cpu():
    return fe.open_device("cpu")


def by_name(results):
    return {result.layer: result for result in results}


# Pass


@pytest.mark.parametrize("name", ["gm_v1_sym_g128", "ag_v1_sym_g64_bf16scales", "gm_v2_asym_gm1"])
def test_every_layer_of_a_real_checkpoint_passes(device, name):
    checkpoint = fe.Checkpoint.open(fixture(name))
    results = list(report.verify_checkpoint(checkpoint, device, m_values=[1, 3, 65]))
    assert [result.layer for result in results] == list(checkpoint.layers)
    for result in results:
        spec = checkpoint.layers[result.layer]
        assert (result.K, result.N, result.bits) == (spec.K, spec.N, 4)
        assert result.group_size == spec.group_size
        assert result.zero_format == spec.zero_format
        assert (result.act_order, result.bias) == (False, spec.bias)
        assert (result.verdict, result.reason) == ("pass", "")
        assert [measured.m for measured in result.measurements] == [1, 3, 65]
        assert all(measured.seconds > 0 for measured in result.measurements)
        assert 0 < result.relative_error <= result.tolerance == report.TOLERANCE
        worst = max(measured.max_abs_error for measured in result.measurements)
        assert result.max_abs_error == worst


def test_errors_are_those_of_the_layer(cpu):
    tensors = random_tensors(136, 72, 64, bias=True, seed=4)
    (measured,) = report.measure_layer(tensors, cpu, m_values=[5], seed=11)
    x = np.random.default_rng(11).standard_normal((5, 136), np.float32).astype(np.float16)
    y = fe.GptqLinear(tensors, device=cpu)(x).astype(np.float64)
    expected = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    expected += tensors.bias.astype(np.float64)
    assert measured.max_abs_error == pytest.approx(np.abs(y - expected).max(), abs=1e-5)
    relative = np.linalg.norm(y - expected) / np.linalg.norm(expected)
    assert measured.relative_error == pytest.approx(relative, rel=1e-2)


def test_the_seed_makes_x(cpu):
    tensors = random_tensors(64, 64, 64)

    def error(seed):
        return report.measure_layer(tensors, cpu, m_values=[4], seed=seed)[0].max_abs_error

    assert error(1) == error(1) != error(2)


def test_exact_zeros_have_no_error(cpu):
    tensors = random_tensors(64, 64, 64)
    tensors.scales[:] = 0
    (measured,) = report.measure_layer(tensors, cpu, m_values=[2])
    assert (measured.max_abs_error, measured.relative_error) == (0, 0)


# Mismatch


def test_wrong_results_are_a_mismatch():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, FaultyCpu(), m_values=[2, 3])
    assert result.verdict == "mismatch"
    assert result.reason.startswith("M = 2: expected a relative error of at most 1e-03, found ")
    assert result.relative_error > 1e-2
    assert len(result.measurements) == 2


def test_an_element_that_is_never_written_is_a_mismatch(cpu, monkeypatch):
    class Careless(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            return super().__call__(x[:-1], out=out[:-1], stream=stream)

    monkeypatch.setattr(layer_test, "GptqLinear", Careless)
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, m_values=[4])
    assert result.verdict == "mismatch"
    assert "M = 4: expected finite outputs, found NaN" in result.reason
    assert math.isnan(result.relative_error)
    assert math.isnan(result.max_abs_error)


def test_a_launch_that_breaks_off_is_a_mismatch(cpu, monkeypatch):
    class Broken(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            raise fe.LaunchError("cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(layer_test, "GptqLinear", Broken)
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu)
    assert result.verdict == "mismatch"
    assert result.reason == "cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS"
    assert result.measurements == ()
    assert math.isnan(result.relative_error)


# Refused


def test_act_order_is_refused(cpu):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g64_actorder_bias"))
    results = list(report.verify_checkpoint(checkpoint, cpu))
    assert len(results) == len(checkpoint.layers)
    for result in results:
        assert (result.verdict, result.act_order, result.measurements) == ("refused", True, ())
        assert "act-order" in result.reason


def test_a_layer_that_is_refused_stops_no_other(cpu, tmp_path):
    layers = {"a": eight_bit_layer(128, 64), "b": random_tensors(128, 64, 64)}
    folder = write_checkpoint(tmp_path, layers, dynamic={"+:a": {"bits": 8}})
    results = by_name(report.verify_checkpoint(fe.Checkpoint.open(folder), cpu))
    assert (results["a"].verdict, results["a"].bits) == ("refused", 8)
    assert results["a"].reason.startswith("expected a 4-bit layer, found 8 bits")
    assert results["b"].verdict == "pass"


def test_a_damaged_layer_stops_no_other(cpu, tmp_path):
    folder = copy_of("gm_v1_sym_g128", tmp_path)

    def damage(tensors):
        tensors[f"{Q_PROJ}.scales"][0, 5] = np.nan

    edit_tensors(folder / "model.safetensors", damage)
    results = by_name(report.verify_checkpoint(fe.Checkpoint.open(folder), cpu, m_values=[1]))
    assert results.pop(Q_PROJ).verdict == "refused"
    assert {result.verdict for result in results.values()} == {"pass"}


def test_outputs_that_float16_cannot_hold_are_refused(cpu):
    tensors = random_tensors(512, 64, 64)
    tensors.scales[:] = 1000
    with pytest.raises(fe.CheckpointError, match=r"scales: expected outputs within float16"):
        report.measure_layer(tensors, cpu, m_values=[1])


# Selection


def test_patterns_select_layers_in_the_checkpoints_order():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    assert report.select_layers(checkpoint, []) == list(checkpoint.layers)
    assert report.select_layers(checkpoint, ["*.q_proj", "*.down_*"]) == [DOWN_PROJ, Q_PROJ]


def test_a_pattern_that_matches_nothing_is_an_error(cpu):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    with pytest.raises(fe.CheckpointError, match=r"found 'q_proj'; the first of its 7 is model"):
        report.verify_checkpoint(checkpoint, cpu, layers=["*.q_proj", "q_proj"])


@pytest.mark.parametrize("m_values", [[], [4, 0]])
def test_m_values_are_checked(cpu, m_values):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    with pytest.raises(fe.AbiError, match=r"m_values: expected numbers of rows"):
        report.verify_checkpoint(checkpoint, cpu, m_values=m_values)
