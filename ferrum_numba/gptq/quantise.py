"""Round-to-nearest quantisation of a dense weight: the simplest way to a GPTQ layer.

No calibration data and no error compensation, so the accuracy of a model is below what GPTQ
itself reaches; it serves to try a layer of one's own, and tests.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..dtypes import dtype_named, largest
from ..errors import CheckpointError
from .packing import NIBBLES, pack_columns, pack_rows
from .tensors import GptqTensors, check_finite, effective_group_size

_HIGHEST = 15  # level of four bits
_SYMMETRIC_ZERO = 8
_DTYPES = ("float16", "bfloat16")

Float32Array = npt.NDArray[np.float32]


def quantize(
    weight: npt.NDArray[Any],
    *,
    group_size: int = 128,
    symmetric: bool = True,
    zero_format: Literal["v1", "v2"] = "v1",
    dtype: npt.DTypeLike = np.float16,
    bias: npt.NDArray[Any] | None = None,
) -> GptqTensors:
    """A dense weight [K, N] as 4-bit levels, each group of rows with its own scale and zero.

    weight      any float dtype, K and N multiples of 8; torch's nn.Linear stores the transpose
    group_size  rows in a group, -1 for one group of all rows
    symmetric   zero 8 and scale 2/15 of the largest magnitude; else zero and scale from the range
    dtype       of the scales, float16 or bfloat16
    bias        float16, bfloat16 or float32 [N], kept as it is

    The error of a weight, before dequantize() rounds it to its dtype, is at most scale / 2.
    In v1, zeros of 0 are avoided, which its readers disagree on: they all read 1..15 alike.

    Raises CheckpointError for another shape, numbers that are not finite, or scales beyond dtype.
    """
    dtype = dtype_named(dtype)
    if weight.ndim != 2 or 0 in weight.shape or any(size % NIBBLES for size in weight.shape):
        raise CheckpointError(
            "weight", f"shape [K, N], both multiples of {NIBBLES}", list(weight.shape)
        )
    if str(dtype) not in _DTYPES:
        raise CheckpointError("dtype", "float16 or bfloat16", dtype.name)
    check_finite("weight", weight)
    K, N = weight.shape
    group_size = effective_group_size(group_size, K)
    groups = -(-K // group_size)
    levels = np.empty((K, N), np.uint8)
    scales = np.empty((groups, N), dtype)
    zeros = np.empty((groups, N), np.uint8)
    for group in range(groups):
        rows = slice(group * group_size, min((group + 1) * group_size, K))
        with np.errstate(over="ignore"):  # what overflows is refused as a scale
            values = weight[rows].astype(np.float32)
            scales[group], zeros[group] = _scale_and_zero(values, symmetric, zero_format, dtype)
        steps = np.rint(values / scales[group].astype(np.float32))
        levels[rows] = np.clip(steps + zeros[group], 0, _HIGHEST)
    return GptqTensors(
        qweight=pack_rows(levels),
        qzeros=pack_columns(zeros - np.uint8(zero_format == "v1")),
        scales=scales,
        bias=bias,
        group_size=group_size,
        zero_format=zero_format,
    )


def _scale_and_zero(
    values: Float32Array, symmetric: bool, zero_format: str, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Scale of `dtype` [N] and true zero [N] of a group's values [rows, N]."""
    if symmetric:
        span = 2 * np.abs(values).max(axis=0)
    else:
        low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
        if zero_format == "v1":  # a range that reaches a step below 0 has a zero of 1 at least
            low = np.minimum(low, -high / (_HIGHEST - 1))
        span = high - low
    scale = _rounded_up(span / np.float32(_HIGHEST), dtype)
    if symmetric:
        return scale, np.full(scale.shape, _SYMMETRIC_ZERO, np.uint8)
    zero = np.rint(-low / scale.astype(np.float32))
    lowest = 1 if zero_format == "v1" else 0
    return scale, np.clip(zero, lowest, _HIGHEST).astype(np.uint8)


def _rounded_up(exact: Float32Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`exact` in `dtype`, not below it, so that no value of its group is out of reach; never 0."""
    limit = largest(dtype)
    if exact.max() >= limit:
        raise CheckpointError(
            "weight", f"scales within {dtype.name} ({limit:.6g})", f"{exact.max():.6g}"
        )
    scale = exact.astype(dtype)
    below = scale.astype(np.float32) < exact
    # The next number up: among finite numbers of at least 0, bits count upwards.
    scale[below] = (scale[below].view(np.uint16) + np.uint16(1)).view(dtype)
    scale[exact == 0] = 1
    return scale
