"""`ferrum-numba verify`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ferrum_numba import kernels
from ferrum_numba.cli import clock
from ferrum_numba.devices.cuda.numba_cuda import unusable
from ferrum_numba.report import layer_test
from tests.campaigns.layers import random_tensors
from tests.cli.commands import run, run_json, run_python
from tests.gptq.fixtures import fixture
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
    assert all("v1" in row and row.rstrip().endswith("pass") for row in rows)
    assert "7 layers: 7 pass; worst relative error" in result.stdout


def test_any_mismatch_is_exit_code_1(faulty):
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--layers", Q_PROJ)
    assert result.exit_code == 1
    assert "1 layer: 0 pass, 1 mismatch" in result.stdout
    assert f"mismatch: {Q_PROJ}: M = 1: expected a relative error of at most" in result.stdout
    assert f"mismatch: {Q_PROJ}: No known fault explains it. The weight is wrong" in result.stdout


def test_a_mismatch_counts_more_than_what_is_refused(faulty, tmp_path):
    layers = {"a": eight_bit_layer(128, 64), "b": random_tensors(128, 64, 64)}
    folder = write_checkpoint(tmp_path, layers, dynamic={"+:a": {"bits": 8}})
    code, found = run_json("verify", folder, *ON_CPU)
    assert [result["verdict"] for result in found["results"]] == ["refused", "mismatch"]
    assert code == 1


def test_what_is_refused_is_named_with_exit_code_2(tmp_path):
    layers = {f"model.{name}": eight_bit_layer(128, 64) for name in "abcdefg"}
    folder = write_checkpoint(tmp_path, layers, bits=8)
    result = run("verify", folder, *ON_CPU)
    assert result.exit_code == 2
    (reason,) = (line for line in result.stdout.splitlines() if line.startswith("refused: "))
    assert reason.startswith("refused: model.a, model.b, model.c and 4 more: expected a 4-bit")
    assert "7 layers: 0 pass, 7 refused; " in result.stdout


def test_bad_input_is_exit_code_2(tmp_path):
    for path, message in (
        (tmp_path / "nowhere", "found nothing there"),
        (tmp_path, "expected *.safetensors files, found nothing"),
    ):
        result = run("verify", path, *ON_CPU, "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["code"] == "checkpoint-file-missing"
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
        ["--explain", "no.such.layer"],
        ["--oracle", "no.such.file"],
        ["--kernel", "no.such.kernel"],
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
    assert found["devices"][0]["compute_capability"]


# JSON


def test_json_has_everything():
    options = ("--m", "2, 33", "--seed", 5, "--threads", 1, "--layers", "*attn*", *ON_CPU)
    path = fixture("gm_v1_sym_g128")
    code, found = run_json("verify", path, *options)
    assert code == 0
    assert (found["checkpoint"], found["seed"]) == (str(path), 5)
    assert [(d["name"], d["threads"]) for d in found["devices"]] == [("cpu", 1)]
    assert len(found["results"]) == 4
    result = next(r for r in found["results"] if r["layer"] == Q_PROJ)
    assert [result[key] for key in ("K", "N", "bits", "group_size")] == [256, 384, 4, 128]
    assert (result["zero_format"], result["verdict"], result["reason"]) == (
        "v1",
        "pass",
        "",
    )
    assert [measured["m"] for measured in result["measurements"]] == [2, 33]
    summary = found["summary"]
    verdicts = ("layers", "pass", "mismatch", "refused", "error")
    assert [summary[key] for key in verdicts] == [4, 4, 0, 0, 0]
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
    assert ("v1" in words) == (columns >= 100)
    for part in ("0.self_attn.q_proj", "1.mlp.down_proj"):
        assert part in words


def test_a_reason_is_said_once_for_the_layers_that_share_it(tmp_path):
    layers = {f"model.{name}": eight_bit_layer(128, 64) for name in "abcdefg"}
    result = run("verify", write_checkpoint(tmp_path, layers, bits=8), *ON_CPU, columns=60)
    assert " ".join(result.stdout.split()).count("expected a 4-bit layer") == 1


def test_as_a_module_in_a_process_of_its_own():
    path = str(fixture("gm_v1_sym_g32_n136"))
    done = run_python("-m", "ferrum_numba", "verify", path, *ON_CPU)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 layers: 6 pass" in done.stdout


def test_the_device_of_the_environment_is_taken():
    path = str(fixture("gm_v1_sym_g128"))
    done = run_python("-m", "ferrum_numba", "verify", path, "--json", FERRUM_DEVICE="cpu")
    assert (done.returncode, json.loads(done.stdout)["devices"][0]["name"]) == (0, "cpu")


# Devices, kernels and oracles


def test_a_device_counts_once():
    code, found = run_json("verify", fixture("gm_v1_sym_g128"), *ON_CPU, *ON_CPU, "--threads", 1)
    assert (code, [device["name"] for device in found["devices"]]) == (0, ["cpu"])


def test_each_layer_with_each_kernel():
    decode = "w4a16_gptq_gemm_decode.m8n32w8.g128.sm_80"
    options = ("--kernel", kernels.canonical(0).name, "--kernel", decode)
    path = fixture("gm_v2_sym_g128")
    code, found = run_json("verify", path, *ON_CPU, "--m", 1, "--layers", "*.[qk]_proj", *options)
    assert code == 0
    tested = [(result["layer"], result["kernel"]) for result in found["results"]]
    assert len(set(tested)) == 4
    for result in found["results"]:
        assert result["measurements"][0]["kernel"] == result["kernel"]


def test_an_oracle_is_named_and_what_it_lacks_is_noted(tmp_path):
    path = fixture("gm_v1_sym_g128")
    code, found = run_json("verify", path, *ON_CPU, "--oracle", path / "oracle.safetensors")
    assert (code, {result["reference"] for result in found["results"]}) == (0, {"oracle"})
    with safe_open(path / "oracle.safetensors", framework="np") as handle:
        name = f"{Q_PROJ}.y_f32"
        stored = {key: handle.get_tensor(key) for key in (name, "x_256")}
    save_file(stored, tmp_path / "small.safetensors")
    result = run("verify", path, *ON_CPU, "--oracle", tmp_path / "small.safetensors")
    assert result.exit_code == 0
    assert "note: 6 layers: small.safetensors has no entry: compared with the own" in result.stdout


# Files


def test_a_run_is_taken_up_again(tmp_path):
    path, journal = fixture("gm_v1_sym_g128"), tmp_path / "run.jsonl"
    first = run("verify", path, *ON_CPU, "--layers", "*attn*", "--resume", journal)
    assert (first.exit_code, first.stderr) == (0, "")
    assert len(journal.read_text().splitlines()) == 4
    second = run("verify", path, *ON_CPU, "--resume", journal, "--json")
    assert second.stderr.startswith(f"resume: 4 of 7 layers are in {journal}, of this checkpoint")
    assert json.loads(second.stdout)["summary"]["pass"] == 7
    assert len(journal.read_text().splitlines()) == 7
    other = run("verify", path, *ON_CPU, "--resume", journal, "--seed", 1)
    assert (other.exit_code, other.stderr) == (0, "")
    assert len(journal.read_text().splitlines()) == 14


def test_a_mismatch_that_is_taken_from_the_journal_is_one_still(faulty, tmp_path):
    arguments = ("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--layers", Q_PROJ, "--m", 1)
    for _ in range(2):
        result = run(*arguments, "--resume", tmp_path / "run.jsonl")
        assert result.exit_code == 1
        assert "No known fault explains it" in result.stdout


def test_json_lines_begin_anew_each_time(tmp_path):
    file = tmp_path / "run.jsonl"
    for _ in range(2):
        assert run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--jsonl", file).exit_code == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["result"]["layer"] for line in lines}) == len(lines) == 7


def test_junit_and_a_page(faulty, tmp_path):
    pytest.importorskip("jinja2", reason="the report extra is not installed")
    files = ("--junit", tmp_path / "report.xml", "--html", tmp_path / "report.html")
    path = fixture("gm_v1_sym_g128")
    code, found = run_json("verify", path, *ON_CPU, "--layers", "*attn*", "--m", 1, *files)
    assert (code, found["summary"]["mismatch"]) == (1, 4)
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("4", "4")
    html = (tmp_path / "report.html").read_text()
    assert html.count("<details ") == 4
    assert found["devices"][0]["product"] in html


def test_a_page_looks_into_those_that_pass_most_narrowly(tmp_path):
    pytest.importorskip("jinja2", reason="the report extra is not installed")
    page = tmp_path / "report.html"
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--m", 1, "--html", page)
    assert result.exit_code == 0
    assert page.read_text().count("<details ") == 3
    assert "Every error is within its bound." in page.read_text()


def test_layers_that_pass_are_explained_when_asked():
    options = ("--m", 1, "--explain", "*.q_proj", "--explain", "*.k_proj")
    _, found = run_json("verify", fixture("gm_v1_sym_g128"), *ON_CPU, *options)
    explained = [result["layer"] for result in found["results"] if result["explanation"]]
    assert [name.rpartition(".")[2] for name in explained] == ["k_proj", "q_proj"]


def test_a_page_without_the_extra_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr("ferrum_numba.report.page.find_spec", lambda name: None)
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--html", tmp_path / "a.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'pip install "ferrum-numba[report]"' in result.stderr


@pytest.mark.parametrize("option", ["--junit", "--html", "--jsonl", "--resume"])
def test_a_file_that_cannot_be_written_is_exit_code_2(option, tmp_path):
    file = tmp_path / "nowhere" / "file"
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, "--m", 1, option, file)
    assert result.exit_code == 2
    assert str(file) in result.stderr.replace("\n", "")


def test_one_journal_at_a_time(tmp_path):
    files = ("--jsonl", tmp_path / "a", "--resume", tmp_path / "b")
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, *files)
    assert result.exit_code == 2
    assert "--jsonl: not with --resume" in result.stderr


# Plausibility


@pytest.fixture
def implausible(tmp_path):
    """A checkpoint of which one layer was never written, and one has a scale of 0."""
    sound = random_tensors(128, 64, 64)
    scales = sound.scales.copy()
    scales[1, 2] = 0
    layers = {"a": sound, "b": dataclasses.replace(sound, scales=scales)}
    layers["c"] = dataclasses.replace(sound, scales=np.zeros_like(sound.scales))
    return write_checkpoint(tmp_path, layers)


def test_values_that_no_trained_layer_has_are_warned_of_by_name(implausible):
    result = run("verify", implausible, *ON_CPU, "--m", 1)
    assert result.exit_code == 0
    assert "warning: b: zero-scales: expected scales other than 0 where levels" in result.stdout
    assert "warning: c: all-zero: expected weights, found 128 x 64 zeros" in result.stdout
    assert "3 layers: 3 pass; " in result.stdout
    assert "; 2 warnings; " in result.stdout
    _, found = run_json("verify", implausible, *ON_CPU, "--m", 1)
    assert [len(result["warnings"]) for result in found["results"]] == [0, 1, 1]
    assert found["summary"]["warnings"] == 2


def test_strict_fails_for_a_warning(implausible, tmp_path):
    assert run("verify", implausible, *ON_CPU, "--m", 1, "--strict").exit_code == 1
    assert run("verify", implausible, *ON_CPU, "--m", 1, "--strict", "--layers", "a").exit_code == 0
    journal = tmp_path / "lines"
    run("verify", implausible, *ON_CPU, "--m", 1, "--jsonl", journal)
    options = ("--m", 1, "--strict", "--resume", journal)
    assert run("verify", implausible, *ON_CPU, *options).exit_code == 1
    junit = tmp_path / "junit.xml"
    run("verify", implausible, *ON_CPU, "--m", 1, "--junit", junit)
    assert "zero-scales: expected" in junit.read_text()


def test_a_layer_that_is_refused_is_warned_of_too(tmp_path):
    sound = random_tensors(128, 64, 64)
    huge = dataclasses.replace(sound, scales=np.full_like(sound.scales, 4000))
    result = run("verify", write_checkpoint(tmp_path, {"a": huge}), *ON_CPU)
    assert "refused: a: scales: expected outputs within float16" in result.stdout
    assert "warning: a: absurd-scales" in result.stdout


def test_a_g_idx_of_zeros_is_ignored_when_asked(tmp_path):
    layer = dataclasses.replace(random_tensors(128, 64, 64), g_idx=np.zeros(128, np.int32))
    folder = write_checkpoint(tmp_path, {"a": layer})
    result = run("verify", folder, *ON_CPU, "--m", 1)
    assert result.exit_code == 2
    assert "--g-idx ignore" in result.stdout
    assert run("verify", folder, *ON_CPU, "--m", 1, "--g-idx", "ignore").exit_code == 0


def test_layers_that_the_index_does_not_name_are_mentioned(tmp_path):
    layer = random_tensors(128, 64, 64)
    folder = write_checkpoint(tmp_path, {"a": layer, "b": layer})
    index = {"weight_map": {f"a.{part}": "model.safetensors" for part in ("qweight", "qzeros")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    result = run("verify", folder, *ON_CPU, "--m", 1)
    assert "1 layer: 1 pass" in result.stdout
    assert result.stderr.startswith("note: b: expected layers that the index names, found that")
    assert "left out (--unindexed tests them)" in result.stderr
    asked = run("verify", folder, *ON_CPU, "--m", 1, "--unindexed")
    assert "2 layers: 2 pass" in asked.stdout
    assert asked.stderr == ""
    assert "note: 1 layer: the index does not name it" in asked.stdout


# Remedies and time


def test_remedies_are_the_command_lines(tmp_path):
    layer = random_tensors(128, 64, 64, symmetric=True, zero_format="v2")
    folder = write_checkpoint(tmp_path, {"a": layer}, sym=True)
    result = run("verify", folder, *ON_CPU, "--m", 1)
    assert "open with --zero-format v2, or with --zero-format v1" in result.stdout
    assert "Checkpoint.open" not in result.output
    (folder / "quantize_config.json").unlink()
    result = run("verify", folder, *ON_CPU, "--m", 1)
    assert "say what it would: --group-size 128 --zero-format v1" in result.stderr


def test_time_is_all_that_the_command_took(monkeypatch, tmp_path):
    """Each step is made to take a second of a clock that only they move."""
    pytest.importorskip("jinja2", reason="the report extra is not installed")
    seconds = [0.0]

    def slowly(module, name):
        module = importlib.import_module(f"ferrum_numba.cli.{module}")
        step = getattr(module, name)

        def slow(*arguments, **options):
            seconds[0] += 1
            return step(*arguments, **options)

        monkeypatch.setattr(module, name, slow)

    slowly("verify", "find_devices")
    slowly("verification", "verify_layers")
    slowly("verify", "write_page")
    monkeypatch.setattr(clock.time, "perf_counter", lambda: seconds[0])
    options = ("--m", 1, "--html", tmp_path / "page.html")
    result = run("verify", fixture("gm_v1_sym_g128"), *ON_CPU, *options)
    assert result.stdout.rstrip().endswith("; 4.0 s")  # verify_layers twice, the worst once more
    assert "html: looking into the 3 layers that passed most narrowly" in result.stderr
