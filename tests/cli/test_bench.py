"""`ferrum-numba bench`."""

from __future__ import annotations

import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda.numba_cuda import unusable
from tests.campaigns.layers import random_tensors
from tests.cli.commands import run, run_json
from tests.gptq.fixtures import DOWN_PROJ, Q_PROJ, fixture
from tests.report.checkpoints import eight_bit_layer, write_checkpoint
from tests.report.faulty import FaultyCpu

CHECKPOINT = fixture("gm_v1_sym_g128")
ON_CPU = ("--device", "cpu")
ALIKE = ("--layers", "*.gate_proj", "--layers", "*.up_proj")


def test_a_table_for_each_kind_and_the_sum():
    result = run("bench", CHECKPOINT, *ON_CPU, *ALIKE)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    first = "model.layers.0.mlp.gate_proj"
    assert lines[0] == f"{first} and 1 like it: K 256, N 512, group size 128, v1"
    rows = [line.split() for line in lines if line.endswith(" pass")]
    layer = fe.GptqLinear.load(CHECKPOINT, first, device=fe.open_device("cpu"))
    assert [(row[0], row[-2]) for row in rows] == [
        ("1", layer.artefact(1).name), ("16", layer.artefact(16).name)
    ]  # fmt: skip
    assert lines[-3].startswith("M = 1: ")
    assert " ms a step of 2 layers, " in lines[-2]
    assert "; by the canonical kernel " in lines[-2]
    assert "2 layers: 2 pass; " in lines[-1]


def test_json_is_complete():
    code, found = run_json("bench", CHECKPOINT, *ON_CPU, *ALIKE, "--layers", DOWN_PROJ, "--m", "1")
    assert (code, found["device"]["name"], found["checkpoint"]) == (0, "cpu", str(CHECKPOINT))
    assert [len(result["layers"]) for result in found["results"]] == [1, 2]
    assert found["results"][0]["kind"] == {
        "K": 512, "N": 256, "bits": 4, "group_size": 128, "zero_format": "v1",
        "act_order": False, "bias": False, "dtype": "float16", "symmetric": None,
    }  # fmt: skip
    (step,) = found["steps"]
    assert (step["m"], step["layers"]) == (1, 3)
    each = [len(r["layers"]) * r["timings"][0]["own"]["seconds"] for r in found["results"]]
    assert step["seconds"] == pytest.approx(sum(each))


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_the_console(columns):
    result = run("bench", CHECKPOINT, *ON_CPU, "--layers", Q_PROJ, "--m", "1", columns=columns)
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert result.stdout.count("pass") == 2


def test_a_wrong_result_is_named_with_exit_code_1(monkeypatch):
    monkeypatch.setattr(
        "ferrum_numba.cli.devices.open_device", lambda name, threads=None: FaultyCpu(threads)
    )
    result = run("bench", CHECKPOINT, *ON_CPU, *ALIKE, "--m", "1")
    assert result.exit_code == 1
    assert f"mismatch: {ALIKE[1].replace('*', 'model.layers.0.mlp')}: M = 1: exp" in result.stdout
    assert "2 layers: 0 pass, 2 mismatch; " in result.stdout


def test_what_is_refused_is_left_out_of_the_step_with_exit_code_2(tmp_path):
    wide = {f"model.{name}": eight_bit_layer(128, 64) for name in "ab"}
    layers = {**wide, "c": random_tensors(128, 64, 128, symmetric=True)}
    rules = {"+:model.": {"bits": 8, "group_size": 64}}
    path = write_checkpoint(tmp_path, layers, group_size=128, dynamic=rules)
    result = run("bench", path, *ON_CPU, "--m", "1")
    assert result.exit_code == 2
    assert "\nrefused: model.a, model.b: expected a 4-bit layer, found 8 bits" in result.stdout
    assert " ms a step of 1 of 3 layers, " in result.stdout
    assert "3 layers: 1 pass, 2 refused; " in result.stdout


def test_a_step_of_nothing_is_not_told(tmp_path):
    path = write_checkpoint(tmp_path, {"a": eight_bit_layer(128, 64)}, bits=8)
    result = run("bench", path, *ON_CPU)
    assert (result.exit_code, "M = " in result.stdout) == (2, False)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--m", "0"], 2, "expected numbers from 1 with commas between, found '0'"),
        (["--m", ""], 2, "expected numbers from 1"),
        (["--device", "tpu"], 3, "found 'tpu'"),
    ],
)
def test_wrong_usage(options, code, message):
    result = run("bench", CHECKPOINT, *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_a_checkpoint_that_is_not_there(tmp_path):
    for arguments, message in (((), "Missing argument 'PATH'"), ((tmp_path / "a",), "nothing th")):
        result = run("bench", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


@pytest.mark.skipif(unusable() is None, reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_exit_code_3():
    result = run("bench", CHECKPOINT, "--device", "cuda")
    assert (result.exit_code, result.stdout) == (3, "")


@pytest.mark.gpu
def test_on_a_gpu():
    code, found = run_json("bench", CHECKPOINT, "--device", "cuda")
    assert (code, found["steps"][0]["layers"]) == (0, 7)
    assert {result["verdict"] for result in found["results"]} == {"pass"}
    assert found["steps"][0]["numpy_seconds"] is None


def test_a_whole_model() -> None:
    model = fixture("models/llama31_rope")
    whole = ("bench", model, *ON_CPU, "--model")
    code, found = run_json(*whole, "--batch", "1,2", "--context", "5")
    rows = found["timings"]
    assert code == 0
    assert [(row["batch"], row["context"]) for row in rows] == [(None, 5), (1, 5), (2, 5)]
    assert all(row["seconds"] > 0 for row in rows)
    assert {row["bandwidth_share"] for row in rows} == {None}
    refused = run(*whole, "--m", "3")
    assert refused.exit_code == 2
    assert "--m: only without --model" in refused.output


@pytest.mark.gpu
def test_a_whole_model_on_a_gpu() -> None:
    whole = ("bench", fixture("models/llama31_rope"), "--device", "cuda", "--model")
    _, found = run_json(*whole, "--context", "5")
    assert all(0 < row["bandwidth_share"] < 1.2 for row in found["timings"])
    assert "of its bandwidth" in run(*whole, "--context", "5").stdout
