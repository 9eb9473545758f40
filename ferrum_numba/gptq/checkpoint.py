"""A GPTQ checkpoint on disk: its quantised layers, and all other tensors."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, did_you_mean
from ..notebook import table
from ..pickling import NotPickled
from .config import QuantConfig, config_file_names, read_model_config
from .dequantise import dequantize_words, rounded
from .layer_spec import GroupIndex, LayerSpec, read_layer_specs, unindexed_layers
from .packing import WIDTHS, unpack_columns
from .safetensors_file import announce
from .safetensors_header import NUMPY_DTYPES
from .shards import Shards
from .tensors import GptqTensors, check_finite, check_groups_used
from .zeros import ZeroFormat, check_zero_format, decode_zeros, plain_format, refuse_mislabelled

PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")
_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a checkpoint, quantised or not.

    dtype   NumPy's name ("float16", "bfloat16", "int32"), or the file's ("F8_E4M3") where NumPy
            has none
    shape   as it is stored
    nbytes  of it
    file    name of the file that holds it
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


@dataclass(frozen=True, eq=False)
class Checkpoint(NotPickled):
    """Contents of a directory or of one safetensors file; made by `Checkpoint.open`.

    It is a mapping of its layers, too: len(), iteration over names, [name], `name in checkpoint`.

    path          the directory or file
    config        the content of config.json beside the tensors; empty where there is none
    quantization  the quantisation configuration
    layers        name -> LayerSpec, of every quantised layer, other widths than 4 bits included
    errors        name -> what is wrong, of the layers whose tensors are missing or contradict each
                  other or the configuration; loading one of them raises it. An index that cannot be
                  read and a file that is missing stand here too. Values are not read yet: what is
                  wrong with them, `load` says
    unindexed     names of layers that the files have and the index does not name; they are in
                  `layers` where that was asked for
    g_idx         where the group of a row is taken from: "file" or "ignore"
    """

    path: Path
    config: Mapping[str, Any]
    quantization: QuantConfig
    layers: Mapping[str, LayerSpec]
    errors: Mapping[str, CheckpointError]
    unindexed: tuple[str, ...]
    g_idx: GroupIndex
    _shards: Shards
    _trust_labels: bool

    _instead = "send its path, and Checkpoint.open it there"

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __getitem__(self, name: str) -> LayerSpec:
        """The layer of this name.  Raises CheckpointError as `load` does."""
        return self._spec(name)

    def __repr__(self) -> str:
        return f"<Checkpoint {self._described()}>"

    def _described(self) -> str:
        widths = sorted({spec.bits for spec in self.layers.values()})
        damaged = f", {len(self.errors)} with errors" if self.errors else ""
        return (
            f"{self.path}: {len(self)} layer{'s' * (len(self) != 1)} of "
            f"{', '.join(map(str, widths))} bits, zeros "
            f"{self.quantization.zero_format}{damaged}"
        )

    def _repr_html_(self) -> str:
        fields = ("name", "K", "N", "bits", "group_size", "zero_format", "act_order", "bias")
        fine = ([getattr(spec, field) for field in fields] for spec in self.layers.values())
        bad = ([name, str(error)] for name, error in self.errors.items())
        count = len(self.layers) + len(self.errors)
        return table(self._described(), fields, chain(bad, fine), count)

    @cached_property
    def problems(self) -> Mapping[str, str]:
        """The messages of `errors`."""
        return MappingProxyType({name: str(error) for name, error in self.errors.items()})

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        zero_format: ZeroFormat | None = None,
        group_size: int | None = None,
        g_idx: GroupIndex = "file",
        unindexed: bool = False,
    ) -> Checkpoint:
        """Read the headers and the configuration at `path`; no weights.

        path         a directory, or one .safetensors file with its configuration beside it
        zero_format  how the zeros decode, in place of what the configuration and its producer say
        group_size   rows in a group, -1 for one group; only for files without a configuration,
                     which need zero_format too
        g_idx        "ignore": rows are in order whatever the files' g_idx say, for all layers
        unindexed    whether `layers` has those too that the index does not name

        Raises CheckpointError that names the file or tensor, what was expected and what was found,
        for a header or a configuration that cannot be right, and where no layer is.
        """
        path = Path(path)
        if zero_format is not None:
            check_zero_format(zero_format)
        if g_idx not in get_args(GroupIndex):
            names = ", ".join(repr(name) for name in get_args(GroupIndex))
            raise CheckpointError("g_idx", f"one of {names}", f"{g_idx!r}")
        with _no_collection():
            return cls._open(path, zero_format, group_size, g_idx, unindexed)

    @classmethod
    def _open(
        cls,
        path: Path,
        zero_format: ZeroFormat | None,
        group_size: int | None,
        g_idx: GroupIndex,
        unindexed: bool,
    ) -> Checkpoint:
        shards = Shards.open(path)
        quantization = _quantization(shards, zero_format, group_size)
        layers, problems = read_layer_specs(shards, quantization, g_idx=g_idx, unindexed=unindexed)
        if problems and not layers:
            more = f" (and {len(problems) - 1} more such layers)" if len(problems) > 1 else ""
            first = next(iter(problems.values()))
            first.goes_on(more)
            first.data = {**first.data, "layers": len(problems)}
            raise first
        if not layers:
            raise CheckpointError(
                path,
                "tensors named *.qweight",
                f"none among {len(shards.tensors)} tensors",
                "this is not a GPTQ checkpoint",
                code="tensor-missing",
            )
        return cls(
            path,
            MappingProxyType(read_model_config(shards.folder)),
            quantization,
            MappingProxyType(layers),
            MappingProxyType(problems | dict(shards.problems)),
            tuple(unindexed_layers(shards)),
            g_idx,
            shards,
            zero_format is not None,
        )

    def load(self, name: str, *, mapped: bool = False) -> GptqTensors:
        """The tensors of the layer `name`, copied from disk as they are there.

        mapped: large ones are not copied but the file's own pages, see `array`. Warns where nothing
        tells how a true zero of 0 was written. Raises CheckpointError for an unknown name, one of
        `problems`, another width than 4 bits, values that cannot be, and a layer whose zeros
        contradict the configuration.
        """
        spec = self._spec(name)
        if spec.bits != 4:
            raise CheckpointError(
                name,
                "a 4-bit layer",
                f"{spec.bits} bits",
                "Checkpoint.dense dequantises layers of other widths",
            )
        parts = self._read(spec, mapped)
        try:
            return GptqTensors(
                qweight=parts["qweight"],
                qzeros=parts["qzeros"],
                scales=parts["scales"],
                g_idx=parts.get("g_idx"),
                bias=parts.get("bias"),
                group_size=spec.group_size,
                zero_format=plain_format(parts["qzeros"], self.quantization.zero_format),
            )
        except CheckpointError as error:
            error.part_of(name)
            raise

    @cached_property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Name -> TensorSpec of every tensor, those of the quantised layers included."""
        return MappingProxyType(
            {
                name: TensorSpec(
                    str(NUMPY_DTYPES.get(stored.dtype, stored.dtype)),
                    stored.shape,
                    stored.nbytes,
                    stored.file.name,
                )
                for name, stored in self._shards.tensors.items()
            }
        )

    @property
    def missing(self) -> Mapping[str, str]:
        """Name -> file of every tensor that an index names and no file has."""
        return MappingProxyType(self._shards.missing)

    def array(self, name: str, *, mapped: bool = False) -> npt.NDArray[Any]:
        """The values of the tensor `name`, such as "model.norm.weight", as they are stored.

        A new array of its dtype and shape in C order, bfloat16 as ml_dtypes.bfloat16. It is read:
        what happens to the file later cannot reach it. With `mapped` a tensor of 1 MiB or more is
        the file's own pages instead, which takes no memory: the file has to stay as it is while
        the array is used. Raises CheckpointError for an unknown or missing name, and for a dtype
        that NumPy does not have.
        """
        if name not in self._shards.tensors:
            if name in self.missing:
                self._shards.find(name)  # says where it should be
            hint = did_you_mean(name, self._shards.tensors, "Checkpoint.tensors has them")
            raise CheckpointError(
                name, "the name of a tensor", f"none of that name in {self.path}", hint
            )
        ((_, array),) = self._shards.read([name], mapped=mapped)
        return array

    def announce(self, tensors: Iterable[str]) -> None:
        """Tell the system which tensors are read soon; names that are not there are passed over.

        A cold file is then read while others are worked on.
        """
        stored = self._shards.tensors
        announce(stored[name] for name in tensors if name in stored)

    def dense(self, name: str, dtype: npt.DTypeLike = np.float16) -> npt.NDArray[Any]:
        """The weight [K, N] of the linear layer `name`, quantised or not, in C order.

        A quantised one, of 2, 3, 4 or 8 bits, is dequantised; of any other, `name`.weight [N, K] is
        transposed. dtype: float16, bfloat16 or float32; each weight is rounded once. Warns and
        raises as `load` does, and where a weight is beyond `dtype`.
        """
        if name not in self.layers and name not in self.problems:
            stored = self._shards.tensors.get(f"{name}.weight")
            if stored is not None and stored.dtype in _FLOATS and len(stored.shape) == 2:
                return rounded(f"{name}.weight", self.array(f"{name}.weight", mapped=True).T, dtype)
        spec = self._spec(name)
        planar = self.quantization.checkpoint_format == "gptq_p" and spec.bits == 3
        if spec.bits not in WIDTHS or planar:
            raise CheckpointError(
                name,
                "a layer of 2, 3, 4 or 8 bits in GPTQ's packing",
                (
                    f"{spec.bits} bits of format {self.quantization.checkpoint_format} in bit "
                    "planes, which are not decoded here"
                ),
                "let the producer convert it",
            )
        parts = self._read(spec, mapped=True)
        try:
            check_finite("scales", parts["scales"])
            return dequantize_words(
                parts["qweight"],
                decode_zeros(parts["qzeros"], self.quantization.zero_format, spec.bits),
                parts["scales"],
                parts.get("g_idx"),
                bits=spec.bits,
                group_size=spec.group_size,
                dtype=dtype,
            )
        except CheckpointError as error:
            error.part_of(name)
            raise

    load_dense = dense  # its earlier name

    def _read(self, spec: LayerSpec, mapped: bool) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a layer by part, zeros and groups checked against the configuration."""
        wanted = [part for part in PARTS if part != "g_idx" or self.g_idx == "file"]
        names = [f"{spec.name}.{part}" for part in wanted]
        there = [name for name in names if name in self._shards.tensors]
        stored = self._shards.read(there, mapped=mapped)
        parts = {name.removeprefix(f"{spec.name}."): array for name, array in stored}
        if not self._trust_labels:
            _check_zeros(spec, self.quantization.zero_format, parts["qzeros"])
        if "g_idx" in parts:
            check_groups_used(f"{spec.name}.g_idx", parts["g_idx"], spec.groups)
        return parts

    def _files_of(self, name: str) -> str:
        tensors = self._shards.tensors
        files = {tensors[f"{name}.{p}"].file.name for p in PARTS if f"{name}.{p}" in tensors}
        return ", ".join(sorted(files))

    def _spec(self, name: str) -> LayerSpec:
        if name in self.errors:
            raise copy(self.errors[name])
        if name not in self.layers and name in self.unindexed:
            raise CheckpointError(
                name,
                "a layer that the index names",
                f"one that it passes over, in {self._files_of(name)}",
                "open with Checkpoint.open(path, unindexed=True) to read it all the same",
            )
        if name not in self.layers:
            hint = did_you_mean(name, self.layers, "Checkpoint.layers has them")
            raise CheckpointError(
                name, "the name of a quantised layer", f"none of that name in {self.path}", hint
            )
        return self.layers[name]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through a million new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _quantization(
    shards: Shards, zero_format: ZeroFormat | None, group_size: int | None
) -> QuantConfig:
    config = QuantConfig.read(shards.folder, shards.metadata)
    if config is None:
        if zero_format is None or group_size is None:
            raise CheckpointError(
                shards.folder,
                "a quantisation configuration",
                f"none of {config_file_names()}",
                (
                    "put the producer's file there, or say what it would: Checkpoint.open(path, "
                    'group_size=128, zero_format="v1")'
                ),
                code="configuration-missing",
            )
        return QuantConfig.stated(group_size, zero_format)
    if group_size is not None:
        raise CheckpointError(
            "group_size",
            "none beside a configuration",
            f"{group_size}, while {config.group_size} stands in {config.source}",
            "leave the argument out, or correct the file",
            code="configuration-wrong",
        )
    return config if zero_format is None else replace(config, zero_format=zero_format)


def _check_zeros(spec: LayerSpec, zero_format: ZeroFormat, qzeros: npt.NDArray[np.int32]) -> None:
    name = f"{spec.name}.qzeros"
    refuse_mislabelled(qzeros, zero_format, name, symmetric=spec.symmetric, bits=spec.bits)
    highest = (1 << spec.bits) - 1
    if zero_format == "v1" and (unpack_columns(qzeros, spec.bits) == highest).any():
        warnings.warn(
            f"{name}: stored {'nibbles' if spec.bits == 4 else 'zeros'} of 0x{highest:X} are read "
            f"as a zero of {highest + 1}, while GPTQModel and AutoGPTQ write them for a zero of 0; "
            "if one of these made the file, "
            'open it with zero_format="v1_gptqmodel" or "v1_autogptq"',
            stacklevel=4,
        )
