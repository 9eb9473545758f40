"""The checkpoints that real producers wrote, and copies of them to damage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint

FOLDER = Path(__file__).parents[1] / "fixtures"
FIXTURES = sorted(path.parent.name for path in FOLDER.glob("*/oracle_modules.json"))

Q_PROJ = "model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.layers.0.mlp.down_proj"


def fixture(name: str) -> Path:
    """The directory of a fixture."""
    return FOLDER / name


def copy_of(name: str, folder: Path) -> Path:
    """A copy of a fixture's checkpoint, without its oracle, in `folder`."""
    shutil.copytree(
        fixture(name), folder / name, ignore=shutil.ignore_patterns("oracle*", "manifest.json")
    )
    return folder / name


def edit_tensors(file: Path, change) -> None:
    """Write `file` anew after change(tensors), a dict of arrays by name, altered in place."""
    with safe_open(file, framework="np") as handle:
        metadata = handle.metadata()
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, file, metadata)


def edit_config(file: Path, **values) -> None:
    """Set `values` in the quantisation configuration `file`; None takes a key out."""
    content = json.loads(file.read_text())
    target = content["quantization_config"] if file.name == "config.json" else content
    for key, value in values.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
    file.write_text(json.dumps(content))


def save_layer(file: Path, tensors, name="layer") -> None:
    """Write one layer alone into `file`."""
    parts = {part: getattr(tensors, part) for part in ("qweight", "qzeros", "scales", "g_idx")}
    save_file({f"{name}.{part}": a for part, a in parts.items() if a is not None}, file)


def damaged(path: Path, layer: str, pattern: str) -> None:
    """Expect that `layer` alone cannot be used, for a reason that matches `pattern`."""
    checkpoint = Checkpoint.open(path)
    assert layer not in checkpoint.layers
    assert checkpoint.layers
    assert re.search(pattern, checkpoint.problems[layer])
    with refused(pattern):
        checkpoint.load(layer)
    with refused(pattern):
        checkpoint.load_dense(layer)


def refused(pattern: str):
    """Expect a CheckpointError whose message matches `pattern`."""
    return pytest.raises(CheckpointError, match=pattern)
