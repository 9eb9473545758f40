"""The likely cause: each fault that is put in is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.gptq.misreadings import WeightParts
from ferrum_numba.report import layer_test
from ferrum_numba.report.layer_diagnosis import DECADES, diagnose_layer
from ferrum_numba.report.layer_fault import diagnose_weight
from ferrum_numba.report.reference import make_reference
from tests.campaigns.layers import random_tensors
from tests.report.faulty import (
    CALL_FAULTS,
    TENSOR_FAULTS,
    FaultyCpu,
    calling_linear,
    tampered_linear,
)


@pytest.fixture(scope="module")
def cpu():
    return fe.open_device("cpu")


def look(linear, tensors, device, m=16):
    """(whether it passes, the explanation) of a layer that is loaded by `linear`."""
    reference = make_reference("layer", tensors, m)
    layer = linear(tensors, device=device)
    (measured,) = layer_test.measure(layer, reference, [m])
    return measured.passes, diagnose_layer(layer, tensors, reference, m, failed=not measured.passes)


@pytest.mark.parametrize("name", TENSOR_FAULTS)
def test_a_weight_read_wrong_is_named(cpu, name):
    tensors = random_tensors(256, 136, 64, bias=True)
    passes, found = look(tampered_linear(TENSOR_FAULTS[name]), tensors, cpu)
    assert not passes
    assert found.cause.name == name
    # A zero of 16 cannot be stored one larger, so that fault is not put in everywhere.
    assert found.cause.confidence == ("possible" if name == "zero-too-large" else "certain")
    assert found.cause.sentence.endswith(" of the error).")


@pytest.mark.parametrize("fault", CALL_FAULTS)
def test_a_launch_gone_wrong_is_named(cpu, fault):
    tensors = random_tensors(136, 72, 64, bias=True)
    passes, found = look(calling_linear(CALL_FAULTS[fault]), tensors, cpu)
    assert not passes
    assert found.cause.name == fault.split()[0]


@pytest.mark.parametrize("name", ["zero-too-small", "qweight-nibbles-reversed", "scales-shifted+1"])
def test_one_row_at_a_time_is_enough(cpu, name):
    tensors = random_tensors(512, 64, 64)
    passes, found = look(tampered_linear(TENSOR_FAULTS[name]), tensors, cpu, m=1)
    assert not passes
    assert found.cause.name == name


def test_a_right_layer_has_no_cause(cpu):
    passes, found = look(fe.GptqLinear, random_tensors(136, 72, 64, bias=True), cpu)
    assert passes
    assert (found.cause.name, found.cause.sentence) == ("none", "Every error is within its bound.")
    assert np.max(found.overview.values) < 0.1
    assert np.max(np.abs(found.zoom.values)) < 0.1
    assert len(found.histogram) == len(DECADES) + 3
    assert sum(found.histogram) == 16 * 72
    assert sum(found.histogram[-5:]) == 0


def test_what_nothing_explains_is_said_to_be_unknown():
    passes, found = look(fe.GptqLinear, random_tensors(128, 64, 64), FaultyCpu())
    assert not passes
    assert (found.cause.name, found.cause.confidence) == ("unknown", "none")
    assert "in all rows, in all columns" in found.cause.sentence


def test_a_single_wrong_column_is_seen_in_the_map(cpu):
    tensors = random_tensors(256, 256, 64)

    def change(tensors):
        qweight = tensors.qweight.copy()
        qweight[16:24, 100] ^= 0x77777777
        return replace(tensors, qweight=qweight)

    passes, found = look(tampered_linear(change), tensors, cpu)
    assert not passes
    values = np.array(found.overview.values)
    rows, columns = np.nonzero(values > 0.1)
    assert set(columns) == {100 * 48 // 256}
    assert {row * 256 // len(values) // 64 for row in rows} == {2}
    assert "in rows 128-191, in columns 100" in found.cause.sentence


def test_an_error_that_does_not_come_again(cpu):
    tensors = random_tensors(64, 64, 64)
    reference = make_reference("layer", tensors, 4)
    found = diagnose_layer(fe.GptqLinear(tensors, device=cpu), tensors, reference, 4, failed=True)
    assert found.cause.name == "not-reproducible"


def test_symmetric_zeros_are_no_cause_for_a_symmetric_layer(cpu):
    tensors = random_tensors(256, 64, 64, symmetric=True)
    _, found = look(tampered_linear(TENSOR_FAULTS["zeros-dropped"]), tensors, cpu)
    assert found.cause.name == "zeros-dropped"
    _, found = look(tampered_linear(TENSOR_FAULTS["zero-too-small"]), tensors, cpu)
    assert found.cause.name == "zero-too-small"


def test_act_order_that_is_ignored_is_named():
    tensors = random_tensors(256, 64, 64)
    g_idx = np.random.default_rng(0).permutation(np.arange(256) // 64).astype(np.int32)
    ordered = replace(tensors, g_idx=g_idx)
    sample = WeightParts.take(ordered, np.arange(32))
    ignored = tensors.dequantize(np.float32)
    found = diagnose_weight(ignored, ordered.dequantize(np.float32), sample)
    assert (found.name, found.confidence) == ("act-order-ignored", "certain")


def test_a_device_that_ignores_act_order_is_named(cpu):
    g_idx = np.random.default_rng(0).permutation(np.arange(256) // 64).astype(np.int32)
    tensors = replace(random_tensors(256, 64, 64), g_idx=g_idx)
    passes, found = look(fe.GptqLinear, tensors, cpu)
    assert (passes, found.cause.name) == (True, "none")
    passes, found = look(tampered_linear(lambda t: replace(t, g_idx=None)), tensors, cpu)
    assert (passes, found.cause.name) == (False, "act-order-ignored")


@pytest.mark.parametrize("K", [64, 4096])
def test_a_probe_is_of_bounded_cost(cpu, monkeypatch, K):
    launches = []

    def count(right, x, out):
        launches.append(len(x))
        right(x, out)

    tensors = random_tensors(K, 64, 64)
    reference = make_reference("layer", tensors, 4)
    layer = calling_linear(count)(tensors, device=cpu)
    diagnose_layer(layer, tensors, reference, 4, failed=False)
    assert set(launches) == {4}
    assert len(launches) < 110
