"""Faults of a layer: the known ones are tried on the numbers, and the best one is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..gptq.misreadings import WeightParts, misreadings
from .tolerance import Float32Array

Confidence = Literal["certain", "likely", "possible", "none"]

_BOUNDS: tuple[tuple[float, Confidence], ...] = (
    (0.03, "certain"),
    (0.25, "likely"),
    (0.6, "possible"),
)
_WORDS = {
    "certain": "It is certain that",
    "likely": "It is likely that",
    "possible": "It is possible that",
}


@dataclass(frozen=True)
class LayerFault:
    """A likely fault.

    name         a short one, such as "zero-too-small"; "unknown" where nothing fits
    sentence     for people
    confidence   how well it fits the numbers
    unexplained  the part of the error that the cause does not predict, ||found - predicted|| /
                 ||found - expected||: 0 where it predicts all of it, 1 for nothing
    """

    name: str
    sentence: str
    confidence: Confidence
    unexplained: float


def fault(name: str, what: str, unexplained: float) -> LayerFault | None:
    """A cause in a sentence that says how sure it is; None where it explains too little.

    what: goes on from "It is likely that ".
    """
    for bound, confidence in _BOUNDS:
        if unexplained <= bound:
            share = "all" if unexplained < 0.005 else f"{1 - unexplained:.0%}"
            sentence = f"{_WORDS[confidence]} {what} (explains {share} of the error)."
            return LayerFault(name, sentence, confidence, unexplained)
    return None


def best(causes: Iterator[LayerFault | None]) -> LayerFault | None:
    """The one that leaves least unexplained; of equals the first."""
    found = [candidate for candidate in causes if candidate is not None]
    return min(found, key=lambda candidate: round(candidate.unexplained, 3), default=None)


def wrong_weights(
    found: Float32Array, expected: Float32Array, sample: WeightParts
) -> npt.NDArray[Any]:
    """Mark the weights that a device computes with wrongly, bool [R, N]; NaN counts.

    By more than a tenth of a quantisation step: roundings, even to bfloat16, are below that.
    """
    step = np.abs(sample.scales[sample.groups])
    right: npt.NDArray[np.bool_]
    right = np.abs(found - expected) <= 0.1 * step + 2.0**-7 * np.abs(expected)
    return ~right


def diagnose_weight(
    found: Float32Array, expected: Float32Array, sample: WeightParts
) -> LayerFault | None:
    """Find the fault of a device's weight; both float32 [R, N], the rows of `sample`.

    A hypothesis that predicts what is expected, as that of symmetric zeros for a symmetric layer,
    cannot be told from a right reading and is left out.
    """
    return best(_weight_causes(found, expected, sample))


def _weight_causes(
    found: Float32Array, expected: Float32Array, sample: WeightParts
) -> Iterator[LayerFault | None]:
    yield _rows_missing(found, expected, sample)
    yield _columns_missing(found, expected)
    for way in misreadings():
        read = way.read(sample)
        if read is None or not wrong_weights(read.weight(), expected, sample).any():
            continue
        yield fault(way.name, way.sentence, unexplained(found, read.weight(), expected))


def unexplained(found: Float32Array, predicted: Float32Array, expected: Float32Array) -> float:
    """||found - predicted|| / ||found - expected|| over what is finite."""
    finite = np.isfinite(found)
    error = float(np.linalg.norm((found - expected)[finite].astype(np.float64)))
    left = float(np.linalg.norm((found - predicted)[finite].astype(np.float64)))
    return left / error if error else 1.0


def _rows_missing(
    found: Float32Array, expected: Float32Array, sample: WeightParts
) -> LayerFault | None:
    """The last rows of K count for nothing."""
    dead = _dead(found, expected, axis=1)
    first = len(dead) - _trailing(dead)
    if first == len(dead) or sample.rows[-1] != sample.K - 1 or first == 0:
        return None
    predicted = np.where((np.arange(len(dead)) >= first)[:, None], np.float32(0), expected)
    after = int(sample.rows[first - 1]) + 1
    where = f"row {sample.rows[first]}" if after == sample.rows[first] else f"a row from {after}"
    what = f"the tail of K is missing: {where} to the last, {sample.K - 1}, counts for nothing"
    return fault("k-tail-missing", what, unexplained(found, predicted, expected))


def _columns_missing(found: Float32Array, expected: Float32Array) -> LayerFault | None:
    """The last columns of N come out as 0."""
    dead = _dead(found, expected, axis=0)
    first = len(dead) - _trailing(dead)
    if first in (0, len(dead)):
        return None
    predicted = np.where(np.arange(len(dead)) >= first, np.float32(0), expected)
    what = f"the tail of N is missing: columns {first} to {len(dead) - 1} come out as 0"
    return fault("n-tail-missing", what, unexplained(found, predicted, expected))


def _dead(found: Float32Array, expected: Float32Array, axis: int) -> npt.NDArray[np.bool_]:
    """Mark rows (axis 1) or columns (axis 0) that are 0 and should not be."""
    dead: npt.NDArray[np.bool_] = np.any(expected, axis=axis, keepdims=True)
    dead = dead & ~np.any(found, axis=axis, keepdims=True)
    return dead.ravel()


def _trailing(flags: npt.NDArray[np.bool_]) -> int:
    """Count the true ones at the end."""
    return len(flags) if flags.all() else int(np.argmin(flags[::-1]))
