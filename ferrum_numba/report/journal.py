"""JSON lines: a line for each layer as it is done, so that a run can be taken up again.

A line is {"settings": {...}, "result": {...}}.  The settings are all that a result depends on;
a result counts for another run where they are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import kernels
from ..devices import Device
from ..errors import CheckpointError
from ..gptq import Checkpoint
from ..json_values import as_json
from ..version import __version__
from .layer_test import LayerResult, Plan
from .record import layer_result


class Journal:
    """A file of JSON lines; `done` holds the results that it had, by layer and kernel."""

    def __init__(self, path: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """settings: by device name, what a result of this run has to agree with."""
        self.path = path
        self._settings = {name: as_json(value) for name, value in settings.items()}
        self.done: dict[tuple[str, str | None], LayerResult] = {}

    def start(self, *, again: bool) -> None:
        """Begin anew, or take the results that are there; those of other settings are left alone.

        A last line that was cut off is cut away, since the next one would join it.  Raises
        CheckpointError for a file that is no journal, or cannot be written.
        """
        if self.path.exists() and not self.path.is_file():  # /dev/zero has no end
            raise CheckpointError(
                str(self.path), "a regular file to append to", "none", "name another"
            )
        try:
            with self.path.open("ab+") as file:
                if again:
                    file.truncate(0)
                file.seek(0)
                content = file.read()
                whole = content.rfind(b"\n") + 1
                for number, line in enumerate(content[:whole].splitlines(), 1):
                    self._take(number, line)
                file.truncate(whole)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def _take(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            settings, result = entry["settings"], layer_result(entry["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                self.path,
                "a line of JSON for each layer, as --jsonl and --resume write them",
                f"another in line {number} ({error})",
                "name another file",
            ) from error
        if settings == self._settings.get(result.device):
            self.done[result.layer, result.kernel] = result

    def append(self, result: LayerResult) -> None:
        """Write a line, at once."""
        entry = {"settings": self._settings[result.device], "result": as_json(result)}
        line = json.dumps(entry, allow_nan=False, separators=(",", ":"))
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise _unusable(self.path, error) from error


def settings_of(checkpoint: Checkpoint, plan: Plan, device: Device) -> dict[str, Any]:
    """All that a result of this run depends on but the layer's name and the kernel's."""
    return {
        "checkpoint": identity(_files(checkpoint.path)),
        "configuration": hashlib.sha256(repr(checkpoint.quantization).encode()).hexdigest()[:16],
        "g_idx": checkpoint.g_idx,
        "m_values": list(plan.m_values),
        "seed": plan.seed,
        "dtype": plan.dtype,
        "oracle": None if plan.oracle is None else identity([plan.oracle.path]),
        "device": [device.name, kernels.device_name(device)],
        "artefacts": identity(sorted(kernels.folder().iterdir())),
        "version": __version__,
    }


def identity(files: Iterable[Path]) -> str:
    """16 hexadecimal digits that change with the names, sizes and times of these files.

    Contents are not read: a checkpoint can be of many gigabytes.
    """
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(repr((file.name, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def _unusable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(path, "a file to append to", error.strerror or error, "name another")
