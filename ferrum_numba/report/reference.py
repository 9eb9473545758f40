"""The reference: what a layer's result should be, computed here or stored by others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from ..gptq import GptqTensors
from ..gptq.misreadings import groups_of_rows
from .oracle import Oracle
from .tolerance import Bounds, Float32Array, WeightNorms, error_bounds

OWN, STORED = "float32", "oracle"

Dtype = Literal["float16", "bfloat16"]
"""Dtype of x, of the weight and of y."""

NUMPY_DTYPES: dict[Dtype, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_FLOAT16 = 65504
_ROWS = 1024  # of the weight that are in float32 at a time


@dataclass(frozen=True, eq=False)
class Reference:
    """Inputs and what should come of them.

    dtype   of the layer: "float16" or "bfloat16"
    x       [M, K] of that dtype
    y       float32 [M, N], bias included
    weight  [K, N] of that dtype, or float16 as an oracle has it
    bias    float32 [N], or None
    norms   of the weight's columns
    source  "float32": computed here; "oracle": y, or the weight, is a stored one
    """

    dtype: Dtype
    x: npt.NDArray[Any]
    y: Float32Array
    weight: npt.NDArray[Any]
    bias: Float32Array | None
    norms: WeightNorms
    source: str

    def bounds(self, m: int) -> Bounds:
        """Bounds for the first m rows."""
        return error_bounds(self.x[:m], self.y[:m], self.norms, self.bias, self.dtype)


def make_reference(
    name: str,
    tensors: GptqTensors,
    m: int,
    *,
    seed: int = 0,
    oracle: Oracle | None = None,
    dtype: Dtype = "float16",
) -> Reference:
    """A reference of m rows for the layer `name`.

    x is standard normal, rounded to `dtype`, y = x32 @ W32 + bias32, and W32 the dequantised
    weight, rounded to `dtype`. An oracle's x and y take their place, its rows over and over, or its
    weight; a layer that it does not have falls back. Its x is float16, so that for bfloat16 its
    weight alone counts.

    Raises CheckpointError for an oracle of other shapes, and for outputs beyond float16.
    """
    K, N = tensors.K, tensors.N
    stored_weight = None if oracle is None else oracle.weight(name, K, N)
    stored = None
    if oracle is not None and dtype == "float16":
        stored = oracle.forward(name, K, N)
    numpy_dtype = NUMPY_DTYPES[dtype]
    weight = tensors.dequantize(numpy_dtype) if stored_weight is None else stored_weight
    bias = None if tensors.bias is None else tensors.bias.astype(np.float32)
    if stored is None:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((m, K), np.float32).astype(numpy_dtype)
    else:
        x = np.resize(stored[0], (m, K))
    y, columns = _multiply(x, weight)
    if stored is not None:
        y = np.resize(stored[1], (m, N))
    elif bias is not None:
        y += bias
    if dtype == "float16":
        _refuse_overflow(y)
    norms = WeightNorms(columns, columns + 2 * _zero_norms(tensors))
    found = STORED if stored is not None or stored_weight is not None else OWN
    return Reference(dtype, x, y, weight, bias, norms, found)


def _multiply(x: npt.NDArray[Any], weight: npt.NDArray[Any]) -> tuple[Float32Array, Float32Array]:
    """x @ weight in float32 [M, N], and the norms of the weight's columns [N]."""
    rows = x.astype(np.float32)
    y = np.zeros((len(x), weight.shape[1]), np.float32)
    squares = np.zeros(weight.shape[1], np.float32)
    for start in range(0, len(weight), _ROWS):
        part = weight[start : start + _ROWS].astype(np.float32)
        y += rows[:, start : start + _ROWS] @ part
        squares += np.einsum("kn,kn->n", part, part)
    return y, np.sqrt(squares)


def _zero_norms(tensors: GptqTensors) -> Float32Array:
    """The norms of the columns of scale * zero, float32 [N]."""
    product = tensors.scales.astype(np.float32) * tensors.zeros()
    rows = np.bincount(groups_of_rows(tensors), minlength=tensors.groups)
    found: npt.NDArray[Any] = np.sqrt(rows @ np.square(product))
    return found.astype(np.float32)


def _refuse_overflow(y: Float32Array) -> None:
    largest = float(np.abs(y).max())
    if largest > _MAX_FLOAT16:
        raise CheckpointError(
            "scales",
            f"outputs within float16 ({_MAX_FLOAT16}) for x of unit variance",
            f"{largest:.3g}",
            "the scales are not those of a float16 model",
        )
