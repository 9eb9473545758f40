"""Values that can be read and multiplied, and are still not those of a trained layer.

Arithmetic cannot see them: a layer of zeros is computed without an error. Each sign has a name.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .packing import NIBBLES, unpack_rows
from .tensors import GptqTensors, in_order

SIGNS = {
    "all-zero": "every weight is 0, as of an expert that was never calibrated",
    "constant-words": "the words of qweight are the same few",
    "constant-groups": "all weights of a group are the same, and not 0",
    "zero-groups": "all weights of many groups are 0",
    "constant-scales": "all scales are the same",
    "zero-scales": "scales are 0 where levels differ",
    "absurd-scales": "scales are far from the others, or of no weight's size",
    "constant-zeros": "all zeros are the same, far from the middle, in an asymmetric layer",
}
"""Name -> what it means."""

_LEAST_WORDS = 64  # fewer words, or scales, can be alike by chance
_LEAST_ROWS = 16  # and so can the levels of a shorter group
_DISTINCT = 0.01  # of a sample of words; quantised weights have nearly all of theirs
_SAMPLE = 1 << 16
_ZERO_GROUPS = 0.1  # of all; some are padding, or were pruned
_ABSURD_RATIO = 500.0  # of a scale to the median: a group of weights of another size
_LARGEST_MEDIAN = 4.0  # of the scales: half of the weights would be beyond 10 or so
_SMALLEST_SCALE = 2.0**-20  # of the largest: float16 has 4 bits of it left
_MIDDLE = range(7, 10)  # zeros of a symmetric layer, with 1 between v1 and v2


def implausible(tensors: GptqTensors, symmetric: bool | None = None) -> dict[str, str]:
    """Sign -> what was found, of the signs in `SIGNS` that a layer shows.

    symmetric: what the configuration says; None if nothing.
    """
    return dict(_found(tensors, symmetric))


def _found(tensors: GptqTensors, symmetric: bool | None) -> Iterator[tuple[str, str]]:
    qweight = tensors.qweight
    scales = np.abs(tensors.scales.astype(np.float32))
    zeros = tensors.zeros()
    alike, level = _groups_without_spread(tensors)
    is_zero = (scales == 0) | alike & (level == zeros)
    if is_zero.all():
        yield "all-zero", f"expected weights, found {tensors.K} x {tensors.N} zeros"
        return
    distinct, of = _distinct(qweight)
    if of >= _LEAST_WORDS and distinct <= max(1, _DISTINCT * of):
        yield (
            "constant-words",
            f"expected qweight's words to differ, found {distinct} different ones among {of}, such "
            f"as {qweight.view(np.uint32)[0, 0]:#010x}",
        )
    constant = alike & ~is_zero
    if constant.any():
        yield (
            "constant-groups",
            f"expected weights that differ within a group, found {constant.sum()} groups of "
            f"{scales.size} without, the first at [group, column] {_first(constant)}",
        )
    share = float((alike & is_zero).mean())
    if share > _ZERO_GROUPS:
        yield "zero-groups", f"expected weights, found zeros alone in {share:.0%} of the groups"
    yield from _of_scales(scales, alike)
    if symmetric is not True and zeros.size >= _LEAST_WORDS and zeros.min() == zeros.max():
        zero = int(zeros.flat[0])
        if zero not in _MIDDLE:
            yield (
                "constant-zeros",
                f"expected zeros that differ, or such as a symmetric layer's, found {zero} in all",
            )


def _of_scales(
    scales: npt.NDArray[np.float32], without_spread: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, str]]:
    """scales: their sizes, float32 [groups, N]; without_spread: bool [groups, N]."""
    lost = (scales == 0) & ~without_spread
    if lost.any():
        yield (
            "zero-scales",
            f"expected scales other than 0 where levels differ, found {lost.sum()} of "
            f"{scales.size}, the first at {_first(lost)}",
        )
    used = scales[scales > 0]
    if not used.size:
        return
    largest, median = float(used.max()), float(np.median(used))
    if scales.size >= _LEAST_WORDS and used.size == scales.size and largest == used.min():
        yield "constant-scales", f"expected scales that differ, found {largest:.3g} in all"
    if largest > _ABSURD_RATIO * median:
        yield (
            "absurd-scales",
            f"expected scales of about one size, found {largest:.3g} at "
            f"{_first(scales == largest)}, {largest / median:.3g} times the median",
        )
    if median > _LARGEST_MEDIAN:
        yield "absurd-scales", f"expected scales of weights, found a median of {median:.3g}"
    elif largest < _SMALLEST_SCALE:
        yield (
            "absurd-scales",
            f"expected scales of weights, found none above {largest:.1e}, which float16 hardly "
            "tells from 0",
        )


def _first(mask: npt.NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.unravel_index(int(mask.argmax()), mask.shape)]


def _distinct(words: npt.NDArray[np.int32]) -> tuple[int, int]:
    """(different words, words) of a sample that is spread over all of them."""
    flat = words.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    return len(np.unique(sample)), sample.size


def _groups_without_spread(
    tensors: GptqTensors,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """(whether all levels of a group are the same, which level that is), both [groups, N]."""
    alike = np.zeros((tensors.groups, tensors.N), np.bool_)
    level = np.zeros(alike.shape, np.uint8)
    groups = in_order(tensors.K, tensors.group_size) if tensors.g_idx is None else tensors.g_idx
    order = np.argsort(groups, kind="stable")
    present, starts, rows = np.unique(groups[order], return_index=True, return_counts=True)
    long = rows >= _LEAST_ROWS
    present, starts = present[long], starts[long]

    def levels(number: int) -> npt.NDArray[np.uint32]:
        """Levels of the groups' rows of this number, [groups that are long enough, N]."""
        row = order[starts + number]
        shift = (row % NIBBLES * 4).astype(np.uint32)[:, None]
        found: npt.NDArray[np.uint32] = tensors.qweight.view(np.uint32)[row // NIBBLES] >> shift
        found &= np.uint32(15)
        return found

    # Few rows tell nearly all groups that have spread; only columns of the others are looked at.
    first = levels(0)
    few = np.ones(first.shape, np.bool_)
    for number in range(1, _LEAST_ROWS):
        few &= levels(number) == first
    columns = np.flatnonzero(few.any(axis=0))
    if columns.size:
        whole = unpack_rows(np.ascontiguousarray(tensors.qweight[:, columns]))[order]
        for group, start, count in zip(present, starts, rows[long], strict=True):
            part = whole[start : start + count]
            alike[group, columns] = (part == part[0]).all(axis=0)
            level[group, columns] = part[0]
    return alike, level
