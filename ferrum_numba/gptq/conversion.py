"""A dense model's safetensors files as a GPTQ checkpoint, by round-to-nearest."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .config import read_model_config
from .files import new_folder, write_json
from .packing import NIBBLES
from .quantise import quantize
from .safetensors_file import write_file
from .safetensors_header import NUMPY_DTYPES, StoredTensor
from .shards import INDEX_PATTERN, Shards
from .tensors import effective_group_size

# Tables that a model looks up, heads and norms: producers leave them dense.
_DENSE = re.compile(r"embed|lm_head|norm|\bwte\b|\bwpe\b|\bhead\b|router|\.gate\.weight$")
_FLOATS = ("F16", "BF16", "F32")
_SCALES = {"float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class _Options:
    group_size: int
    symmetric: bool
    zero_format: Literal["v1", "v2"]
    dtype: Literal["float16", "bfloat16"]


def quantize_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    group_size: int = 128,
    symmetric: bool = True,
    zero_format: Literal["v1", "v2"] = "v1",
    dtype: Literal["float16", "bfloat16"] = "float16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write the model at `source` into `folder`, new or empty, its linear layers in 4 bits.

    source       a directory or one safetensors file of a dense model
    zero_format  "v2" for asymmetric zeros is what GPTQModel reads: it takes them in v1 from itself
                 alone
    dtype        of the scales
    progress     called with the bytes read and their total

    A linear layer is a `*.weight` [N, K], both multiples of 8, that is no embedding, head or norm;
    all else is copied, JSON and tokenizer files beside it too. Returns the layers' names. Holds
    one layer at a time. Raises CheckpointError for a source that has no such layer.
    """
    options = _Options(group_size, symmetric, zero_format, dtype)
    source = Path(source)
    shards = Shards.open(source)
    tensors = shards.tensors
    names = [name for name, tensor in tensors.items() if _is_linear(name, tensor)]
    if not names:
        raise CheckpointError(
            source,
            (f"*.weight tensors [N, K] of {', '.join(_FLOATS)}, N and K multiples of {NIBBLES}"),
            f"none among {len(tensors)} tensors",
            "is it quantised?",
        )
    header: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        same = {name: (tensor.dtype, tensor.shape)}
        header |= _layer_header(name, tensor, options) if name in names else same
    total = sum(tensor.nbytes for tensor in tensors.values())

    def arrays() -> Iterator[npt.NDArray[Any]]:
        done = 0
        for name, tensor in tensors.items():
            ((_, array),) = shards.read([name])
            yield from _layer_arrays(array, options) if name in names else [array]
            done += tensor.nbytes
            progress(done, total)

    with new_folder(folder) as path:
        write_file(path / "model.safetensors", header, arrays(), {"format": "pt"})
        _write_configuration(shards.folder, path, options)
    return [name.removesuffix(".weight") for name in names]


def _is_linear(name: str, tensor: StoredTensor) -> bool:
    return (
        name.endswith(".weight")
        and tensor.dtype in _FLOATS
        and len(tensor.shape) == 2
        and all(size and size % NIBBLES == 0 for size in tensor.shape)
        and not _DENSE.search(name)
    )


def _layer_header(
    name: str, tensor: StoredTensor, options: _Options
) -> dict[str, tuple[str, tuple[int, ...]]]:
    layer = name.removesuffix(".weight")
    N, K = tensor.shape
    groups = -(-K // effective_group_size(options.group_size, K))
    return {
        f"{layer}.qweight": ("I32", (K // NIBBLES, N)),
        f"{layer}.qzeros": ("I32", (groups, N // NIBBLES)),
        f"{layer}.scales": (_SCALES[options.dtype], (groups, N)),
        f"{layer}.g_idx": ("I32", (K,)),
    }


def _layer_arrays(weight: npt.NDArray[Any], options: _Options) -> list[npt.NDArray[Any]]:
    tensors = quantize(
        weight.T,
        group_size=options.group_size,
        symmetric=options.symmetric,
        zero_format=options.zero_format,
        dtype=NUMPY_DTYPES[_SCALES[options.dtype]],
    )
    # Readers want a g_idx, in order or not.
    g_idx = np.arange(tensors.K, dtype=np.int32) // np.int32(tensors.group_size)
    return [tensors.qweight, tensors.qzeros, tensors.scales, g_idx]


def _write_configuration(source: Path, folder: Path, options: _Options) -> None:
    configuration = {
        "bits": 4,
        "group_size": options.group_size,
        "desc_act": False,
        "sym": options.symmetric,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if options.zero_format == "v1" else "gptq_v2",
        "pack_dtype": "int32",
        "meta": {"quantizer": ["ferrum-numba:0"]},
    }
    write_json(folder / "quantize_config.json", configuration)
    for file in [*source.glob("*.json"), *source.glob("tokenizer*")]:
        if file.is_file() and not file.match(INDEX_PATTERN) and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    content = read_model_config(source)
    if content:
        write_json(folder / "config.json", {**content, "quantization_config": configuration})
