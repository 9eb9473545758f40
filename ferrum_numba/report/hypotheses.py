"""Known ways to read a weight wrong: each predicts the weight that it would give.

A prediction is float32 [R, N], the rows of a `Sample`; None where a way does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gptq.packing import NIBBLES
from ..gptq.zeros import decode_zeros
from .sample import Sample
from .tolerance import Float32Array

_SYMMETRIC_ZERO = 8
_AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # AutoAWQ's order of eight levels in a word


@dataclass(frozen=True)
class Hypothesis:
    """One wrong way; the sentence goes on from "It looks as if "."""

    name: str
    sentence: str
    predict: Callable[[Sample], Float32Array | None]


def hypotheses() -> Iterator[Hypothesis]:
    """All of them, the commoner first: of two that predict the same the first is named."""
    yield Hypothesis(
        "zero-too-small",
        "every zero is taken one too small: zeros of format v1 are read as v2",
        lambda sample: sample.weight(zeros=sample.zeros - 1),
    )
    yield Hypothesis(
        "zero-too-large",
        "every zero is taken one too large: zeros of format v2 are read as v1",
        lambda sample: sample.weight(zeros=sample.zeros + 1),
    )
    yield Hypothesis(
        "zeros-dropped",
        "the zeros are left out: the levels are taken as they are",
        lambda sample: sample.weight(zeros=np.zeros_like(sample.zeros)),
    )
    yield Hypothesis(
        "zeros-symmetric",
        "the zeros are taken to be symmetric, 8 for all, though they are not",
        lambda sample: sample.weight(zeros=np.full_like(sample.zeros, _SYMMETRIC_ZERO)),
    )
    yield Hypothesis(
        "levels-signed",
        "the levels are taken as signed: 8 to 15 as -8 to -1",
        lambda sample: sample.weight(levels=sample.levels - 16 * (sample.levels >= 8)),
    )
    yield from _nibble_orders()
    yield from _group_faults()
    for zero_format in ("v1", "v2", "v1_gptqmodel", "v1_autogptq"):
        yield Hypothesis(
            f"zeros-as-{zero_format}",
            f"the zeros are decoded as {zero_format}, which is not their format",
            partial(_decoded_as, zero_format=zero_format),
        )
    yield Hypothesis(
        "scales-dropped",
        "the scales are left out",
        lambda sample: sample.weight(scales=np.ones_like(sample.scales)),
    )


def _nibble_orders() -> Iterator[Hypothesis]:
    backwards = np.arange(NIBBLES)[::-1]
    for name, order, words in (
        ("reversed", backwards, "high nibble first"),
        ("awq", _AWQ_ORDER, "in AWQ's order (0, 2, 4, 6, 1, 3, 5, 7)"),
        ("awq-undone", np.argsort(_AWQ_ORDER), "against AWQ's order (0, 4, 1, 5, 2, 6, 3, 7)"),
    ):
        yield Hypothesis(
            f"qweight-nibbles-{name}",
            f"the levels in each word of qweight, which lie along K, are taken {words}",
            lambda s, order=order: s.weight(levels=_reordered(s.levels, order, axis=0)),  # type: ignore[misc]
        )
        yield Hypothesis(
            f"qzeros-nibbles-{name}",
            f"the zeros in each word of qzeros, which lie along N, are taken {words}",
            lambda s, order=order: s.weight(zeros=_reordered(s.zeros, order, axis=1)),  # type: ignore[misc]
        )
    yield Hypothesis(
        "columns-reversed",
        "the columns come out backwards in every eight: nibbles reversed along N",
        lambda sample: _reordered(sample.weight(), backwards, axis=1),
    )


def _reordered(values: Float32Array, order: npt.NDArray[Any], axis: int) -> Float32Array:
    """Each eight along an axis put into another order."""
    if axis == 0:
        return values.reshape(-1, NIBBLES, values.shape[1])[:, order].reshape(values.shape)
    return values.reshape(len(values), -1, NIBBLES)[..., order].reshape(values.shape)


def _group_faults() -> Iterator[Hypothesis]:
    yield Hypothesis(
        "act-order-ignored",
        "g_idx is ignored: row k is taken to be in group k // group_size (act-order)",
        lambda sample: _groups(sample, sample.tensors.group_size) if sample.tensors.act_order
        else None,
    )  # fmt: skip
    yield Hypothesis(
        "group-size-doubled",
        "the group size is taken twice as large as it is",
        lambda sample: _groups(sample, 2 * sample.tensors.group_size),
    )
    yield Hypothesis(
        "group-size-halved",
        "the group size is taken half as large as it is",
        lambda sample: _groups(sample, max(1, sample.tensors.group_size // 2)),
    )
    for by, words in ((1, "of the group before"), (-1, "of the group after")):
        yield Hypothesis(
            f"scales-shifted{by:+d}",
            f"each group is given the scales {words}",
            lambda s, by=by: s.weight(scales=np.roll(s.scales, by, axis=0)),  # type: ignore[misc]
        )
        yield Hypothesis(
            f"zeros-shifted{by:+d}",
            f"each group is given the zeros {words}",
            lambda s, by=by: s.weight(zeros=np.roll(s.zeros, by, axis=0)),  # type: ignore[misc]
        )
        yield Hypothesis(
            f"groups-shifted{by:+d}",
            f"each group is given the scales and the zeros {words}",
            lambda s, by=by: s.weight(groups=(s.groups - by) % len(s.scales)),  # type: ignore[misc]
        )
    yield Hypothesis(
        "first-group-for-all",
        "all rows are given the scales and zeros of the first group",
        lambda sample: sample.weight(groups=np.zeros_like(sample.groups)),
    )


def _groups(sample: Sample, group_size: int) -> Float32Array:
    """Row k in group k // group_size; one that is not there counts as the last."""
    return sample.weight(groups=np.minimum(sample.rows // group_size, len(sample.scales) - 1))


def _decoded_as(sample: Sample, zero_format: Any) -> Float32Array | None:
    if sample.tensors.zero_format == zero_format:
        return None
    zeros = decode_zeros(sample.tensors.qzeros, zero_format)
    return sample.weight(zeros=zeros.astype(np.float32))
