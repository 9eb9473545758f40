"""`make`: checkpoints that verify, faults, dense models, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_numba.gptq import Checkpoint
from ferrum_numba.gptq.faults import FAULTS
from tests.cli.commands import run, run_json

Q_PROJ = "model.layers.0.self_attn.q_proj"


def test_what_it_makes_verifies(tmp_path: Path) -> None:
    code, made = run_json("make", tmp_path / "new", "--layers", 1, "--asym", "--format", "v2")
    assert code == 0
    seconds = made.pop("seconds")
    assert seconds > 0
    assert made == {
        "path": str(tmp_path / "new"),
        "layers": 7,
        "nbytes": (tmp_path / "new" / "model.safetensors").stat().st_size,
        "zero_format": "v2",
        "fault": None,
        "damaged_layer": None,
    }
    result = run("verify", tmp_path / "new", "--device", "cpu", "--m", 1)
    assert result.exit_code == 0, result.output


def test_every_option_reaches_the_checkpoint(tmp_path: Path) -> None:
    options = "--layers 1 --bits 8 --group-size 64 --act-order --bias --dtype bfloat16 --lm-head"
    assert run("make", tmp_path, *options.split(), "--shards", 2, "--seed", 3).exit_code == 0
    checkpoint = Checkpoint.open(tmp_path)
    spec = checkpoint.layers[Q_PROJ]
    assert (spec.bits, spec.group_size, spec.act_order, spec.bias) == (8, 64, True, True)
    assert (spec.scales_dtype, spec.zero_format) == ("bfloat16", "v1")
    assert "lm_head" in checkpoint.layers
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_mixed_layers_only_and_producers(tmp_path: Path) -> None:
    run("make", tmp_path / "a", "--layers", 1, "--mixed", "--layers-only")
    checkpoint = Checkpoint.open(tmp_path / "a")
    assert {spec.bits for spec in checkpoint.layers.values()} == {4, 8}
    run("make", tmp_path / "b", "--layers", 1, "--producer", "autogptq")
    assert Checkpoint.open(tmp_path / "b").quantization.zero_format == "v1_autogptq"


def test_the_table(tmp_path: Path) -> None:
    result = run("make", tmp_path / "new", "--layers", 1, "--fault", "missing-scales")
    assert result.exit_code == 0
    assert "7 quantised, zeros of format v1_gptqmodel" in result.stdout
    assert f"missing-scales: no scales ({Q_PROJ})" in result.stdout
    checkpoint = Checkpoint.open(tmp_path / "new")
    assert list(checkpoint.problems) == [Q_PROJ]


def test_faults_are_listed() -> None:
    result = run("make", "--list-faults")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(FAULTS)


def test_a_dense_model(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float16)
    dense = tmp_path / "dense.safetensors"
    save_file({"a.weight": weight}, dense)
    code, made = run_json("make", tmp_path / "new", "--from", dense, "--group-size", 32, "--asym")
    assert (code, made["layers"]) == (0, 1)
    loaded = Checkpoint.open(tmp_path / "new").load("a")
    error = np.abs(loaded.dequantize().astype(np.float32) - weight.T)
    assert error.max() <= 0.51 * loaded.scales.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "gone"], "gone: expected a checkpoint directory or a .safetensors file"),
        (["--from", "gone", "--bits", "8"], "--bits: not with --from"),
        (["--from", "gone", "--act-order"], "--act-order: not with --from"),
        (["--fault", "none"], "expected a name that --list-faults shows, found 'none'"),
        (["--producer", "autogptq", "--format", "v2"], "producer: expected gptqmodel for format"),
        (["--group-size", "0"], "group_size: expected a positive number"),
        (["--bits", "5"], "'5' is not one of"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run("make", tmp_path / "new", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_directory_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "note").touch()
    result = run("make", tmp_path)
    assert result.exit_code == 2
    assert "expected no such path, or an empty directory" in result.stderr
