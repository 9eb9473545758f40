"""Files and indexes that are not where, or not what, they should be."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from ...errors import CheckpointError
from ..shards import INDEX_PATTERN
from .editing import Fault, Target, index_fault, index_file


def _copy(target: Target) -> None:
    shutil.copyfile(target.file, target.folder / "other.safetensors")
    for index in target.folder.glob(INDEX_PATTERN):  # which would say what file is meant
        index.unlink()


def _directory(target: Target) -> None:
    (target.folder / "other.safetensors").mkdir()


def _dangling_link(target: Target) -> None:
    (target.folder / "other.safetensors").symlink_to("gone.safetensors")


def _no_files(target: Target) -> None:
    for file in target.folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def _missing_shard(target: Target) -> None:
    if len({tensor.file for tensor in target.shards.tensors.values()}) < 2:
        raise CheckpointError("fault", "a checkpoint of several shards", "one file")
    target.file.unlink()


def _unreadable_index(target: Target) -> None:
    index_file(target.folder).write_text('{"weight_map": ')


PLACEMENT_FAULTS: Mapping[str, Fault] = {
    "tensor-in-two-files": Fault("a second file with the same tensors, and no index", _copy),
    "directory-for-file": Fault("a directory named like a tensor file", _directory),
    "dangling-link": Fault("a link to a tensor file that is not there", _dangling_link),
    "no-safetensors": Fault("no tensor file at all", _no_files),
    "missing-shard": Fault("a shard that is not there", _missing_shard),
    "index-unreadable": Fault("an index cut short", _unreadable_index),
    "index-path-up": index_fault(
        "an index that names a file above the directory",
        lambda places, tensor: places.update({tensor: "../../outside.safetensors"}),
    ),
    "index-absolute-path": index_fault(
        "an index that names an absolute path",
        lambda places, tensor: places.update({tensor: "/outside.safetensors"}),
    ),
    "index-number": index_fault(
        "a number for a file in an index", lambda places, tensor: places.update({tensor: 3})
    ),
    "index-names-more": index_fault(
        "an index that names a layer which no file has",
        lambda places, tensor: places.update(
            {f"{tensor.removesuffix('scales')}gone.qweight": "model.safetensors"}
        ),
    ),
}
