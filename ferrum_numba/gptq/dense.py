"""A dense model's linear layers, as the quantised ones were made from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import CheckpointError, did_you_mean
from ..pickling import NotPickled
from .layer_spec import LayerSpec
from .names import spellings
from .safetensors_header import read_header
from .shards import Shards, tensor_files

_FLOATS = ("F16", "BF16", "F32")
# Part -> (the fused layer that it can be a part of, the parts that come after it, itself included).
# Phi3 and GLM4 fuse, and GPTQModel takes apart.
_FUSED = {
    "gate_proj": ("gate_up_proj", 2),
    "up_proj": ("gate_up_proj", 1),
    "k_proj": ("qkv_proj", 2),
    "v_proj": ("qkv_proj", 1),
}


@dataclass(frozen=True, eq=False)
class DenseModel(NotPickled):
    """Weights of a directory or a safetensors file; made by `DenseModel.open`."""

    path: Path
    _shards: Shards

    _instead = "send its path, and DenseModel.open it there"

    def __repr__(self) -> str:
        return f"<DenseModel {self.path}: {len(self._shards.tensors)} tensors>"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> DenseModel:
        """Read the headers. Raises CheckpointError for what is none, or is quantised."""
        shards = Shards.open(Path(path))
        if not _are_dense(shards.tensors):
            raise CheckpointError(
                path,
                "a dense model",
                "tensors named *.qweight",
                "take the model that this one was quantised from",
            )
        return cls(Path(path), shards)

    def weight(self, spec: LayerSpec) -> npt.NDArray[Any]:
        """The weight [K, N] of the layer that `spec` describes, of the file's dtype, a view.

        It stands under the layer's name, or one that other makers give it, whole or as a part of a
        fused layer. Raises CheckpointError where there is none, or one of another shape.
        """
        for name in spellings(spec.name):
            if f"{name}.weight" in self._shards.tensors:
                return self._rows(f"{name}.weight", spec)
            owner, _, part = name.rpartition(".")
            if part == "q_proj" and f"{owner}.qkv_proj.weight" in self._shards.tensors:
                return self._rows(f"{owner}.qkv_proj.weight", spec, after=0)
            fused, last = _FUSED.get(part, ("", 0))
            if fused and f"{owner}.{fused}.weight" in self._shards.tensors:
                return self._rows(f"{owner}.{fused}.weight", spec, before=last * spec.N)
        names = [name.removesuffix(".weight") for name in self._shards.tensors]
        hint = did_you_mean(spec.name, names, "is it the same model?")
        raise CheckpointError(spec.name, f"a weight of this name in {self.path}", "none", hint)

    def _rows(
        self, name: str, spec: LayerSpec, after: int | None = None, before: int | None = None
    ) -> npt.NDArray[Any]:
        """The layer's rows of a weight, as columns: all, from `after`, or `before` its end."""
        stored = self._shards.tensors[name]
        whole = after is before is None
        rows, columns = (*stored.shape, 0, 0)[:2]
        fits = rows == spec.N if whole else rows > spec.N
        if stored.dtype not in _FLOATS or len(stored.shape) != 2 or columns != spec.K or not fits:
            expected = f"{spec.N}" if whole else f"more than {spec.N}"
            raise CheckpointError(
                name,
                f"{' or '.join(_FLOATS)} [{expected}, {spec.K}], as {spec.name} is",
                f"{stored.dtype} {list(stored.shape)} in {stored.file.name}",
                "is it the same model?",
            )
        ((_, array),) = self._shards.read([name])
        first = after or 0 if before is None else rows - before
        found: npt.NDArray[Any] = array[first : first + spec.N].T
        return found


def is_dense(path: Path) -> bool:
    """True if a directory or file has tensors, and none of a quantised layer; reads the headers."""
    return all(_are_dense(read_header(file)[0]) for file in tensor_files(path))


def _are_dense(names: Iterable[str]) -> bool:
    return not any(name.endswith(".qweight") for name in names)
