"""A kernel that is given a tensor map and integers by the launcher: it copies x box by box."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe

FOLDER = Path(__file__).parents[1] / "emulator" / "data" / "kernels"
_INDEX = json.loads((FOLDER / "index.json").read_text())["copy_boxes.sm_90a"]
BOX = 64
TEXT = (FOLDER / "copy_boxes.sm_90a.ptx").read_text()
# Triton expands a tensor descriptor to the map, and a shape and strides that nobody reads.
UNREAD = (("x_rows", "i32"), ("x_columns", "i32"), ("x_row", "i64"), ("x_column", "i64"))
SIDECAR: dict[str, Any] = {
    "name": _INDEX["entry"],
    "num_warps": _INDEX["warps"],
    "shared": _INDEX["shared"],
    "target": "sm_90a",
    "tile": {"BOX": BOX},
    "grid": ["boxes", "1", "1"],
    "constraints": ["M >= 1", "N % 8 == 0", "boxes <= 4096"],
    "params": [
        {"name": "x_map", "type": "tensordesc", "role": "tensor_map", "of": "x",
         "box": ["BOX", "64"], "swizzle": 128},
        *({"name": n, "type": t, "role": "derived", "value": "0"} for n, t in UNREAD),
        {"name": "x", "type": "*fp16", "role": "input", "shape": ["M", "N"], "strides": ["N", "1"],
         "align": 16, "nullable": True},
        {"name": "out", "type": "*fp16", "role": "output", "shape": ["M", "N"],
         "strides": ["N", "1"]},
        *({"name": n, "type": "i32", "role": "size"} for n in "MN"),
        {"name": "across", "type": "i32", "role": "derived", "value": "cdiv(N, BOX)"},
        {"name": "boxes", "type": "i64", "role": "derived", "value": "cdiv(M, BOX) * across"},
        {"name": "global_scratch", "type": "*i8", "role": "global_scratch"},
        {"name": "profile_scratch", "type": "*i8", "role": "profile_scratch"},
    ],
}  # fmt: skip


def declared(name: str, **changes: Any) -> dict[str, Any]:
    """The sidecar, with one parameter's keys changed; None takes a key out."""
    sidecar = copy.deepcopy(SIDECAR)
    (found,) = (p for p in sidecar["params"] if p["name"] == name)
    found |= changes
    for key in [key for key, value in found.items() if value is None]:
        del found[key]
    return sidecar


def owning() -> dict[str, Any]:
    """The sidecar of a kernel that owns memory besides, and so a block for each stream."""
    return declared("global_scratch", role="workspace", nbytes="8 * boxes")


def config(m: int, n: int) -> fe.LaunchConfig:
    boxes = -(-m // BOX) * -(-n // BOX)
    return fe.LaunchConfig(boxes, 32 * SIDECAR["num_warps"], SIDECAR["shared"])


def kernel(device: fe.Device, sidecar: dict[str, Any] | None = None) -> fe.Kernel:
    if getattr(device, "capability", (9, 0)) != (9, 0):
        pytest.skip("its PTX is for sm_90a")
    return device.load_module(TEXT, sidecar or SIDECAR).get_kernel()


def tensor(seed: int, m: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n)).astype(np.float16)
