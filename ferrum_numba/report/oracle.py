"""Results that were stored beside a checkpoint: what its producer computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from ..gptq.safetensors_file import read_tensors
from ..gptq.safetensors_header import StoredTensor, read_header


@dataclass(frozen=True)
class Oracle:
    """A .safetensors file; `<layer>` is a name such as "model.layers.0.self_attn.q_proj".

    x_<K>            float16 [rows, K], the input of every layer with K input features
    <layer>.y_f32    float32 [rows, N], its output, bias included
    <layer>.dequant  float16 [K, N], its weight
    Other tensors are not looked at.
    """

    path: Path
    _tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Oracle:
        """Read the header.  Raises CheckpointError, also for a file that holds none of these."""
        tensors, _ = read_header(Path(path))
        if not any(name.endswith((".y_f32", ".dequant")) for name in tensors):
            raise CheckpointError(
                path,
                "an oracle's tensors, *.y_f32 with x_<K>, or *.dequant",
                f"none among {len(tensors)} tensors",
            )
        return cls(Path(path), tensors)

    def forward(self, layer: str, K: int, N: int) -> tuple[npt.NDArray[Any], ...] | None:
        """(x float16 [rows, K], y float32 [rows, N]) of a layer; None where it has none."""
        names = f"x_{K}", f"{layer}.y_f32"
        if not all(name in self._tensors for name in names):
            return None
        rows = self._tensors[names[0]].shape[0]
        x = self._read(names[0], "F16", (rows, K))
        return x, self._read(names[1], "F32", (rows, N))

    def weight(self, layer: str, K: int, N: int) -> npt.NDArray[np.float16] | None:
        """The dequantised weight, float16 [K, N]; None where there is none."""
        name = f"{layer}.dequant"
        return self._read(name, "F16", (K, N)) if name in self._tensors else None

    def _read(self, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        tensor = self._tensors[name]
        if (tensor.dtype, tensor.shape) != (dtype, shape) or 0 in shape:
            raise CheckpointError(
                name,
                f"{dtype} {list(shape)} with no dimension of 0",
                f"{tensor.dtype} {list(tensor.shape)}",
                "the oracle is of another checkpoint",
                where=self.path.name,
            )
        ((_, values),) = read_tensors({name: tensor})
        if not np.isfinite(values).all():
            raise CheckpointError(name, "finite numbers", "NaN or infinity", where=self.path.name)
        return values
