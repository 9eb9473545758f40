"""Layers that share their input, side by side as one: q+k+v, gate+up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .tensors import GptqTensors


def fuse(layers: Sequence[GptqTensors]) -> GptqTensors:
    """One layer whose columns are those of `layers`, in their order; no word is repacked.

    Its output is the concatenation of the layers' outputs. A layer without bias gets zeros where
    another has one. Raises CheckpointError for layers that cannot share their rows' groups: K,
    group_size, zero_format, the dtypes and the order of rows must be the same.
    """
    if not layers:
        raise CheckpointError("layers", "at least one layer to fuse", "none")
    first = layers[0]
    for number, layer in enumerate(layers):
        for field, found, expected in _shared(layer, first):
            if found != expected:
                raise CheckpointError(
                    field,
                    f"{expected} in layer {number}, as in layer 0",
                    found,
                    f"layers with different {field} stay apart",
                )
        if not np.array_equal(_group_of_row(layer), _group_of_row(first)):
            raise CheckpointError(
                "g_idx",
                f"layer {number} to group its rows as layer 0 does",
                "another act-order",
                "such layers stay apart",
            )
    g_idx = next((layer.g_idx for layer in layers if layer.g_idx is not None), None)
    return replace(
        first,
        qweight=np.concatenate([layer.qweight for layer in layers], axis=1),
        qzeros=np.concatenate([layer.qzeros for layer in layers], axis=1),
        scales=np.concatenate([layer.scales for layer in layers], axis=1),
        g_idx=g_idx,
        bias=_bias(layers),
    )


def _shared(layer: GptqTensors, first: GptqTensors) -> list[tuple[str, Any, Any]]:
    """(field, the layer's value, the first layer's value) of what has to be the same."""
    fields = [(name, getattr(layer, name), getattr(first, name)) for name in _SHARED]
    return [*fields, ("scales' dtype", layer.scales.dtype, first.scales.dtype)]


_SHARED = ("K", "group_size", "zero_format")


def _group_of_row(layer: GptqTensors) -> npt.NDArray[Any]:
    """The group of each row, int [K]: a g_idx in order and none at all mean the same."""
    return np.arange(layer.K) // layer.group_size if layer.g_idx is None else layer.g_idx


def _bias(layers: Sequence[GptqTensors]) -> npt.NDArray[Any] | None:
    dtypes = sorted({layer.bias.dtype.name for layer in layers if layer.bias is not None})
    if not dtypes:
        return None
    if len(dtypes) > 1:
        raise CheckpointError(
            "bias", "one dtype in all layers", " and ".join(dtypes), "convert first"
        )
    dtype = next(layer.bias.dtype for layer in layers if layer.bias is not None)
    return np.concatenate(
        [np.zeros(layer.N, dtype) if layer.bias is None else layer.bias for layer in layers]
    )
