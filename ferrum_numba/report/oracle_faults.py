"""Faults of stored outputs, where the device computes what the tensors say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..gptq import GptqTensors
from ..gptq.misreadings import WeightParts, misreadings
from ..gptq.packing import NIBBLES
from .layer_fault import LayerFault, best, fault, unexplained
from .reference import Reference
from .tolerance import Float32Array

_COLUMNS = 128  # that are looked at: a few words of columns tell as much as all of them
_NEAR = 0.1  # how far the device may be from the tensors, over how far the oracle is


def in_the_oracle(reading: LayerFault | None) -> LayerFault:
    """The cause for a layer that is right by its tensors; `reading` is what the oracle does."""
    said = "The device computes what the tensors say, and the oracle has something else. "
    if reading is None:
        return LayerFault("oracle-differs", f"{said}No known fault explains it.", "none", 1.0)
    sentence = f"{said}{reading.sentence.replace(' that ', ' that, in the oracle, ', 1)}"
    return LayerFault(f"oracle-{reading.name}", sentence, reading.confidence, reading.unexplained)


def diagnose_stored(
    y: Float32Array, reference: Reference, tensors: GptqTensors
) -> LayerFault | None:
    """Find why the stored output is not y, float32 (M, N), of the reference's first M rows.

    None where y is not what the tensors say, so that the device is to blame.
    """
    difference = np.abs(y - reference.y[: len(y)]).max(axis=0)
    first = int(np.argmax(difference)) // NIBBLES * NIBBLES - _COLUMNS // 2
    first = max(0, min(first, tensors.N - _COLUMNS))
    columns = slice(first, min(first + _COLUMNS, tensors.N))
    sample = WeightParts.take(_columns(tensors, columns), np.arange(tensors.K // NIBBLES))
    x, stored = reference.x.astype(np.float32), reference.y[:, columns]
    product = x @ sample.weight()
    own = product if reference.bias is None else product + reference.bias[columns]
    off = float(np.linalg.norm(y[:, columns] - own[: len(y)]))
    if off > _NEAR * float(np.linalg.norm(stored[: len(y)] - own[: len(y)])):
        return None
    return in_the_oracle(best(_causes(x, stored, own, product, sample)))


def _columns(tensors: GptqTensors, columns: slice) -> GptqTensors:
    """Some columns of a layer, whole words of them, without its bias."""
    words = slice(columns.start // NIBBLES, columns.stop // NIBBLES)
    return GptqTensors(
        qweight=np.ascontiguousarray(tensors.qweight[:, columns]),
        qzeros=np.ascontiguousarray(tensors.qzeros[:, words]),
        scales=np.ascontiguousarray(tensors.scales[:, columns]),
        g_idx=tensors.g_idx,
        group_size=tensors.group_size,
        zero_format=tensors.zero_format,
    )


def _causes(
    x: Float32Array,
    stored: Float32Array,
    own: Float32Array,
    product: Float32Array,
    sample: WeightParts,
) -> Iterator[LayerFault | None]:
    """own: what the tensors say; product: the same without the bias; both (M, columns)."""
    bias = own - product
    for way in misreadings():
        read = way.read(sample)
        if read is not None:
            share = unexplained(stored, x @ read.weight() + bias, own)
            yield fault(way.name, way.sentence, share)
    yield fault("bias-missing", "the bias is not added", unexplained(stored, product, own))
    if (x != x[0]).any():  # of one row, any difference could be a bias
        added = own + (stored - own).mean(axis=0)
        what = "a bias is added that the tensors do not have"
        yield fault("bias-added", what, unexplained(stored, added, own))
