"""Clues from a GPTQ weight, and the known ways to misread one, to be tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..gptq.misreadings import Misreading, WeightParts, misreadings
from ..gptq.packing import NIBBLES, pack_columns, unpack_columns, unpack_rows
from ..gptq.zeros import has_nibble_f, symmetric_words
from .case import Case
from .hypothesis import Hypothesis

_SURE = ("zero-convention", 0.35), ("group-size-wrong", 0.3), ("groups-shifted", 0.2)
_WEIGHTS = dict(_SURE)
_LARGEST = 1 << 20  # rows


def zero_clues(case: Case) -> Iterator[Hypothesis]:
    """Zeros that are those of symmetric weights, or of a producer's own format."""
    weight, bias = _weight(case), _zero_bias(case)
    if weight is None or bias is None:
        return
    for there in (1, 0):
        words = symmetric_words(_shape(weight.qzeros), not there, 4)
        if there != bias and words.size and np.array_equal(weight.qzeros, words):
            told = (
                f"every zero is stored as {8 - there}, which is symmetric 4-bit weights in "
                f"v{2 - there}; the kernel adds {bias}, so it is for v{2 - bias}"
            )
            yield _with_zeros(case, weight.zeros + there - bias, told, 0.9)
    if bias == 1 and has_nibble_f(weight.qzeros):
        told = (
            "qzeros holds 15, to this kernel a zero of 16: a producer's v1 words have it where a "
            "zero of 0 borrowed from its neighbour, and Checkpoint.load and GptqTensors decode them"
        )
        for way in misreadings():
            if way.name.startswith("zeros-as-v1_"):
                yield from _hypothesis(case, weight, way, told, 0.5)


def weight_guesses(case: Case) -> Iterator[Hypothesis]:
    """The ways that a launch can misread a weight, but for the order of a word's levels."""
    weight = _weight(case)
    if weight is None:
        return
    sizes = {weight.group_size}
    for way in misreadings():
        if way.cause not in _WEIGHTS or way.name.startswith("zeros-as-"):
            continue  # one more or one less is what the formats differ by
        if way.group_size is not None:
            size = way.group_size(weight)
            if size in sizes:
                continue
            sizes.add(size)
        yield from _hypothesis(case, weight, way, "", _WEIGHTS[way.cause])
    yield from _solved_zeros(case, weight)


def _solved_zeros(case: Case, weight: WeightParts) -> Iterator[Hypothesis]:
    """The zeros that the expected result asks for, where its rows are enough to tell them.

    c = a @ (s * (level - zero)), so other zeros change c by the sum of a over each group times
    s * (zero - other): linear equations for each column, with a group for each unknown.
    """
    a, expected = case.arrays.get("a"), case.expected.get("c")
    if a is None or expected is None or a.values.ndim != 2 or a.values.shape[1] != weight.K:
        return
    if expected.shape != (len(a.values), weight.scales.shape[1]):
        return
    x, right = a.values.astype(np.float64), expected.astype(np.float64)
    if not all(
        np.isfinite(values).all() for values in (x, right, weight.scales.astype(np.float64))
    ):
        return
    starts = np.flatnonzero(np.diff(weight.groups, prepend=-1))
    sums = np.add.reduceat(x, starts, axis=1)
    if sums.shape != (len(x), len(weight.scales)) or np.linalg.matrix_rank(sums) < sums.shape[1]:
        return
    scales = weight.scales.astype(np.float64)
    with np.errstate(all="ignore"):
        product = x @ (scales[weight.groups] * (weight.levels - weight.zeros[weight.groups]))
        step = np.linalg.lstsq(sums, product - right, rcond=None)[0] / scales
    if not np.isfinite(step).all() or not np.abs(step).max() < 32:
        return
    zeros = weight.zeros + np.rint(step).astype(np.int64)
    other = int(np.count_nonzero(zeros != weight.zeros))
    if other:
        told = f"the expected result asks for other zeros than qzeros has, {other} of {zeros.size}"
        found = _with_zeros(case, zeros, told, 0.25)
        mended = found.mended.replace("other zeros", "the zeros that it asks for", 1)
        yield replace(found, cause="array-of-another-layer", mended=mended)


def _hypothesis(
    case: Case, weight: WeightParts, way: Misreading, told: str, sure: float
) -> Iterator[Hypothesis]:
    read = way.read(weight)
    if read is None:
        return
    if way.parts == ("zeros",) and way.cause == "zero-convention":
        found = _with_zeros(case, read.zeros, told or f"{way.mended} were tried", sure)
        yield replace(found, mended=found.mended.replace("other zeros", way.mended, 1))
    elif way.group_size is not None:
        mended = f"group_size = {read.group_size}"
        told = f"group_size is {weight.group_size}, and {read.group_size} was tried"
        remedy = case.with_values(group_size=read.group_size)
        yield Hypothesis(way.cause, told, sure, remedy, mended)
    else:
        remedy = case
        for part in way.parts:
            if part == "zeros":
                stored = read.zeros - (_zero_bias(case) or 0)
                remedy = remedy.with_array("qzeros", pack_columns(stored.astype(np.uint8)))
            else:
                old = case.arrays[part].values
                remedy = remedy.with_array(part, getattr(read, part).astype(old.dtype))
        yield Hypothesis(way.cause, f"{way.mended} were tried", sure, remedy, way.mended)


def _with_zeros(case: Case, zeros: NDArray[Any], told: str, sure: float) -> Hypothesis:
    """These true zeros, [groups, N]: stored for this kernel, or for that of the other format.

    What neither can store wraps around, as it did in the file.
    """
    bias = _zero_bias(case) or 0
    remedy, mended = case, "other zeros"
    if not _can_store(zeros - bias) and _can_store(zeros - (1 - bias)):
        other = _sister(case, 1 - bias)
        if other is not None:
            remedy, bias = other, 1 - bias
            mended += f", by the kernel of zero format v{2 - bias}"
    stored = (zeros - bias).astype(np.int64) & 15
    remedy = remedy.with_array("qzeros", pack_columns(stored.astype(np.uint8)))
    return Hypothesis("zero-convention", told, sure, remedy, mended)


def _can_store(levels: NDArray[Any]) -> bool:
    return bool(((levels >= 0) & (levels <= 15)).all())


def _zero_bias(case: Case) -> int | None:
    """The number that the launch adds to a stored zero; None where nobody says."""
    bias = case.values.get("zero_bias", (case.declared.constants or {}).get("ZERO_BIAS"))
    return bias if bias in (0, 1) else None


def _sister(case: Case, bias: int) -> Case | None:
    """The case with the other zero bias: as an argument, or by the shipped build that has it."""
    if "zero_bias" in case.values:
        return case.with_values(zero_bias=bias)
    own = case.declared
    for build in (kernels.canonical, kernels.act_order):
        for dtype in ("float16", "bfloat16"):
            other = build(bias, dtype)
            if (other.sidecar.entry, other.sidecar.params) == (own.entry, own.params):
                return replace(case, ptx=other.text, sidecar=other.sidecar)
    return None


def _weight(case: Case) -> WeightParts | None:
    """The launch's weight taken apart; None where it is not clear what it is."""
    arrays = [case.arrays.get(name) for name in ("qweight", "qzeros", "scales")]
    qweight, qzeros, scales = (None if array is None else array.values for array in arrays)
    size, bias = case.values.get("group_size"), _zero_bias(case)
    if qweight is None or qzeros is None or scales is None or not isinstance(size, int):
        return None
    packed = all(array.dtype == np.int32 and array.ndim == 2 for array in (qweight, qzeros))
    if not packed or scales.ndim != 2 or scales.shape != (len(qzeros), qzeros.shape[1] * NIBBLES):
        return None
    rows = np.arange(len(qweight) * NIBBLES)
    if qweight.shape[1] != scales.shape[1] or not 0 < size <= len(rows) < _LARGEST:
        return None
    return WeightParts(
        rows=rows,
        levels=unpack_rows(np.ascontiguousarray(qweight)),
        zeros=unpack_columns(np.ascontiguousarray(qzeros)).astype(np.int64) + (bias or 0),
        scales=scales,
        groups=np.minimum(rows // size, max(len(scales) - 1, 0)),
        qzeros=np.ascontiguousarray(qzeros),
        zero_format="v2" if bias == 0 else "v1",
        group_size=size,
        K=len(rows),
        act_order=False,
    )


def _shape(qzeros: NDArray[Any]) -> tuple[int, int]:
    groups, columns = qzeros.shape
    return groups, columns
