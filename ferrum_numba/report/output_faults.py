"""Known ways to get an output wrong from a right weight: rows, bias, elements left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .layer_fault import LayerFault, best, fault, unexplained
from .reference import Reference
from .tolerance import Float32Array

_ROWS = 512  # of x, at most, when every row is compared with every other


def diagnose_rows(found: Float32Array, reference: Reference) -> LayerFault | None:
    """Find rows of y, float32 (M, N), or of x that were mixed up."""
    return best(_row_causes(found, reference))


def _row_causes(found: Float32Array, reference: Reference) -> Iterator[LayerFault | None]:
    m, expected = len(found), reference.y[: len(found)]
    if m < 2:
        return
    transposed = expected.T.reshape(expected.shape)
    yield _if_explained(
        "y-transposed",
        "the output is stored transposed, its strides exchanged",
        found,
        transposed,
        expected,
    )
    yield _other_rows(found, expected)
    for stride, predicted in _strided(reference, m):
        yield _if_explained(
            "x-stride",
            f"rows of x are read {stride} elements apart instead of {reference.x.shape[1]}",
            found,
            predicted,
            expected,
        )


def _if_explained(
    name: str, what: str, found: Float32Array, predicted: Float32Array, expected: Float32Array
) -> LayerFault | None:
    return fault(name, what, unexplained(found, predicted, expected))


def _other_rows(found: Float32Array, expected: Float32Array) -> LayerFault | None:
    """Look for rows of y that are the result of another row of x, by the closest match."""
    if len(found) > _ROWS or not np.isfinite(found).all():
        return None
    similar = found @ expected.T - 0.5 * np.square(expected).sum(axis=1)
    source = np.argmax(similar, axis=1)
    moved = np.flatnonzero(source != np.arange(len(source)))
    if not moved.size:
        return None
    row = int(moved[0])
    what = (
        f"rows are mixed up: {len(moved)} of {len(source)} rows of y are the result of another "
        f"row of x, the first is row {row} with that of row {int(source[row])}"
    )
    return fault("rows-mixed-up", what, unexplained(found, expected[source], expected))


def _strided(reference: Reference, m: int) -> Iterator[tuple[int, Float32Array]]:
    """(row stride, y) for strides of x that are easily taken by mistake; past its end x is 0."""
    K, N = reference.weight.shape
    strides = {-(-K // 64) * 64, -(-K // 128) * 128, N, K // 2, K - 8, K + 8} - {K}
    weight = reference.weight.astype(np.float32)
    flat = reference.x[:m].astype(np.float32).ravel()
    for stride in sorted(strides):
        padded = np.zeros((m - 1) * stride + K, np.float32)
        padded[: min(flat.size, padded.size)] = flat[: padded.size]
        rows = padded[(np.arange(m) * stride)[:, None] + np.arange(K)]
        y: Float32Array = rows @ weight
        yield stride, y if reference.bias is None else y + reference.bias


def diagnose_bias(found: Float32Array, reference: Reference) -> LayerFault | None:
    """Find the fault of the bias: the output for x = 0, float32 [N]; None for none."""
    expected = np.zeros_like(found) if reference.bias is None else reference.bias
    size = float(np.abs(expected).max())
    if np.abs(found - expected).max() <= 2.0**-7 * size:
        return None
    candidates = [
        ("bias-missing", "the bias is not added", np.zeros_like(expected)),
        ("bias-doubled", "the bias is added twice", 2 * expected),
        ("bias-negative", "the bias is subtracted", -expected),
        ("bias-shifted", "the bias is one column off", np.roll(expected, 1)),
        ("bias-shifted", "the bias is one column off", np.roll(expected, -1)),
    ]
    known = best(
        fault(name, what, unexplained(found, predicted, expected))
        for name, what, predicted in candidates
    )
    wrong = int((np.abs(found - expected) > 2.0**-7 * size).sum())
    sentence = f"The output for x = 0 is not the bias, in {wrong} of {len(found)} columns."
    return known or LayerFault("bias-wrong", sentence, "certain", 0.0)


def diagnose_unwritten(found: Float32Array) -> LayerFault | None:
    """Elements of y, float32 (M, N), that still hold the NaN they were filled with."""
    missing = np.isnan(found)
    if not missing.any():
        return None
    rows, columns = (np.asarray(missing.all(axis=axis)) for axis in (1, 0))
    if missing.all():
        where = "all elements"
    elif np.array_equal(missing, np.broadcast_to(columns, missing.shape)):
        where = f"column{_s(columns)} {ranges(columns)} of all rows"
    elif np.array_equal(missing, np.broadcast_to(rows[:, None], missing.shape)):
        where = f"row{_s(rows)} {ranges(rows)} of all columns"
    else:
        row, column = (int(index[0]) for index in np.nonzero(missing))
        where = f"{int(missing.sum())} elements, the first in row {row}, column {column}"
    sentence = (
        f"It is certain that y (M = {len(found)}, N = {found.shape[1]}) is never written, or NaN, "
        f"in {where}: it was filled with NaN before."
    )
    return LayerFault("never-written", sentence, "certain", 0.0)


def _s(flags: npt.NDArray[Any]) -> str:
    return "s" if flags.sum() > 1 else ""


def ranges(flags: npt.NDArray[Any]) -> str:
    """Ranges where flags are true, such as "3, 8-15"; at most four parts."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    parts = [
        f"{first}" if last - first == 1 else f"{first}-{last - 1}"
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]
    more = f" and {len(parts) - 4} more ranges" if len(parts) > 4 else ""
    return ", ".join(parts[:4]) + more
