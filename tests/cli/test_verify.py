"""`ferrum-numba verify`."""

from __future__ import annotations

import json
import warnings

import pytest

from ferrum_numba.devices.cuda import unusable
from ferrum_numba.report import layer_test
from tests.cli.commands import run, run_json, run_python
from tests.gptq.fixtures import fixture
from tests.layers import random_tensors
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import FaultyCpu

ON_CPU = ("--device", "cpu")
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def faulty(monkeypatch):
    """A machine whose CPU device computes wrong results."""
    monkeypatch.setattr(
        "ferrum_numba.cli.devices.open_device", lambda name, threads=None: FaultyCpu(threads)
    )


# Exit codes


def test_all_pass_is_exit_code_0():
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line for line in result.stdout.splitlines() if line.startswith("model.layers.0.")]
    assert len(rows) == 7
    assert all("v1_gptqmodel" in row and row.rstrip().endswith("pass") for row in rows)
    assert "7 layers: 7 pass; worst relative error" in result.stdout


def test_any_mismatch_is_exit_code_1(faulty):
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--layers", Q_PROJ)
    assert result.exit_code == 1
    assert "1 layer: 0 pass, 1 mismatch" in result.stdout
    assert f"mismatch: {Q_PROJ}: M = 1: expected a relative error of at most" in result.stdout


def test_a_mismatch_counts_more_than_what_is_refused(faulty, tmp_path):
    layers = {"a": eight_bit_layer(128, 64), "b": random_tensors(128, 64, 64)}
    folder = write_checkpoint(tmp_path, layers, dynamic={"+:a": {"bits": 8}})
    code, found = run_json("verify", folder, *ON_CPU)
    assert [result["verdict"] for result in found["results"]] == ["refused", "mismatch"]
    assert code == 1


def test_act_order_is_refused_by_name_with_exit_code_2():
    result = run("verify", fixture("gm_v1_sym_g64_actorder_bias"), *ON_CPU)
    assert result.exit_code == 2
    (reason,) = (line for line in result.stdout.splitlines() if line.startswith("refused: "))
    assert reason.startswith("refused: model.layers.0.mlp.down_proj, ")
    assert " and 4 more: g_idx: the rows are in activation order (act-order)" in reason
    assert "7 layers: 0 pass, 7 refused; " in result.stdout


def test_bad_input_is_exit_code_2(tmp_path):
    for path, message in (
        (tmp_path / "nowhere", "found nothing there"),
        (tmp_path, "expected *.safetensors files, found nothing"),
    ):
        result = run("verify", path, *ON_CPU, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error: {path}: ")
        assert message in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--m", "0"],
        ["--m", "1,two"],
        ["--m", ""],
        ["--seed", "-1"],
        ["--threads", "0"],
        ["--layers", "no.such.layer"],
    ],
)
def test_wrong_options_are_exit_code_2(options):
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert options[1] in result.stderr


@pytest.mark.gpu
def test_threads_are_the_cpus_alone():
    result = run("verify", fixture("gm_v1_sym_g128"), "--device", "cuda", "--threads", 1)
    assert result.exit_code == 2
    assert "--threads: only the CPU device has them" in result.stderr


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
@pytest.mark.parametrize("options", [[], ["--threads", 1]])
def test_a_gpu_that_is_not_here_is_exit_code_3(options):
    result = run("verify", fixture("gm_v1_sym_g128"), "--device", "cuda", *options)
    assert (result.exit_code, result.stdout) == (3, "")


@pytest.mark.gpu
def test_on_a_gpu():
    code, found = run_json("verify", fixture("gm_v1_sym_g128"), "--device", "cuda")
    assert (code, found["summary"]["pass"]) == (0, 7)
    assert found["device"]["compute_capability"]


# JSON


def test_json_has_everything():
    options = ("--m", "2, 33", "--seed", 5, "--threads", 1, "--layers", "*attn*", *ON_CPU)
    path = fixture("gm_v1_sym_g128")
    code, found = run_json("verify", path, *options)
    assert code == 0
    assert (found["checkpoint"], found["seed"]) == (str(path), 5)
    assert (found["device"]["name"], found["device"]["threads"]) == ("cpu", 1)
    assert len(found["results"]) == 4
    result = next(r for r in found["results"] if r["layer"] == Q_PROJ)
    assert [result[key] for key in ("K", "N", "bits", "group_size")] == [256, 384, 4, 128]
    assert (result["zero_format"], result["verdict"], result["reason"]) == (
        "v1_gptqmodel",
        "pass",
        "",
    )
    assert [measured["m"] for measured in result["measurements"]] == [2, 33]
    summary = found["summary"]
    assert [summary[key] for key in ("layers", "pass", "mismatch", "refused")] == [4, 4, 0, 0]
    assert summary["worst_relative_error"] == max(
        measured["relative_error"]
        for result in found["results"]
        for measured in result["measurements"]
    )


def test_nan_is_null_in_json(monkeypatch):
    class Careless(layer_test.GptqLinear):
        def __call__(self, x, *, out=None, stream=None):
            return out

    monkeypatch.setattr(layer_test, "GptqLinear", Careless)
    code, found = run_json("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--layers", Q_PROJ)
    (result,) = found["results"]
    assert (code, result["verdict"]) == (1, "mismatch")
    assert result["measurements"][0]["relative_error"] is None
    assert found["summary"]["worst_relative_error"] is None


# What people see


def test_a_warning_is_a_line_on_standard_error(tmp_path):
    folder = write_checkpoint(tmp_path, {"a": random_tensors(128, 64, 64)}, meta={})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("verify", folder, *ON_CPU, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["summary"]["pass"] == 1
    assert result.stderr.startswith("warning: a.qzeros: stored nibbles of 0xF")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120])
def test_it_fits_the_console(columns):
    result = run("verify", fixture("gm_v1_sym_g64_sharded"), *ON_CPU, columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(line for line in lines if not line.startswith("model.layers."))
    words = " ".join(result.stdout.split())
    assert words.count("pass") == 14 + 1
    for part in ("0.self_attn.q_proj", "1.mlp.down_proj", "v1_gptqmodel"):
        assert part in words


def test_a_reason_is_said_once_for_the_layers_that_share_it():
    result = run("verify", fixture("gm_v1_sym_g64_actorder_bias"), *ON_CPU, columns=60)
    assert " ".join(result.stdout.split()).count("activation order") == 1


def test_as_a_module_in_a_process_of_its_own():
    path = str(fixture("gm_v1_sym_g32_n136"))
    done = run_python("-m", "ferrum_numba", "verify", path, *ON_CPU)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 layers: 6 pass" in done.stdout


def test_the_device_of_the_environment_is_taken():
    path = str(fixture("gm_v1_sym_g128"))
    done = run_python("-m", "ferrum_numba", "verify", path, "--json", FERRUM_DEVICE="cpu")
    assert (done.returncode, json.loads(done.stdout)["device"]["name"]) == (0, "cpu")
