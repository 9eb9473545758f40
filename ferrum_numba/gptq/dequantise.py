"""The reference: packed levels of any width become the weight, scale * (level - zero)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dtypes import dtype_named, largest
from ..errors import CheckpointError
from .packing import WORD_BITS, unpack_rows

_DTYPES = ("float16", "bfloat16", "float32")

_BLOCK_ELEMENTS = 1 << 19  # dequantised at a time: 2 MiB of float32, which a core's L2 holds


def dequantize_words(
    qweight: npt.NDArray[np.int32],
    zeros: npt.NDArray[np.integer[Any]],
    scales: npt.NDArray[Any],
    g_idx: npt.NDArray[np.int32] | None,
    *,
    bits: int,
    group_size: int,
    dtype: npt.DTypeLike,
) -> npt.NDArray[Any]:
    """The weight [K, N] of `dtype`, C order: scales[g, n] * (level[k, n] - zeros[g, n]).

    qweight  int32 [K*bits/32, N]
    zeros    true zeros, any integer dtype [groups, N]
    scales   float16 or bfloat16 [groups, N]
    g_idx    int32 [K], g for each k; None means k // group_size
    dtype    float16, bfloat16 or float32

    The product has at most 11 + 9 significant bits, so float32 holds it exactly, and it is rounded
    once, to `dtype`. Raises CheckpointError where a weight is beyond `dtype`.
    """
    dtype = _checked(dtype)
    K, N = qweight.shape[0] * WORD_BITS // bits, qweight.shape[1]
    weight = np.empty((K, N), dtype)
    scales = scales.astype(np.float32)
    # Levels and zeros of up to four bits differ by no more than int8 holds, in place.
    zeros = zeros.astype(np.int8 if bits <= 4 else np.int16)
    limit = largest(dtype)
    may_overflow = float(np.abs(scales).max()) * (1 << bits) > limit
    block = max(WORD_BITS, _BLOCK_ELEMENTS // N // WORD_BITS * WORD_BITS)
    product = np.empty((min(block, K), N), np.float32)
    for start in range(0, K, block):
        stop = min(start + block, K)
        words = qweight[start * bits // WORD_BITS : stop * bits // WORD_BITS]
        levels = unpack_rows(words, bits)
        signed = levels.view(np.int8) if bits <= 4 else levels.astype(np.int16)
        with np.errstate(over="ignore"):
            for first, last, group in _runs(g_idx, group_size, start, stop):
                rows = signed[first - start : last - start]
                rows -= zeros[group]
                np.multiply(rows, scales[group], out=product[first - start : last - start])
            weight[start:stop] = product[: stop - start]
        if may_overflow and not np.isfinite(weight[start:stop]).all():
            raise CheckpointError(
                "scales",
                f"scale * (level - zero) within {dtype.name} ({limit:.6g})",
                f"a larger weight in rows {start}..{stop - 1}",
                f"the scales are not those of a {dtype.name} model",
            )
    return weight


def rounded(name: str, weight: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A float weight, of any order, as `dtype` in C order, each element rounded once.

    dtype: float16, bfloat16 or float32. Raises CheckpointError that begins with `name` where a
    finite element is beyond `dtype`.
    """
    dtype = _checked(dtype)
    with np.errstate(over="ignore"):
        found: npt.NDArray[Any] = weight.astype(dtype, order="C")
    if weight.dtype != dtype and np.isfinite(found).all() < np.isfinite(weight).all():
        limit = largest(dtype)
        raise CheckpointError(
            name,
            f"weights within {dtype.name} ({limit:.6g})",
            "larger ones",
            f"ask for another dtype than {dtype.name}",
        )
    return found


def _checked(dtype: npt.DTypeLike) -> np.dtype[Any]:
    found = dtype_named(dtype)
    if str(found) not in _DTYPES:
        raise CheckpointError("dtype", f"one of {', '.join(_DTYPES)}", found.name)
    return found


def _runs(
    g_idx: npt.NDArray[np.int32] | None, group_size: int, start: int, stop: int
) -> Iterator[tuple[int, int, int]]:
    """(first, last, group): rows [first, last) of [start, stop) that share a group."""
    groups: npt.NDArray[Any]
    groups = np.arange(start, stop) // group_size if g_idx is None else g_idx[start:stop]
    edges = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    bounds = [0, *edges.tolist(), stop - start]
    for first, last in pairwise(bounds):
        yield start + first, start + last, int(groups[first])
