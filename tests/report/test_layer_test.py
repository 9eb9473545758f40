"""Layer tests: what is measured, and what passes, mismatches or is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

import ferrum_numba as fe
from ferrum_numba import kernels, report
from ferrum_numba.devices.cpu import CpuDevice
from ferrum_numba.report import layer_test
from ferrum_numba.report.reference import make_reference
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import FIXTURES, copy_of, edit_tensors, fixture
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import FaultyCpu, calling_linear, tampered_linear

Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.0.mlp.down_proj"


@pytest.fixture
def cpu():
    return fe.open_device("cpu")


def by_name(results):
    return {result.layer: result for result in results}


def verify_all(checkpoint, *devices, **plan):
    jobs = [(name, report.Plan(**plan)) for name in report.select_layers(checkpoint, [])]
    return by_name(report.verify_layers(checkpoint, jobs, devices))


def measure(tensors, device, m, seed=0):
    layer = fe.GptqLinear(tensors, device=device)
    (measured,) = layer_test.measure(layer, make_reference("layer", tensors, m, seed=seed), [m])
    return measured


# Pass


@pytest.mark.parametrize("name", ["gm_v1_sym_g128", "gm_v1_sym_g64_actorder_bias"])
def test_every_layer_of_a_real_checkpoint_passes(device, name):
    checkpoint = fe.Checkpoint.open(fixture(name))
    results = verify_all(checkpoint, device, m_values=(1, 3, 65))
    assert results.keys() == set(checkpoint.layers)
    for result in results.values():
        spec = checkpoint.layers[result.layer]
        assert (result.K, result.N, result.bits) == (spec.K, spec.N, 4)
        assert result.group_size == spec.group_size
        assert result.zero_format == spec.zero_format
        assert (result.act_order, result.bias) == (spec.act_order, spec.bias)
        assert (result.verdict, result.reason, result.explanation) == ("pass", "", None)
        assert (result.device, result.kernel, result.reference) == (device.name, None, "float32")
        assert [measured.m for measured in result.measurements] == [1, 3, 65]
        assert all(measured.seconds > 0 for measured in result.measurements)
        assert all(
            measured.relative_error <= measured.tolerance for measured in result.measurements
        )
        assert 0 < result.worst_ratio <= 1
        assert result.max_abs_error == max(each.max_abs_error for each in result.measurements)


def test_errors_are_those_of_the_layer(cpu):
    tensors = random_tensors(136, 72, 64, bias=True, seed=4)
    measured = measure(tensors, cpu, 5, seed=11)
    x = np.random.default_rng(11).standard_normal((5, 136), np.float32).astype(np.float16)
    y = fe.GptqLinear(tensors, device=cpu)(x).astype(np.float64)
    expected = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    expected += tensors.bias.astype(np.float64)
    assert measured.max_abs_error == pytest.approx(np.abs(y - expected).max(), abs=1e-5)
    relative = np.linalg.norm(y - expected) / np.linalg.norm(expected)
    assert measured.relative_error == pytest.approx(relative, rel=1e-2)
    assert measured.kernel in kernels.names()


def test_the_seed_makes_x(cpu):
    tensors = random_tensors(64, 64, 64)
    errors = [measure(tensors, cpu, 4, seed).max_abs_error for seed in (1, 1, 2)]
    assert errors[0] == errors[1] != errors[2]


def test_exact_zeros_have_no_error(cpu):
    tensors = random_tensors(64, 64, 64)
    tensors.scales[:] = 0
    measured = measure(tensors, cpu, 2)
    assert (measured.max_abs_error, measured.relative_error, measured.share) == (0, 0, 0)
    assert measured.passes


@pytest.mark.parametrize("name", ["ag_v1_sym_g64_bf16scales", "gm_v2_asym_gm1"])
def test_bfloat16(device, name):
    results = verify_all(
        fe.Checkpoint.open(fixture(name)), device, m_values=(1, 65), dtype="bfloat16", explain=True
    )
    for result in results.values():
        assert (result.verdict, result.dtype) == ("pass", "bfloat16")
        assert result.explanation.cause.name == "none"
        assert 2e-4 < result.relative_error < 4e-3


def test_a_kernel_by_name(cpu):
    checkpoint = fe.Checkpoint.open(fixture("gm_v2_sym_g128"))
    name = kernels.canonical(0).name
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, report.Plan((3,), kernel=name))
    assert (result.verdict, result.kernel, result.measurements[0].kernel) == ("pass", name, name)


def test_layers_that_pass_are_explained_when_asked(cpu):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, report.Plan((2, 3), explain=True))
    assert (result.verdict, result.explanation.m) == ("pass", 3)
    assert result.explanation.cause.name == "none"


# An oracle


@pytest.mark.parametrize("name", FIXTURES)
def test_the_producers_own_results(cpu, name):
    path = fixture(name)
    if name.startswith("ag_"):  # its oracle is of bfloat16 alone
        with pytest.raises(fe.CheckpointError, match=r"expected an oracle's tensors, \*\.y_f32"):
            report.Oracle.open(path / "oracle.safetensors")
        return
    oracle = report.Oracle.open(path / "oracle.safetensors")
    checkpoint = fe.Checkpoint.open(path)
    results = verify_all(checkpoint, cpu, m_values=(1, 7), oracle=oracle)
    for result in results.values():
        assert (result.verdict, result.reference, result.note) == ("pass", "oracle", "")


def stored(tmp_path, **tensors):
    save_file(tensors, tmp_path / "oracle.safetensors")
    return report.Oracle.open(tmp_path / "oracle.safetensors")


def test_a_layer_that_the_oracle_lacks_falls_back_and_says_so(cpu, tmp_path):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    oracle = stored(tmp_path, **{f"{DOWN_PROJ}.dequant": checkpoint.load(DOWN_PROJ).dequantize()})
    results = verify_all(checkpoint, cpu, m_values=(2,), oracle=oracle)
    assert (results[DOWN_PROJ].reference, results[DOWN_PROJ].note) == ("oracle", "")
    assert results[Q_PROJ].reference == "float32"
    assert results[Q_PROJ].note.startswith("oracle.safetensors has no entry: compared with the own")


def test_an_oracle_of_another_shape_is_refused(cpu, tmp_path):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    oracle = stored(tmp_path, **{f"{Q_PROJ}.dequant": np.ones((8, 8), np.float16)})
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, report.Plan(oracle=oracle))
    assert result.verdict == "refused"
    assert "q_proj.dequant: expected F16 [256, 384]" in result.reason


def test_a_label_that_the_oracle_contradicts(cpu, tmp_path):
    tensors = random_tensors(128, 64, 64, zero_format="v2")
    right = replace(tensors, zero_format="v1").dequantize()
    folder = write_checkpoint(tmp_path, {"a": tensors}, checkpoint_format="gptq_v2")
    oracle = stored(tmp_path, **{"a.dequant": right})
    (tmp_path / "oracle.safetensors").unlink()
    save_file({"a.dequant": right}, tmp_path / "oracle.st")
    checkpoint = fe.Checkpoint.open(folder)
    oracle = report.Oracle.open(tmp_path / "oracle.st")
    result = report.verify_layer(checkpoint, "a", cpu, report.Plan((2,), oracle=oracle))
    assert result.verdict == "mismatch"
    cause = result.explanation.cause
    assert cause.name == "oracle-zero-too-large"
    assert cause.sentence.startswith("The device computes what the tensors say, and the oracle has")


STORED_FAULTS = {
    "zero-too-large": lambda x, w, b: x @ (w - 0.01) + b,  # scales are 0.01
    "qweight-nibbles-reversed": lambda x, w, b: (
        x @ w.reshape(-1, 8, w.shape[1])[:, ::-1].reshape(w.shape) + b
    ),
    "bias-missing": lambda x, w, b: x @ w,
    "bias-added": lambda x, w, b: x @ w + 3 * b + 1,
    "differs": lambda x, w, b: np.sin(np.arange(5 * w.shape[1])).reshape(5, -1),
}


@pytest.mark.parametrize("fault", STORED_FAULTS)
@pytest.mark.parametrize("m", [1, 5])
def test_a_stored_output_that_the_tensors_contradict(cpu, tmp_path, m, fault):
    tensors = random_tensors(128, 192, 64, zero_format="v2", bias=True, seed=3)
    tensors = replace(tensors, scales=np.full_like(tensors.scales, 0.01))
    folder = write_checkpoint(tmp_path, {"a": tensors}, checkpoint_format="gptq_v2")
    x = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float16)
    y = STORED_FAULTS[fault](x.astype(np.float32), tensors.dequantize(np.float32), tensors.bias)
    save_file({"x_128": x, "a.y_f32": y.astype(np.float32)}, tmp_path / "oracle.st")
    plan = report.Plan((m, 5), oracle=report.Oracle.open(tmp_path / "oracle.st"))
    result = report.verify_layer(fe.Checkpoint.open(folder), "a", cpu, plan)
    assert result.verdict == "mismatch"
    assert result.explanation.cause.name == f"oracle-{fault}", result.explanation.cause


# Mismatch


def test_wrong_results_are_a_mismatch():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, FaultyCpu(), report.Plan((2, 3)))
    assert result.verdict == "mismatch"
    assert result.reason.startswith("M = 2: expected a relative error of at most ")
    assert result.relative_error > 1e-2
    assert len(result.measurements) == 2
    assert result.explanation is not None


def test_one_wrong_element_is_not_hidden_by_the_norm(cpu, monkeypatch):
    def call(right, x, out):
        right(x, out)
        out[40, 7] += np.float16(0.02)

    monkeypatch.setattr(layer_test, "GptqLinear", calling_linear(call))
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, report.Plan((64,)))
    (measured,) = result.measurements
    assert result.verdict == "mismatch"
    assert measured.relative_error < measured.tolerance
    assert measured.worst_element == (40, 7)
    assert "found one that is off by" in result.reason
    assert result.reason.endswith("in row 40, column 7")


def test_an_element_that_is_never_written_is_a_mismatch(cpu, monkeypatch):
    careless = calling_linear(lambda right, x, out: right(x[:-1], out[:-1]))
    monkeypatch.setattr(layer_test, "GptqLinear", careless)
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu, report.Plan((4,)))
    assert result.verdict == "mismatch"
    assert "M = 4: expected finite outputs, found NaN" in result.reason
    assert math.isnan(result.relative_error)
    assert math.isnan(result.max_abs_error)
    assert math.isnan(result.worst_ratio)
    assert "in row 3 of all columns" in result.explanation.cause.sentence


def test_a_launch_that_breaks_off_is_a_mismatch(cpu, monkeypatch):
    def call(right, x, out):
        raise fe.LaunchError("cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(layer_test, "GptqLinear", calling_linear(call))
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, cpu)
    assert result.verdict == "mismatch"
    assert result.reason == "cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS"
    assert result.measurements == ()
    assert math.isnan(result.relative_error)


def test_a_test_that_fails_itself_stops_no_other(cpu, monkeypatch):
    def tamper(tensors):
        if tensors.K == 512:
            raise MemoryError("no room")
        return tensors

    monkeypatch.setattr(layer_test, "GptqLinear", tampered_linear(tamper))
    results = verify_all(fe.Checkpoint.open(fixture("gm_v1_sym_g128")), cpu, m_values=(1,))
    assert results[DOWN_PROJ].verdict == "error"
    assert results[DOWN_PROJ].reason == "MemoryError: no room"
    assert results[Q_PROJ].verdict == "pass"


def test_a_verdict_stands_where_its_cause_cannot_be_found(monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(layer_test, "diagnose_layer", fail)
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    result = report.verify_layer(checkpoint, Q_PROJ, FaultyCpu(), report.Plan((2,)))
    assert (result.verdict, result.explanation) == ("mismatch", None)
    assert result.note == "the layer could not be looked into: MemoryError: no room"


# Refused


def test_a_layer_that_is_refused_stops_no_other(cpu, tmp_path):
    layers = {"a": eight_bit_layer(128, 64), "b": random_tensors(128, 64, 64)}
    folder = write_checkpoint(tmp_path, layers, dynamic={"+:a": {"bits": 8}})
    results = verify_all(fe.Checkpoint.open(folder), cpu)
    assert (results["a"].verdict, results["a"].bits) == ("refused", 8)
    assert results["a"].reason.startswith("expected a 4-bit layer, found 8 bits")
    assert results["b"].verdict == "pass"


def test_a_damaged_layer_stops_no_other(cpu, tmp_path):
    folder = copy_of("gm_v1_sym_g128", tmp_path)

    def damage(tensors):
        tensors[f"{Q_PROJ}.scales"][0, 5] = np.nan

    edit_tensors(folder / "model.safetensors", damage)
    results = verify_all(fe.Checkpoint.open(folder), cpu, m_values=(1,))
    assert results.pop(Q_PROJ).verdict == "refused"
    assert {result.verdict for result in results.values()} == {"pass"}


def test_a_layer_whose_headers_are_wrong_is_refused(cpu, tmp_path):
    folder = copy_of("gm_v1_sym_g128", tmp_path)
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop(f"{Q_PROJ}.scales"))
    results = verify_all(fe.Checkpoint.open(folder), cpu, m_values=(1,))
    damaged = results.pop(Q_PROJ)
    assert (damaged.verdict, damaged.K, damaged.measurements) == ("refused", 0, ())
    assert "scales" in damaged.reason
    assert {result.verdict for result in results.values()} == {"pass"}


def test_outputs_that_float16_cannot_hold_are_refused():
    tensors = random_tensors(512, 64, 64)
    tensors.scales[:] = 1000
    with pytest.raises(fe.CheckpointError, match=r"scales: expected outputs within float16"):
        make_reference("layer", tensors, 1)


# Selection, and several devices


def test_patterns_select_layers_in_the_checkpoints_order():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    assert report.select_layers(checkpoint, []) == list(checkpoint.layers)
    assert report.select_layers(checkpoint, ["*.q_proj", "*.down_*"]) == [DOWN_PROJ, Q_PROJ]


def test_a_pattern_that_matches_nothing_is_an_error():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    for pattern, hint in {
        "q_proj": r"did you mean model\.layers\.0\.self_attn\.q_proj\?$",
        "*.q_prj": r"did you mean model\.layers\.0\.self_attn\.q_proj, ",
        "*.experts.*": r"the first of its 7 is model\.layers\.0\.mlp\.down_proj$",
    }.items():
        with pytest.raises(fe.CheckpointError, match=f"found '{re.escape(pattern)}'; {hint}"):
            report.select_layers(checkpoint, ["*.q_proj", pattern])


@pytest.mark.parametrize("m_values", [(), (4, 0)])
def test_m_values_are_checked(m_values):
    with pytest.raises(fe.AbiError, match=r"m_values: expected numbers of rows"):
        report.Plan(m_values)


def test_layers_are_spread_over_devices():
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g64_sharded"))
    devices = [CpuDevice(1), CpuDevice(1), CpuDevice(1)]
    for number, device in enumerate(devices):  # as if there were several
        device.name = f"cpu:{number}"
    results = verify_all(checkpoint, *devices, m_values=(1,))
    assert set(results) == set(checkpoint.layers)
    assert {result.verdict for result in results.values()} == {"pass"}
    assert len({result.device for result in results.values()}) > 1


# A thread may be interrupted between the opening of a file and the `with` that closes it; the file
# is closed with its last reference then, of which Python warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_has_had_enough_may_stop(cpu):
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    jobs = [(name, report.Plan((1,))) for name in checkpoint.layers]
    results = report.verify_layers(checkpoint, jobs, [cpu])
    assert next(results).verdict == "pass"
    results.close()
