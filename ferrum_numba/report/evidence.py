"""Evidence on one layer, and the one sentence that names the likely cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..gptq import GptqTensors
from ..gptq.misreadings import WeightParts
from .layer_fault import LayerFault, diagnose_weight, wrong_weights
from .oracle_faults import diagnose_stored, in_the_oracle
from .output_faults import diagnose_bias, diagnose_rows, diagnose_unwritten, ranges
from .reference import OWN, Reference
from .tolerance import Float32Array

_VISIBLE = 0.1  # quantisation steps


@dataclass(frozen=True, eq=False)
class Evidence:
    """Measurements of a layer that is looked into.

    y            float32 (M, N), its output for the first M rows of the reference's x
    tensors      its own, and `sample` some rows of them
    bias         float32 [N], its output for x = 0
    found        float32 [R, N], the device's weight in the rows of `sample`
    expected     float32 [R, N], the reference's
    block_steps  float32 [blocks, N], the error of blocks of `block_rows` rows, quantisation steps
    """

    y: Float32Array
    tensors: GptqTensors
    reference: Reference
    bias: Float32Array
    found: Float32Array
    expected: Float32Array
    sample: WeightParts
    block_steps: Float32Array
    block_rows: int


def find_fault(evidence: Evidence, failed: bool) -> LayerFault:
    """Outputs left out, then rows mixed up, the weight, the bias; at last what is not known.

    failed: whether an error was seen before.
    """
    unwritten = diagnose_unwritten(evidence.y)
    if unwritten is not None:
        return unwritten
    weight_is_wrong = wrong_weights(evidence.found, evidence.expected, evidence.sample).any()
    if _passes(evidence) and not weight_is_wrong:
        return _no_error(failed)
    if evidence.reference.source != OWN and not weight_is_wrong:
        stored = diagnose_stored(evidence.y, evidence.reference, evidence.tensors)
        if stored is not None:
            return stored
    rows = diagnose_rows(evidence.y, evidence.reference)
    if rows is not None and (rows.confidence == "certain" or not weight_is_wrong):
        return rows
    if weight_is_wrong:
        return _weight_cause(evidence) or _unknown(evidence)
    return diagnose_bias(evidence.bias, evidence.reference) or _right_weight(evidence)


def _passes(evidence: Evidence) -> bool:
    expected = evidence.reference.y[: len(evidence.y)]
    bounds = evidence.reference.bounds(len(evidence.y))
    difference = evidence.y - expected
    size = bounds.relative * float(np.linalg.norm(expected))
    within = (np.abs(difference) <= bounds.elements).all()
    return bool(within and np.linalg.norm(difference) <= size)


def _no_error(failed: bool) -> LayerFault:
    if failed:
        sentence = (
            "The error did not occur again when the layer was run once more: results differ from "
            "run to run, as where threads or streams are not in order."
        )
        return LayerFault("not-reproducible", sentence, "likely", 0.0)
    return LayerFault("none", "Every error is within its bound.", "certain", 0.0)


def _weight_cause(evidence: Evidence) -> LayerFault | None:
    """Fault of the weight; with an oracle, of the device or of the reading of the file."""
    sample, found, expected = evidence.sample, evidence.found, evidence.expected
    own = sample.weight()
    if evidence.reference.source == OWN or wrong_weights(found, own, sample).any():
        return diagnose_weight(found, expected, sample)
    # The device does what the tensors say. What has to be tried is how the oracle reads them.
    return in_the_oracle(diagnose_weight(expected, own, sample))


def _unknown(evidence: Evidence) -> LayerFault:
    where = _where(evidence) or "in single weights"
    sentence = f"No known fault explains it. The weight is wrong {where}."
    return LayerFault("unknown", sentence, "none", 1.0)


def _where(evidence: Evidence) -> str:
    """Rows and columns that are wrong, in words; empty where no block is."""
    wrong = ~(evidence.block_steps <= _VISIBLE)
    if not wrong.any():
        return ""
    rows, columns = (np.asarray(wrong.any(axis=axis)) for axis in (1, 0))
    size = evidence.block_rows
    starts = np.repeat(rows, size)[: evidence.sample.K]
    where = "in all rows" if rows.all() else f"in rows {ranges(starts)}"
    where += ", in all columns" if columns.all() else f", in columns {ranges(columns)}"
    return f"{where}: {wrong.mean():.2g} of all blocks"


def _right_weight(evidence: Evidence) -> LayerFault:
    where = _where(evidence)
    if where:
        return LayerFault(
            "unknown",
            f"No known fault explains it. Sums of rows are wrong {where}.",
            "none",
            1.0,
        )
    sentence = (
        "It is likely that sums are less precise than float32: every weight that was read back is "
        "right, and so is the bias, but sums over all of K are not."
    )
    return LayerFault("imprecise-sums", sentence, "likely", 0.0)
