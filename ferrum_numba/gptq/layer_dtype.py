"""The dtype that a layer computes in, and what its scales and bias lose in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..dtypes import dtype_named
from ..errors import AbiError, CheckpointError

# The relative error of rounding once to each.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def layer_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """`dtype`, one that kernels compute in.  Raises AbiError for any other."""
    found = dtype_named(dtype)
    if str(found) not in _ROUNDING:
        raise AbiError("dtype", "float16 or bfloat16", found.name)
    return found


def in_layer_dtype(name: str, values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`values` in `dtype`, where that loses no more than one rounding.

    A bfloat16 scale has fewer significant bits than float16 but more exponents: an overflow, or
    an underflow that matters beside the other values, raises CheckpointError.
    """
    if values.dtype == dtype:
        return values
    exact = values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
    error = np.linalg.norm(rounded.astype(np.float32) - exact)
    if not error <= _ROUNDING[dtype.name] * np.linalg.norm(exact):
        raise CheckpointError(
            name,
            f"{values.dtype.name} values that {dtype.name} holds",
            f"magnitudes from {np.abs(exact).min():.3g} to {np.abs(exact).max():.3g}",
            'take the layer as GptqLinear(tensors, dtype="bfloat16")',
        )
    return rounded
