"""Experts that are missing, dense, of other bits, or zero, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint, expert_problems
from ferrum_numba.models import ModelConfig, ModelNames
from tests.cli.commands import run
from tests.models.tiny import KINDS, make_model

LAYER = "model.layers.0.mlp.experts"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A Mixtral whose experts 1, 2 and 3 of layer 0 lack something, and whose 4th is zero."""
    folder = make_model(tmp_path / "model", **KINDS["mixtral"])
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[f"{LAYER}.1.up_proj.{part}"]
        del tensors[f"{LAYER}.2.down_proj.{part}"]
    tensors[f"{LAYER}.2.down_proj.weight"] = np.zeros((64, 96), np.float16)
    tensors[f"{LAYER}.4.gate_proj.scales"][:] = 0
    save_file(tensors, file)
    return folder


def test_each_expert_is_named(damaged: Path) -> None:
    expected = {f"{LAYER}.1.up_proj": "missing", f"{LAYER}.2.down_proj": "not quantised"}
    checkpoint = Checkpoint.open(damaged)
    assert expert_problems(checkpoint) == expected
    zero = {f"{LAYER}.4.gate_proj": "all zero, as an expert that calibration never reached"}
    assert expert_problems(checkpoint, values=True) == expected | zero


def test_other_bits_are_named(tmp_path: Path) -> None:
    kind = {**KINDS["mixtral"], "wide": ("0.mlp.experts.3.up_proj",)}
    checkpoint = Checkpoint.open(make_model(tmp_path / "model", **kind))
    found = expert_problems(checkpoint)
    assert found == {f"{LAYER}.3.up_proj": "8 bits, where most experts have 4"}


def test_a_whole_model_has_none(tmp_path: Path) -> None:
    for kind in ("mixtral_hub_names", "qwen2_moe"):
        checkpoint = Checkpoint.open(make_model(tmp_path / kind, **KINDS[kind]))
        assert expert_problems(checkpoint, values=True) == {}


def test_models_refuse_experts_that_are_not_quantised(damaged: Path) -> None:
    config = ModelConfig.load(damaged)
    with pytest.raises(CheckpointError, match=r"experts\.1\.up_proj"):
        ModelNames.find(config, Checkpoint.open(damaged))


@pytest.mark.parametrize("command", [("info",), ("verify", "--layers", "*.0.experts.0.gate_proj")])
def test_commands_name_them(damaged: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    said = "".join(run(name, damaged, *options).output.split())
    assert f"{LAYER}.1.up_proj:missing" in said
    assert f"{LAYER}.2.down_proj:notquantised" in said
