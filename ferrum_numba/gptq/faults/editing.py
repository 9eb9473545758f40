"""Ways to damage files: headers rewritten as text, values in place, tensors replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CheckpointError
from ..safetensors_file import read_tensors, write_file
from ..safetensors_header import NUMPY_DTYPES, read_header
from ..shards import INDEX_PATTERN, Shards

Array = npt.NDArray[Any]
Header = dict[str, Any]

_LENGTH_BYTES = 8
_CONFIGURATIONS = ("quantize_config.json", "quantization_config.json", "config.json")
_DTYPE_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class Target:
    """Target of a fault: one layer of the checkpoint in a folder."""

    folder: Path
    layer: str
    shards: Shards

    @classmethod
    def find(cls, folder: Path) -> Target:
        """The first q_proj of a sound checkpoint, or else its first layer."""
        shards = Shards.open(folder)
        layers = [name.removesuffix(".scales") for name in shards.tensors if "scales" in name]
        if not layers:
            raise CheckpointError(folder, "a quantised layer to damage", "none")
        return cls(folder, next((n for n in layers if n.endswith("q_proj")), layers[0]), shards)

    def file_of(self, part: str) -> Path:
        """The file that holds the layer's tensor `part`."""
        return self.shards.find(f"{self.layer}.{part}").file

    @property
    def file(self) -> Path:
        """The file that holds the layer's scales."""
        return self.file_of("scales")

    @property
    def tensor(self) -> str:
        """The name of the layer's scales."""
        return f"{self.layer}.scales"


@dataclass(frozen=True)
class Fault:
    """One way to damage a checkpoint.

    what   what is done, in a line
    apply  does it, to the files of a sound checkpoint
    """

    what: str
    apply: Callable[[Target], None]


def header_fault(what: str, change: Callable[[Header, str], object]) -> Fault:
    """change(header, tensor): alters the header's JSON in place, or returns other text for it."""

    def apply(target: Target) -> None:
        text = header_text(target.file)
        header = json.loads(text)
        changed = change(header, target.tensor)
        if isinstance(changed, str):
            changed = changed.encode()
        write_header(target.file, changed if isinstance(changed, bytes) else _dumps(header))

    return Fault(what, apply)


def entry_fault(what: str, **changes: object) -> Fault:
    """Give the scales' entry in the header other fields."""
    return header_fault(what, lambda header, tensor: header[tensor].update(changes))


def bytes_fault(what: str, change: Callable[[Path], None]) -> Fault:
    """Alter the file that holds the scales."""
    return Fault(what, lambda target: change(target.file))


def tensor_fault(what: str, part: str, change: Callable[[Array], Array | None]) -> Fault:
    """Replace the layer's tensor `part` by another of any shape and dtype, or take it out."""

    def apply(target: Target) -> None:
        replace_tensor(target.file_of(part), f"{target.layer}.{part}", change)

    return Fault(what, apply)


def configuration_fault(what: str, **changes: object) -> Fault:
    """Set keys of the quantisation configuration, in every file that has it; None takes one out."""

    def apply(target: Target) -> None:
        for file in configurations(target.folder):
            content = json.loads(file.read_text(encoding="utf-8"))
            found = content["quantization_config"] if file.name == "config.json" else content
            for key, value in changes.items():
                found.pop(key, None)
                if value is not None:
                    found[key] = value
            file.write_text(json.dumps(content, indent=2), encoding="utf-8")

    return Fault(what, apply)


def configurations(folder: Path) -> list[Path]:
    """The files that hold a quantisation configuration."""
    return [folder / name for name in _CONFIGURATIONS if (folder / name).is_file()]


def index_fault(what: str, change: Callable[[dict[str, Any], str], None]) -> Fault:
    """change(weight_map, tensor) alters the index; one is written where there is none."""

    def apply(target: Target) -> None:
        tensors = target.shards.tensors
        weight_map: dict[str, Any] = {name: t.file.name for name, t in tensors.items()}
        change(weight_map, target.tensor)
        index_file(target.folder).write_text(json.dumps({"weight_map": weight_map}))

    return Fault(what, apply)


def index_file(folder: Path) -> Path:
    """The index of a folder, there or not."""
    return next(folder.glob(INDEX_PATTERN), folder / "model.safetensors.index.json")


def write_header(file: Path, text: bytes, length: int | None = None) -> None:
    """Put another header before the tensors; `length`: what to announce in place of its own."""
    data = _LENGTH_BYTES + _header_length(file)
    other = file.with_name(f"{file.name}.part")
    with file.open("rb") as source, other.open("wb") as target:
        target.write((len(text) if length is None else length).to_bytes(_LENGTH_BYTES, "little"))
        target.write(text)
        source.seek(data)
        shutil.copyfileobj(source, target, 1 << 20)
    other.replace(file)


def replace_tensor(file: Path, name: str, change: Callable[[Array], Array | None]) -> None:
    """Write `file` anew with change(values) for the tensor `name`, or without it for None.

    A tensor that is not there is added: change is given no values.
    """
    tensors, metadata = read_header(file)
    found = dict(read_tensors({key: tensors[key] for key in (name,) if key in tensors}))
    changed = change(found.get(name, np.empty(0, np.float16)))
    header = {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items() if key != name}
    if changed is not None:
        header[name] = (_DTYPE_NAMES[changed.dtype], changed.shape)
        changed = np.ascontiguousarray(changed)

    def arrays() -> Iterator[Array]:
        for key in header:
            if key != name:
                yield from (values for _, values in read_tensors({key: tensors[key]}))
            elif changed is not None:
                yield changed

    other = file.with_name(f"{file.name}.part")
    write_file(other, header, arrays(), metadata)
    other.replace(file)


def _header_length(file: Path) -> int:
    with file.open("rb") as handle:
        return int.from_bytes(handle.read(_LENGTH_BYTES), "little")


def header_text(file: Path) -> bytes:
    with file.open("rb") as handle:
        return handle.read(_LENGTH_BYTES + _header_length(file))[_LENGTH_BYTES:]


def _dumps(header: Header) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()
