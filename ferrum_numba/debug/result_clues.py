"""Relations of a wrong result to the right one: a factor, a bias, an order, an overflow.

What a launch computed besides is right, so the cause is rarely in its block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import Case
from .hypothesis import Hypothesis
from .trial import Outcome, distance, tolerance

RELATIONS = ("overflow", "result-scaled", "result-shifted", "result-reordered")
_WEIGHT = 0.92  # of a relation that holds for every element
_MOST = 1 << 22  # elements, and
_MOST_ROWS = 2048  # rows of a result whose order is looked for
Matrix = NDArray[np.float64]


def result_clues(case: Case, outcome: Outcome) -> list[Hypothesis]:
    """Relate the outputs of a run to those that were expected."""
    found: list[Hypothesis] = []
    for name, expected in case.expected.items():
        result = outcome.outputs.get(name)
        if outcome.error or result is None or not 0 < expected.size <= _MOST:
            continue
        if result.size != expected.size:
            told = f"{name} has shape {list(result.shape)}, expected was {list(expected.shape)}"
            found.append(Hypothesis("result-shape", told, 0.6))
            continue
        if distance(result, expected) > tolerance(result, expected):
            found += _related(case, name, result, expected)
            found += _untouched(name, case.arrays[name].values, result, expected)
    return found


def where_wrong(result: NDArray[Any], expected: NDArray[Any]) -> str:
    """Name the rows or columns of a matrix that are wrong; empty where all are."""
    if result.size != expected.size or not 0 < expected.size <= _MOST:
        return ""
    ours, theirs = _matrix(result, expected), _matrix(expected, expected)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(ours - theirs) <= 2 * tolerance(result, expected) * (
            np.abs(theirs).max() or 1.0
        )
    wrong = ~(near | (ours == theirs))
    parts = [_span(wrong.any(axis=1 - axis), kind) for axis, kind in ((0, "row"), (1, "column"))]
    return ", ".join(part for part in parts if part)


def _span(wrong: NDArray[np.bool_], kind: str) -> str:
    """`rows 16 to 19 of 20`, where those are wrong and no others are."""
    indices = np.flatnonzero(wrong)
    if not 0 < len(indices) < len(wrong):
        return ""
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 != len(indices):
        return f"{len(indices)} of {len(wrong)} {kind}s, the first is {first}"
    many = f"{kind}s {first} to {last}" if last > first else f"{kind} {first}"
    return f"{many} of {len(wrong)}"


def _related(
    case: Case, name: str, result: NDArray[Any], expected: NDArray[Any]
) -> Iterator[Hypothesis]:
    overflown = _overflown(name, result, expected)
    if overflown is not None:
        yield overflown
        return
    ours, theirs = _matrix(result, expected), _matrix(expected, expected)
    near = tolerance(result, expected)
    size = float(np.linalg.norm(theirs))
    if not size or not np.isfinite(ours).all() or not np.isfinite(theirs).all():
        return
    if not ours.any():
        yield Hypothesis("result-zero", f"{name} is zero everywhere", 0.5)
        return
    factor = float((ours * theirs).sum() / (ours * ours).sum())
    if np.linalg.norm(factor * ours - theirs) <= near * size:
        told = f"expected is {factor:.4g} times {name}, everywhere"
        yield Hypothesis("result-scaled", told, _WEIGHT)
    elif told := _added(case, name, theirs - ours, near * size):
        yield Hypothesis("result-shifted", told, _WEIGHT)
    elif told := _reordered(name, result, expected, near):
        yield Hypothesis("result-reordered", told, _WEIGHT)


def _untouched(
    name: str, before: NDArray[Any], result: NDArray[Any], expected: NDArray[Any]
) -> Iterator[Hypothesis]:
    """Whole rows or columns that the launch left as they were."""
    then, now, theirs = (_matrix(x, expected) for x in (before, result, expected))
    same = ((then == now) | (np.isnan(then) & np.isnan(now))) & (now != theirs)
    parts = [_span(same.all(axis=1 - axis), kind) for axis, kind in ((0, "row"), (1, "column"))]
    if any(parts):
        told = f"{name}, {' and '.join(p for p in parts if p)}: as before the launch"
        yield Hypothesis("output-unwritten", told, 0.5)


def _matrix(values: NDArray[Any], like: NDArray[Any]) -> Matrix:
    """Array as float64 [rows, columns], rows as `like` has them."""
    width = like.shape[-1] if like.ndim > 1 else like.size
    return np.ascontiguousarray(values).astype(np.float64).reshape(-1, width)


def _overflown(name: str, result: NDArray[Any], expected: NDArray[Any]) -> Hypothesis | None:
    """Infinities where what is expected does not fit into the output's type."""
    if result.dtype != np.float16:
        return None
    ours, theirs = _matrix(result, expected), _matrix(expected, expected)
    large = float(np.finfo(np.float16).max)
    beyond = (np.abs(theirs) >= 0.95 * large) & np.isinf(ours)
    if not beyond.any() or (~np.isfinite(ours) & ~beyond).any():
        return None
    row, column = np.argwhere(beyond)[0]
    told = (
        f"{name}[{row}, {column}] should be {theirs[row, column]:.6g}, float16 ends at {large:g}; "
        f"{int(beyond.sum())} elements are so"
    )
    return Hypothesis("overflow", told, 0.95)


def _added(case: Case, name: str, missing: Matrix, near: float) -> str:
    """Say which number lacks everywhere, in each column or in each row."""
    for other, array in case.arrays.items():
        if array.values.size == missing.size and other != name:
            values = _matrix(array.values, missing)
            if not np.isfinite(values).all():
                continue
            for sign, word in ((1, "+"), (-1, "-")):
                if np.linalg.norm(missing - sign * values) <= near:
                    return f"expected is {name} {word} {other}, such as a residual"
    whole = float(missing.mean())
    if np.linalg.norm(missing - whole) <= near:
        return f"expected is {name} {whole:+.4g}, everywhere"
    for axis, kind, each in ((0, "column", "row"), (1, "row", "column")):
        if missing.shape[axis] < 2:
            continue
        mean = missing.mean(axis=axis, keepdims=True)
        if np.linalg.norm(missing - mean) <= near:
            shown = ", ".join(f"{x:+.4g}" for x in mean.ravel()[:3])
            return (
                f"expected - {name} is the same in every {each}, a number for each {kind}: "
                f"{shown}, …; such as a bias that is not added, or added twice"
            )
    return ""


def _reordered(name: str, result: NDArray[Any], expected: NDArray[Any], near: float) -> str:
    """Rows or columns of the result in another order, or its transpose, in words."""
    ours, theirs = _matrix(result, expected), _matrix(expected, expected)
    rows, columns = theirs.shape
    if rows > 1 and columns > 1:
        for turned in (ours.reshape(columns, rows).T, ours.T.reshape(rows, columns)):
            if np.linalg.norm(turned - theirs) <= near * np.linalg.norm(theirs):
                return f"{name} is the transpose of what is expected"
    for kind, one, other in (("row", ours, theirs), ("column", ours.T, theirs.T)):
        order = _order(one, other, near)
        if order is not None:
            first = int(np.flatnonzero(order != np.arange(len(order)))[0])
            return f"{kind} {first} of what is expected is {kind} {int(order[first])} of {name}"
    return ""


def _order(ours: Matrix, theirs: Matrix, near: float) -> NDArray[np.intp] | None:
    """Row of ours that each row of theirs is, if that is one order of all rows."""
    if not 1 < len(ours) <= _MOST_ROWS or ours.shape[1] < 2:
        return None
    squares = (ours**2).sum(1)[None] + (theirs**2).sum(1)[:, None] - 2 * theirs @ ours.T
    order = squares.argmin(axis=1)
    if len(np.unique(order)) != len(order):
        return None
    return order if np.linalg.norm(ours[order] - theirs) <= near * np.linalg.norm(theirs) else None
