"""A GPTQ checkpoint on disk: which layers it has, and their tensors."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .config import QuantConfig, config_file_names
from .layer_spec import LayerSpec, read_layer_specs
from .shards import Shards
from .tensors import GptqTensors
from .zeros import (
    ZeroFormat,
    check_zero_format,
    has_nibble_f,
    refuse_mislabelled,
)

_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The quantised layers of a directory or of one safetensors file; made by `Checkpoint.open`.

    path    the directory or file
    config  the quantisation configuration
    layers  name -> LayerSpec, of every quantised layer, other widths than 4 bits included
    """

    path: Path
    config: QuantConfig
    layers: Mapping[str, LayerSpec]
    _shards: Shards
    _trust_labels: bool

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        zero_format: ZeroFormat | None = None,
        group_size: int | None = None,
    ) -> Checkpoint:
        """Read the headers and the configuration at `path`; no weights.

        path         a directory, or one .safetensors file with its configuration beside it
        zero_format  how the zeros decode, in place of what the configuration and its producer say
        group_size   rows in a group, -1 for one group; only for files without a configuration,
                     which need zero_format too

        Raises CheckpointError that names the file or tensor, what was expected and what was found.
        """
        path = Path(path)
        if zero_format is not None:
            check_zero_format(zero_format)
        shards = Shards.open(path)
        config = _config(shards, zero_format, group_size)
        layers = read_layer_specs(shards, config)
        if not layers:
            raise CheckpointError(
                f"{path}: expected tensors named *.qweight, found none among "
                f"{len(shards.tensors)} tensors; this is not a GPTQ checkpoint"
            )
        return cls(path, config, MappingProxyType(layers), shards, zero_format is not None)

    def load(self, name: str) -> GptqTensors:
        """The tensors of the layer `name`, copied from disk as they are there.

        Warns where nothing tells how a true zero of 0 was written. Raises CheckpointError for an
        unknown name, another width than 4 bits, values that cannot be, and a symmetric layer
        whose zeros contradict the label of the file.
        """
        spec = self._spec(name)
        if spec.bits != 4:
            raise CheckpointError(
                f"{name}: expected a 4-bit layer, found {spec.bits} bits; other widths are not "
                "decoded here"
            )
        present = [part for part in _PARTS if f"{name}.{part}" in self._shards.tensors]
        arrays = self._shards.read(f"{name}.{part}" for part in present)
        parts = {part: arrays[f"{name}.{part}"] for part in present}
        if not self._trust_labels:
            _check_zeros(spec, parts["qzeros"])
        try:
            return GptqTensors(
                qweight=parts["qweight"],
                qzeros=parts["qzeros"],
                scales=parts["scales"],
                g_idx=parts.get("g_idx"),
                bias=parts.get("bias"),
                group_size=spec.group_size,
                zero_format=spec.zero_format,
            )
        except CheckpointError as error:
            raise CheckpointError(f"{name}.{error}") from error

    def _spec(self, name: str) -> LayerSpec:
        if name not in self.layers:
            close = difflib.get_close_matches(name, self.layers, n=3)
            raise CheckpointError(
                f"{name}: expected the name of a quantised layer, found none of that name in "
                f"{self.path}{self._shards.placed(f'{name}.qweight')}; "
                + (f"did you mean {', '.join(close)}?" if close else "Checkpoint.layers has them")
            )
        return self.layers[name]


def _config(shards: Shards, zero_format: ZeroFormat | None, group_size: int | None) -> QuantConfig:
    config = QuantConfig.read(shards.folder, shards.metadata)
    if config is None:
        if zero_format is None or group_size is None:
            raise CheckpointError(
                f"{shards.folder}: expected a quantisation configuration, found none of "
                f"{config_file_names()}; put the producer's file there, or say what it would: "
                'Checkpoint.open(path, group_size=128, zero_format="v1")'
            )
        return QuantConfig.stated(group_size, zero_format)
    if group_size is not None:
        raise CheckpointError(
            f"group_size: expected none beside a configuration, found {group_size}, while "
            f"{config.source} says {config.group_size}; leave the argument out, or correct the file"
        )
    return config if zero_format is None else replace(config, zero_format=zero_format)


def _check_zeros(spec: LayerSpec, qzeros: npt.NDArray[np.int32]) -> None:
    if spec.symmetric is not False:
        refuse_mislabelled(qzeros, spec.zero_format, f"{spec.name}.qzeros")
    if spec.zero_format == "v1" and has_nibble_f(qzeros):
        warnings.warn(
            f"{spec.name}.qzeros: stored nibbles of 0xF are read as a zero of 16, while GPTQModel "
            "and AutoGPTQ write them for a zero of 0; if one of these made the file, open it with "
            'zero_format="v1_gptqmodel" or "v1_autogptq"',
            stacklevel=3,
        )
