"""Checkpoints written for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ferrum_numba.gptq import GptqTensors

_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


def write_checkpoint(
    folder: Path, layers: dict[str, GptqTensors | dict[str, np.ndarray]], **config: Any
) -> Path:
    """A directory with these layers of group size 64, as GPTQModel would label it."""
    stored = {}
    for name, tensors in layers.items():
        if isinstance(tensors, GptqTensors):
            tensors = {part: getattr(tensors, part) for part in _PARTS}
        stored |= {f"{name}.{part}": a for part, a in tensors.items() if a is not None}
    save_file(stored, folder / "model.safetensors")
    fields = {"bits": 4, "group_size": 64, "sym": False, "desc_act": False, "quant_method": "gptq"}
    fields["meta"] = {"quantizer": ["gptqmodel:7.6.0"]}
    (folder / "quantize_config.json").write_text(json.dumps(fields | config))
    return folder


def eight_bit_layer(K: int, N: int) -> dict[str, np.ndarray]:
    """The tensors of an 8-bit layer of group size 64: four values a word."""
    groups = -(-K // 64)
    return {
        "qweight": np.ones((K // 4, N), np.int32),
        "qzeros": np.ones((groups, N // 4), np.int32),
        "scales": np.ones((groups, N), np.float16),
    }
