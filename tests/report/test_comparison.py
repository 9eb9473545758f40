"""Comparing checkpoints and devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.report import all_layers, compare_checkpoints, compare_devices
from tests.campaigns.layers import random_tensors
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import TENSOR_FAULTS, FaultyCpu


@pytest.fixture
def checkpoints(tmp_path):
    """make(layers of A, layers of B) -> both, opened."""

    def make(*sides, **config):
        found = []
        for name, layers in zip("ab", sides, strict=True):
            (tmp_path / name).mkdir()
            found.append(fe.Checkpoint.open(write_checkpoint(tmp_path / name, layers, **config)))
        return found

    return make


def compared(a, b, tolerance=0.0):
    return {found.layer: found for found in compare_checkpoints(a, b, all_layers(a, b), tolerance)}


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(256, 64, 64, symmetric=True)


def test_the_same_weights_in_other_dialects_are_equal(tensors, tmp_path):
    sides = []
    for name, zero_format in (("gptq", "v1"), ("gptq_v2", "v2")):
        (tmp_path / name).mkdir()
        word = 0x88888888 if zero_format == "v2" else 0x77777777
        qzeros = np.full(tensors.qzeros.shape, word, np.uint32).view(np.int32)
        layer = replace(tensors, qzeros=qzeros, zero_format=zero_format)
        folder = write_checkpoint(tmp_path / name, {"a": layer}, checkpoint_format=name)
        sides.append(fe.Checkpoint.open(folder))
    found = compared(*sides)["a"]
    assert (found.verdict, found.equal, found.max_abs_error) == ("pass", 1, 0)
    assert (found.worst_ratio, found.explanation) == (0, None)


@pytest.mark.parametrize("name", ["qweight-nibbles-reversed", "scales-shifted+1", "zeros-dropped"])
def test_a_difference_is_measured_and_its_cause_named(checkpoints, name):
    tensors = random_tensors(256, 64, 64, zero_format="v2")
    other = TENSOR_FAULTS[name](tensors)
    a, b = checkpoints({"a": tensors}, {"a": other}, checkpoint_format="gptq_v2")
    found = compared(a, b)["a"]
    assert found.verdict == "mismatch"
    difference = tensors.dequantize().astype(float) - other.dequantize()
    assert found.max_abs_error == pytest.approx(np.abs(difference).max())
    size = np.linalg.norm(tensors.dequantize().astype(float))
    assert found.relative_error == pytest.approx(np.linalg.norm(difference) / size)
    assert found.equal == (difference == 0).mean()
    assert found.explanation.cause.name == name
    assert "expected equal weights" in found.reason


def test_a_tolerance_lets_small_differences_pass(checkpoints, tensors):
    other = replace(tensors, scales=(tensors.scales * np.float16(1.001)).astype(np.float16))
    a, b = checkpoints({"a": tensors}, {"a": other})
    found = compared(a, b, tolerance=0.01)["a"]
    assert found.verdict == "pass"
    assert 0 < found.worst_ratio < 1
    assert found.equal < 1


def test_layers_of_one_side_or_of_another_shape_are_mismatches(checkpoints, tensors):
    narrow = random_tensors(256, 32, 64)
    a, b = checkpoints({"a": tensors, "b": tensors, "c": tensors}, {"b": narrow, "d": tensors})
    found = compared(a, b)
    assert list(found) == ["a", "b", "c", "d"]
    assert {result.verdict for result in found.values()} == {"mismatch"}
    assert found["a"].reason == "B has no layer of this name"
    assert found["b"].reason == "expected the same shape [K, N], found [256, 64] and [256, 32]"
    assert found["d"].reason == "A has no layer of this name"
    assert (found["d"].K, found["d"].N) == (256, 64)


def test_layers_of_other_widths_are_compared(checkpoints):
    config = {"dynamic": {"+:a": {"bits": 8}}}
    a, b = checkpoints({"a": eight_bit_layer(128, 64)}, {"a": eight_bit_layer(128, 64)}, **config)
    assert compared(a, b)["a"].verdict == "pass"


def test_a_damaged_layer_is_refused_and_stops_no_other(checkpoints, tensors):
    damaged = replace(tensors, scales=tensors.scales.copy())
    damaged.scales[1, 2] = np.nan
    a, b = checkpoints({"a": damaged, "b": tensors}, {"a": tensors, "b": tensors})
    found = compared(a, b)
    assert found["a"].verdict == "refused"
    assert "finite" in found["a"].reason
    assert found["b"].verdict == "pass"


def test_two_devices(checkpoints, tensors):
    checkpoint, _ = checkpoints({"a": tensors, "b": tensors}, {"a": tensors})
    cpu = fe.open_device("cpu")
    same = list(compare_devices(checkpoint, ["a", "b"], (cpu, cpu), m=3))
    assert [(found.verdict, found.equal, found.worst_ratio) for found in same] == [
        ("pass", 1, 0)
    ] * 2
    (found,) = compare_devices(checkpoint, ["a"], (cpu, FaultyCpu()), m=3)
    assert found.verdict == "mismatch"
    assert found.worst_ratio > 1
    assert "within two bounds of each other" in found.reason


@pytest.mark.gpu
def test_the_gpu_against_the_cpu(checkpoints, tensors):
    checkpoint, _ = checkpoints({"a": tensors}, {"a": tensors})
    devices = fe.open_device("cpu"), fe.open_device("cuda")
    (found,) = compare_devices(checkpoint, ["a"], devices, m=17)
    assert found.verdict == "pass"
