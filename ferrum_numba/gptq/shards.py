"""The safetensors files of a checkpoint: which tensors stand where, and their values.

The headers of the files are what counts. `*.safetensors.index.json` can be stale, so it is not
followed; it tells what is missing, what does not belong, and which of two files is meant where a
tensor stands in both. It is refused if it names a path.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import CheckpointError
from .files import read_json
from .safetensors_file import read_tensors, same_bytes
from .safetensors_header import StoredTensor, read_header

_NAMED = 8  # files, in a message
INDEX_PATTERN = "*.safetensors.index.json"
_DIGITS = re.compile(r"(\d+)")
_NUMBERED = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})\.safetensors")


@dataclass(frozen=True)
class Shards:
    """All tensors of one or several safetensors files.

    tensors   name -> where it stands and what it is, in the order of the names
    metadata  the files' own metadata, merged
    folder    where the files lie
    index     name -> file, as an index in the directory has it, stale or not
    problems  file -> what is wrong: an index that cannot be read, a file that is missing
    whole     whether these are all files of the folder, not one that was asked for
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    folder: Path
    index: Mapping[str, str]
    problems: Mapping[str, CheckpointError]
    whole: bool

    @classmethod
    def open(cls, path: Path) -> Shards:
        """Read the headers of the file `path`, or of every *.safetensors in the directory `path`.

        A tensor in two files is the one where the index places it; warns where the other differs.
        Raises CheckpointError for no such path, no such file in it, a header that contradicts its
        file, a name in two files of which no index names one, and an index that names a path.
        """
        tensors: dict[str, StoredTensor] = {}
        copies: dict[str, list[StoredTensor]] = {}
        metadata: dict[str, str] = {}
        for file in tensor_files(path):
            found, its_metadata = read_header(file)
            metadata.update(its_metadata)
            for name in found.keys() & tensors.keys():
                copies.setdefault(name, [tensors[name]]).append(found[name])
            tensors.update(found)
        folder = path if path.is_dir() else path.parent
        index, problems = _read_indexes(folder)
        if path.is_dir():
            problems |= _missing_shards(path, index)
        tensors |= {name: _choose(name, copies[name], index) for name in sorted(copies)}
        _warn_of_others(copies, index)
        ordered = {name: tensors[name] for name in _in_order(tensors)}
        return cls(ordered, metadata, folder, index, problems, path.is_dir())

    @cached_property
    def files(self) -> str:
        """The names of the files, for messages: up to a few of them, as there can be hundreds."""
        names = sorted({file.name for file in {tensor.file for tensor in self.tensors.values()}})
        more = len(names) - _NAMED
        return ", ".join(names[:_NAMED]) + (f" and {more} more files" if more > 0 else "")

    @cached_property
    def missing(self) -> Mapping[str, str]:
        """Name -> file of every tensor that an index names and no file has."""
        return {name: place for name, place in self.index.items() if name not in self.tensors}

    def find(self, name: str) -> StoredTensor:
        """The tensor `name`, which must be there; CheckpointError says where it should be."""
        if name not in self.tensors:
            raise CheckpointError(
                name,
                f"in {self.files}",
                f"in none of them{self.placed(name)}",
                "the checkpoint is incomplete: open its directory with all files in it",
                code=self._what_is_missing(name),
            )
        return self.tensors[name]

    def _what_is_missing(self, name: str) -> str:
        """The tensor, or the whole file in which an index places it."""
        there = name not in self.index or (self.folder / self.index[name]).is_file()
        return "tensor-missing" if there else "checkpoint-file-missing"

    def read(
        self, names: Iterable[str], *, mapped: bool = False
    ) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(name, values in C order) of each tensor of `names`; bfloat16 as ml_dtypes.bfloat16.

        mapped: large ones are the file's pages, see `read_tensors`; else all are copies.
        """
        return read_tensors({name: self.find(name) for name in names}, mapped=mapped)

    def placed(self, name: str) -> str:
        """File where an index places the tensor `name`, in brackets for a message; else nothing."""
        return f" (the index places it in {self.index[name]!r})" if name in self.index else ""


def _choose(name: str, copies: Sequence[StoredTensor], index: Mapping[str, str]) -> StoredTensor:
    """Tensor that the index means, of several of one name."""
    for tensor in copies:
        if tensor.file.name == index.get(name):
            return tensor
    files = " and ".join(tensor.file.name for tensor in copies)
    raise CheckpointError(
        name,
        "in one file",
        f"in {files} of {copies[0].file.parent}",
        (
            "remove the file that does not belong, or open a single file; where all "
            "belong, get the index that says which is meant "
            f"({INDEX_PATTERN.replace('*', 'model')})"
        ),
        code="checkpoint-header-wrong",
    )


def _warn_of_others(copies: Mapping[str, Sequence[StoredTensor]], index: Mapping[str, str]) -> None:
    """Warn of tensors whose copies in other files than the index names have other values."""
    different = []
    for name, tensors in sorted(copies.items()):
        chosen = _choose(name, tensors, index)
        others = (tensor for tensor in tensors if tensor is not chosen)
        different += [
            (name, chosen, other) for other in others if not same_bytes(name, chosen, other)
        ][:1]
    if different:
        name, chosen, other = different[0]
        more = f" (and {len(different) - 1} more such tensors)" if len(different) > 1 else ""
        warnings.warn(
            f"{name}: expected the same values wherever it stands, found others in "
            f"{other.file.name} than in {chosen.file.name}{more}; the one in {index[name]}, where "
            "the index places it, is taken",
            stacklevel=6,
        )


def _in_order(names: Iterable[str]) -> Iterator[str]:
    """The names by what stands before the last dot, layer 2 before layer 10, then by the rest."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    for owner in sorted(parts, key=_with_numbers):
        yield from sorted(parts[owner])


def _with_numbers(name: str) -> list[str | int]:
    return [int(piece) if piece.isdecimal() else piece for piece in _DIGITS.split(name)]


def tensor_files(path: Path) -> list[Path]:
    """The file `path`, or the *.safetensors in the directory; CheckpointError where none is."""
    try:
        return _found_files(path)
    except OSError as error:  # such as a directory that nobody may read
        raise CheckpointError(
            path, "a checkpoint", f"what cannot be read ({error})", code="checkpoint-unreadable"
        ) from error


def _found_files(path: Path) -> list[Path]:
    if path.exists() and not path.is_dir():
        return [path]
    if not path.is_dir():
        raise CheckpointError(
            path,
            "a checkpoint directory or a .safetensors file",
            "nothing there",
            code="checkpoint-file-missing",
        )
    # Links are followed: a download cache keeps its files elsewhere.
    found = [file for file in sorted(path.glob("*.safetensors")) if file.name[0] != "."]
    if not found:
        others = sorted(file.name for file in path.iterdir())
        raise CheckpointError(
            path,
            "*.safetensors files",
            ", ".join(others[:8]) or "nothing",
            (
                "name the model's own directory, and convert .bin or .pt weights to "
                "safetensors first"
            ),
            code="checkpoint-file-missing",
        )
    return found


def _missing_shards(folder: Path, index: Mapping[str, str]) -> dict[str, CheckpointError]:
    """File -> what its absence means: the first of each numbered series that is not complete.

    What an index places in a file is named tensor by tensor instead.
    """
    series: dict[tuple[str, str], set[int]] = {}
    for file in folder.glob("*.safetensors"):
        if match := _NUMBERED.fullmatch(file.name):
            series.setdefault((match[1], match[3]), set()).add(int(match[2]))
    problems = {}
    for (stem, digits), numbers in series.items():
        count = int(digits)
        missing = (n for n in range(1, count + 1) if n not in numbers)  # a name may say anything
        names = (f"{stem}-{n:0{len(digits)}}-of-{digits}.safetensors" for n in missing)
        placed = set(index.values())
        name = next((name for name in names if name not in placed), None)
        if name is not None:
            problems[name] = CheckpointError(
                folder / name,
                f"{count} files of this series",
                len(numbers),
                "layers that stand in missing ones alone are not seen: download them",
                code="checkpoint-file-missing",
            )
    return problems


def _read_indexes(folder: Path) -> tuple[dict[str, str], dict[str, CheckpointError]]:
    """(name -> file, index file -> why it cannot be read) of the indexes in a folder."""
    index: dict[str, str] = {}
    problems: dict[str, CheckpointError] = {}
    for file in sorted(folder.glob(INDEX_PATTERN)):
        try:
            weight_map = read_json(file)["weight_map"]
            if not isinstance(weight_map, dict):
                raise TypeError(f"weight_map is a {type(weight_map).__name__}")
        except (OSError, CheckpointError, LookupError, TypeError) as error:
            problems[file.name] = CheckpointError(
                file,
                "a JSON object with weight_map",
                f"what cannot be read as one ({error!r})",
                "the headers of the files are read instead, so it can be removed",
                code="checkpoint-index-wrong",
            )
            continue
        sound: set[object] = set()
        for name, place in weight_map.items():
            if type(place) is not str or place not in sound:
                _check_place(file, name, place)
                sound.add(place)
        index.update(weight_map)
    return index, problems


def _check_place(index: Path, name: str, place: object) -> None:
    """Refuse an entry that is no plain file name: others may follow where this reader does not."""
    if isinstance(place, str) and place not in ("", ".", "..") and not set(place) & set("/\\\0:"):
        return
    raise CheckpointError(
        name,
        "the name of a file in the same directory",
        f"{place!r}",
        (
            "such an index was not written by a producer: remove it, and mind where the "
            "files are from"
        ),
        where=index,
        code="checkpoint-index-wrong",
    )
