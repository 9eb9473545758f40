"""Timing a checkpoint's layers."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.report import KindResult, layer_kinds, layer_timing, select_layers, time_layers
from ferrum_numba.report.layer_timing import steps
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import DOWN_PROJ, Q_PROJ, fixture
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import TENSOR_FAULTS, FaultyCpu, tampered_linear


def linear(N: int, **options) -> fe.GptqTensors:
    """A layer that takes the kernels that others take, too: each costs time to compile."""
    return random_tensors(128, N, 128, symmetric=True, **options)


def time_all(path, device, m_values=(1,), patterns=()) -> list[KindResult]:
    checkpoint = fe.Checkpoint.open(path)
    return list(time_layers(checkpoint, select_layers(checkpoint, patterns), device, m_values))


@pytest.fixture
def one_layer(tmp_path):
    """The path of a checkpoint that has a single layer."""
    return write_checkpoint(tmp_path, {"a": linear(64)}, group_size=128)


def test_one_layer_of_each_kind_is_timed(tmp_path, device):
    alike = [linear(64, seed=seed) for seed in range(2)]
    wider = linear(72)
    layers = {"a": alike[0], "b": wider, "c": alike[1]}
    path = write_checkpoint(tmp_path, layers, group_size=128)
    first, second = time_all(path, device, (1, 70))
    assert (first.layers, second.layers) == (("a", "c"), ("b",))
    assert {first.verdict, second.verdict} == {"pass"}
    for result, tensors in ((first, alike[0]), (second, wider)):
        layer = fe.GptqLinear.load(path, result.layers[0], device=device)
        for timing, m in zip(result.timings, (1, 70), strict=True):
            assert timing.own.m == timing.canonical.m == m
            assert timing.own.kernel == layer.artefact(m).name
            assert timing.canonical.kernel == kernels.canonical(layer.weight.zero_bias).name
            nbytes = tensors.nbytes + 2 * m * (tensors.K + tensors.N)
            assert timing.bytes_per_second * timing.own.seconds == pytest.approx(nbytes)
            flop = 2 * m * tensors.K * tensors.N
            assert timing.flop_per_second * timing.own.seconds == pytest.approx(flop)
            assert (timing.numpy_seconds is None) == (device.name != "cpu")


def test_a_step_is_all_layers(one_layer):
    (result,) = time_all(one_layer, fe.open_device("cpu"), (1, 2))
    other = KindResult(result.kind, ("b", "c"), result.timings, "pass", "")
    refused = KindResult(None, ("d",), (), "refused", "")
    found = steps([result, other, refused], (1, 2))
    for step, timing, m in zip(found, result.timings, (1, 2), strict=True):
        assert (step.m, step.layers) == (m, 3)
        assert step.seconds == pytest.approx(3 * timing.own.seconds)
        assert step.canonical_seconds == pytest.approx(3 * timing.canonical.seconds)
        assert step.numpy_seconds == pytest.approx(3 * timing.numpy_seconds)
        assert step.steps_per_second == pytest.approx(1 / step.seconds)


def test_layers_in_activation_order_have_a_canonical_kernel_of_their_own(device, monkeypatch):
    monkeypatch.setenv("FERRUM_TRITON_INT4", "1")
    results = time_all(fixture("gm_v1_sym_g64_actorder_bias"), device, patterns=[Q_PROJ])
    (kind,), (timing,) = [r.kind for r in results], results[0].timings
    assert (kind.act_order, kind.symmetric, results[0].verdict) == (True, True, "pass")
    assert timing.canonical.kernel == kernels.act_order(1).name
    assert timing.own == timing.canonical


def test_the_dtype_is_that_of_the_scales(device, monkeypatch):
    monkeypatch.setenv("FERRUM_TRITON_INT4", "1")
    results = time_all(fixture("ag_v1_sym_g64_bf16scales"), device, patterns=[DOWN_PROJ])
    assert [(r.kind.dtype, r.verdict) for r in results] == [("bfloat16", "pass")]
    assert results[0].timings[0].canonical.kernel == kernels.canonical(1, "bfloat16").name


def test_kinds_are_told_apart_by_what_a_kernel_sees(tmp_path):
    plain = linear(64)
    layers = {"plain": plain, "bias": linear(64, bias=True)}
    checkpoint = fe.Checkpoint.open(write_checkpoint(tmp_path, layers, group_size=128))
    assert list(layer_kinds(checkpoint, checkpoint.layers).values()) == [["bias"], ["plain"]]


def test_what_is_not_computed_is_refused_with_the_reason(tmp_path):
    layers = {"a": eight_bit_layer(128, 64), "b": linear(64)}
    rules = {"+:a": {"bits": 8, "group_size": 64}}
    path = write_checkpoint(tmp_path, layers, group_size=128, dynamic=rules)
    results = time_all(path, fe.open_device("cpu"))
    assert [(r.layers, r.verdict, len(r.timings)) for r in results] == [
        (("a",), "refused", 0), (("b",), "pass", 1)
    ]  # fmt: skip
    assert results[0].reason.startswith("expected a 4-bit layer, found 8 bits")


# Wrong results


def test_a_device_that_computes_wrong(one_layer):
    (result,) = time_all(one_layer, FaultyCpu())
    assert result.verdict == "mismatch"
    assert result.reason.startswith("M = 1: expected a relative error of at most")
    assert result.reason.endswith(f"; by {result.timings[0].own.kernel}")


@pytest.mark.parametrize("m", [1, 130])
def test_a_wrong_weight(one_layer, m, monkeypatch):
    wrong = tampered_linear(TENSOR_FAULTS["n-tail-missing"])
    monkeypatch.setattr(layer_timing, "GptqLinear", wrong)
    assert time_all(one_layer, fe.open_device("cpu"), (m,))[0].verdict == "pass"  # N has no tail
    wrong = tampered_linear(TENSOR_FAULTS["qweight-nibbles-reversed"])
    monkeypatch.setattr(layer_timing, "GptqLinear", wrong)
    assert time_all(one_layer, fe.open_device("cpu"), (m,))[0].verdict == "mismatch"


def test_rows_that_are_not_written_and_rows_of_another_tile(one_layer, monkeypatch):
    """With more rows than the reference has of its own."""

    class LastRowLeftOut(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            return super().__call__(x[:-1], out=out[:-1], stream=stream)

    class AnotherTile(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            return super().__call__(np.roll(x, 64, axis=0), out=out, stream=stream)

    for wrong, found in ((LastRowLeftOut, "expected finite outputs"), (AnotherTile, "relative")):
        monkeypatch.setattr(layer_timing, "GptqLinear", wrong)
        (result,) = time_all(one_layer, fe.open_device("cpu"), (130,))
        assert result.verdict == "mismatch"
        assert found in result.reason


def test_a_launch_that_is_broken_off(one_layer, monkeypatch):
    class Broken(fe.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            raise fe.LaunchError("it stands still")

    monkeypatch.setattr(layer_timing, "GptqLinear", Broken)
    (result,) = time_all(one_layer, fe.open_device("cpu"))
    assert (result.verdict, result.reason, result.timings) == ("mismatch", "it stands still", ())
