"""The safetensors files of a checkpoint: which tensors stand where, and their values.

The headers of the files are what counts. `*.safetensors.index.json` can be stale and can name any
path, so it is never followed; it only helps to say what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors looks up by name
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a header describes it: dtype by its safetensors name ("I32", "BF16")."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Shards:
    """All tensors of one or several safetensors files.

    tensors   name -> where it stands and what it is
    metadata  the files' own metadata, merged
    folder    where the files lie
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    folder: Path

    @classmethod
    def open(cls, path: Path) -> Shards:
        """Read the headers of the file `path`, or of every *.safetensors in the directory `path`.

        Raises CheckpointError for no such path, no such file in it, a header that cannot be read,
        and a name that stands in two files.
        """
        tensors: dict[str, StoredTensor] = {}
        metadata: dict[str, str] = {}
        for file in _files(path):
            with _opened(file) as handle:
                metadata.update(handle.metadata() or {})
                for name in handle.keys():  # noqa: SIM118  the handle is no mapping
                    if name in tensors:
                        raise CheckpointError(
                            f"{name}: expected in one file, found in {tensors[name].file.name} "
                            f"and {file.name} of {file.parent}; remove the file that does not "
                            "belong, or open a single file"
                        )
                    header = handle.get_slice(name)
                    shape = tuple(int(size) for size in header.get_shape())
                    tensors[name] = StoredTensor(file, str(header.get_dtype()), shape)
        return cls(tensors, metadata, path if path.is_dir() else path.parent)

    def find(self, name: str) -> StoredTensor:
        """The tensor `name`, which must be there; CheckpointError says where it should be."""
        if name not in self.tensors:
            files = ", ".join(sorted({tensor.file.name for tensor in self.tensors.values()}))
            raise CheckpointError(
                f"{name}: expected in {files}, found in none of them{self.placed(name)}; "
                "the checkpoint is incomplete: open its directory with all files in it"
            )
        return self.tensors[name]

    def read(self, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
        """Copies of the tensors `names`, in C order; bfloat16 as ml_dtypes.bfloat16."""
        names_by_file: dict[Path, list[str]] = {}
        for name in names:
            names_by_file.setdefault(self.find(name).file, []).append(name)
        arrays = {}
        for file, stored in names_by_file.items():
            with _opened(file) as handle:
                for name in stored:
                    arrays[name] = np.ascontiguousarray(handle.get_tensor(name))
        return arrays

    def placed(self, name: str) -> str:
        """Where an index places the tensor `name`, in brackets for a message; else nothing."""
        for index in sorted(self.folder.glob("*.safetensors.index.json")):
            try:
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return f" ({index.name} places it in {weight_map[name]!r})"
            except (OSError, ValueError, LookupError, TypeError, RecursionError):
                continue  # no hint in it
        return ""


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: expected a checkpoint directory or a .safetensors file, found nothing there"
        )
    # Links are followed: a download cache keeps its files elsewhere.
    found = [file for file in sorted(path.glob("*.safetensors")) if file.name[0] != "."]
    if not found:
        others = sorted(file.name for file in path.iterdir())
        raise CheckpointError(
            f"{path}: expected *.safetensors files, found {', '.join(others[:8]) or 'nothing'}; "
            "name the model's own directory, and convert .bin or .pt weights to safetensors first"
        )
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The memory-mapped file; what safetensors raises becomes a CheckpointError that names it."""
    try:
        with safe_open(file, framework="np") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: expected a safetensors file, found one that cannot be read ({error}); "
            "download it again (a Git LFS pointer is not the file itself)"
        ) from error
