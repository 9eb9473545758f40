"""Diagnosis of a layer: the place of its error, its size, and its likely cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gptq import GptqLinear, GptqTensors
from ..gptq.misreadings import WeightParts, groups_of_rows
from ..gptq.packing import NIBBLES
from .evidence import Evidence, find_fault
from .layer_fault import LayerFault, diagnose_weight
from .probe import Probe, outputs
from .reference import Reference
from .tolerance import Float32Array

DECADES = tuple(range(-4, 5))
"""Edges of an error histogram, powers of ten of error / bound."""

_BLOCKS = 64  # of K, when weights are compared
_CELLS = 48  # of a map along each side
_ZOOM_ROWS, _ZOOM_COLUMNS = 32, 64
_SMALLEST = np.float32(2.0**-24)  # a float16 above 0: the step where a scale is 0


@dataclass(frozen=True)
class ErrorMap:
    """Errors of the weight [K, N] in quantisation steps (scales), by area.

    values   rows along K, and in them columns along N; NaN where an output was never written
    k, n     (first, last) row and column of the whole
    """

    values: tuple[tuple[float, ...], ...]
    k: tuple[int, int]
    n: tuple[int, int]


@dataclass(frozen=True)
class LayerDiagnosis:
    """Diagnosis of one layer; m: the rows of x, 0 where two weights were compared.

    histogram  elements of y by error / bound: exact ones, then by the decades between and around
               10^-4 .. 10^4 (1 is what passes), then NaN; empty where weights were compared
    overview   the whole weight: the largest error in each area, without sign
    zoom       single weights where it is worst, with sign
    """

    m: int
    cause: LayerFault
    histogram: tuple[int, ...]
    overview: ErrorMap
    zoom: ErrorMap


def diagnose_layer(
    layer: GptqLinear, tensors: GptqTensors, reference: Reference, m: int, *, failed: bool
) -> LayerDiagnosis:
    """Look into a layer: run it again with m rows, and probe its weight, a few dozen launches.

    failed: whether an error was seen before, which then should be seen again.
    """
    y = outputs(layer, reference.x[:m], m)
    probe = Probe.start(layer, m, reference.weight)
    errors, rows = probe.block_errors()
    in_steps = errors / _block_steps(tensors, rows)
    worst = int(np.argmax(np.abs(in_steps)))  # NaN counts as largest
    near, column = worst // tensors.N * rows, worst % tensors.N
    sample = WeightParts.take(tensors, probe.words(near))
    found = probe.rows(sample.rows)
    expected = reference.weight[sample.rows].astype(np.float32)
    evidence = Evidence(
        y, tensors, reference, probe.bias, found, expected, sample, np.abs(in_steps), rows
    )
    return LayerDiagnosis(
        m=m,
        cause=find_fault(evidence, failed),
        histogram=_histogram(y, reference),
        overview=_overview(evidence.block_steps, tensors.K),
        zoom=_zoom((found - expected) / _steps(sample), sample.rows, near, column),
    )


def diagnose_difference(
    tensors: GptqTensors, expected: npt.NDArray[np.float16], found: npt.NDArray[np.float16]
) -> LayerDiagnosis:
    """Compare two weights [K, N], the first of them that of `tensors`."""
    K, N = expected.shape
    rows = -(-K // (_BLOCKS * NIBBLES)) * NIBBLES
    sizes = np.empty((-(-K // rows), N), np.float32)
    for block in range(len(sizes)):
        words = np.arange(block * rows // NIBBLES, min((block + 1) * rows, K) // NIBBLES)
        part = WeightParts.take(tensors, words)
        sizes[block] = np.abs(_difference(part, expected, found) / _steps(part)).max(axis=0)
    near, column = (int(i) for i in np.unravel_index(int(np.argmax(sizes)), sizes.shape))
    run = np.arange(near * rows // NIBBLES, min((near + 1) * rows, K) // NIBBLES)
    spread = np.linspace(0, K // NIBBLES - 1, _BLOCKS // 2).astype(int)
    sample = WeightParts.take(tensors, np.unique(np.concatenate([run[: _BLOCKS // 2], spread])))
    there, here = (weight[sample.rows].astype(np.float32) for weight in (found, expected))
    cause = diagnose_weight(there, here, sample)
    unknown = LayerFault("unknown", "No known fault explains the difference.", "none", 1.0)
    return LayerDiagnosis(
        m=0,
        cause=cause or unknown,
        histogram=(),
        overview=_overview(sizes, K),
        zoom=_zoom(
            _difference(sample, expected, found) / _steps(sample), sample.rows, near * rows, column
        ),
    )


def _difference(
    sample: WeightParts, expected: npt.NDArray[np.float16], found: npt.NDArray[np.float16]
) -> Float32Array:
    rows = sample.rows
    difference: Float32Array = found[rows].astype(np.float32) - expected[rows].astype(np.float32)
    return difference


def _steps(sample: WeightParts) -> Float32Array:
    """The quantisation step of each weight, float32 [R, N], never 0."""
    steps: Float32Array = np.maximum(np.abs(sample.scales), _SMALLEST)[sample.groups]
    return steps


def _block_steps(tensors: GptqTensors, rows: int) -> Float32Array:
    """The mean quantisation step of blocks of `rows` rows, float32 [blocks, N], never 0."""
    scales = np.maximum(np.abs(tensors.scales.astype(np.float32)), _SMALLEST)
    groups, blocks = groups_of_rows(tensors), -(-tensors.K // rows)
    count = np.zeros((blocks, tensors.groups), np.float32)
    np.add.at(count, (np.arange(tensors.K) // rows, groups), 1)
    mean: Float32Array = (count / count.sum(axis=1, keepdims=True)) @ scales
    return mean


def _histogram(y: Float32Array, reference: Reference) -> tuple[int, ...]:
    sizes = np.abs(y - reference.y[: len(y)])
    shares = sizes / reference.bounds(len(y)).elements
    exact, missing = shares == 0, np.isnan(shares)
    edges = [0, *(10.0**decade for decade in DECADES), np.inf]
    counts = np.histogram(shares[~exact & ~missing], edges)[0]
    return (int(exact.sum()), *counts.tolist(), int(missing.sum()))


def _overview(sizes: Float32Array, K: int) -> ErrorMap:
    """The largest of each area of sizes, float32 [blocks, N]."""
    blocks, N = sizes.shape
    row_starts = np.unique(np.arange(_CELLS) * blocks // _CELLS)
    column_starts = np.unique(np.arange(_CELLS) * N // _CELLS)
    cells = np.maximum.reduceat(sizes, row_starts, axis=0)
    cells = np.maximum.reduceat(cells, column_starts, axis=1)
    return ErrorMap(_rounded(cells), (0, K - 1), (0, N - 1))


def _zoom(steps: Float32Array, rows: npt.NDArray[Any], near: int, column: int) -> ErrorMap:
    """A window of `steps`, float32 [R, N] of these rows, from row `near` on and around a column."""
    N = steps.shape[1]
    start = int(np.searchsorted(rows, near))
    run = rows[start : start + _ZOOM_ROWS]
    run = run[run - run[0] == np.arange(len(run))]  # up to the first gap
    left = max(0, min(column // 8 * 8 - _ZOOM_COLUMNS // 2, N - _ZOOM_COLUMNS))
    right = min(left + _ZOOM_COLUMNS, N)
    window = steps[start : start + len(run), left:right]
    return ErrorMap(_rounded(window), (int(run[0]), int(run[-1])), (left, right - 1))


def _rounded(values: Float32Array) -> tuple[tuple[float, ...], ...]:
    """Numbers of three digits: enough for a picture, and little to store."""
    return tuple(tuple(float(f"{value:.3g}") for value in row) for row in values.tolist())
