"""The known ways to read a 4-bit GPTQ weight wrong: one list, for `explain` and for `verify`.

Each turns the parts of a weight into those that the wrong reader sees.  `verify` predicts from them
the weight that a device would compute with; `explain` puts them back into the arrays of a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from .packing import NIBBLES, unpack_rows
from .tensors import GptqTensors
from .zeros import ZeroFormat, decode_zeros

Array = npt.NDArray[Any]

_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's order of eight levels in a word
WORD_ORDERS: dict[str, tuple[tuple[int, ...], str]] = {
    "reversed": (tuple(range(NIBBLES - 1, -1, -1)), "high nibble first"),
    "awq": (_AWQ, "in AWQ's order (0, 2, 4, 6, 1, 3, 5, 7)"),
    "awq-undone": (
        tuple(int(i) for i in np.argsort(_AWQ)),
        "against AWQ's order (0, 4, 1, 5, 2, 6, 3, 7)",
    ),
}
"""Other orders of the eight levels in a word, low nibble first, and what they are in words."""

_USUAL_GROUPS = (32, 64, 128)
_SYMMETRIC_ZERO = 8


@dataclass(frozen=True, eq=False)
class WeightParts:
    """Rows of a weight [K, N] taken apart: scale * (level - zero), G the group size.

    rows    integers [R], ascending; whole words, so R is a multiple of 8
    levels  numbers [R, N], 0..15
    zeros   numbers [groups, N], the true zeros
    scales  numbers [groups, N]
    groups  integers [R], of each row
    qzeros  int32 [groups, N/8], of zero_format
    """

    rows: Array
    levels: Array
    zeros: Array
    scales: Array
    groups: Array
    qzeros: npt.NDArray[np.int32]
    zero_format: ZeroFormat
    group_size: int
    K: int
    act_order: bool

    @classmethod
    def take(cls, tensors: GptqTensors, words: Array) -> WeightParts:
        """The rows of these words of qweight, integers, ascending, below K/8; all in float32."""
        rows = (words[:, None] * NIBBLES + np.arange(NIBBLES)).ravel()
        return cls(
            rows=rows,
            levels=unpack_rows(tensors.qweight[words]).astype(np.float32),
            zeros=tensors.zeros().astype(np.float32),
            scales=tensors.scales.astype(np.float32),
            groups=groups_of_rows(tensors)[rows],
            qzeros=tensors.qzeros,
            zero_format=tensors.zero_format,
            group_size=tensors.group_size,
            K=tensors.K,
            act_order=tensors.act_order,
        )

    def weight(self) -> npt.NDArray[np.float32]:
        """The rows' weight, float32 [R, N]."""
        weight = self.scales[self.groups] * (self.levels - self.zeros[self.groups])
        return cast("npt.NDArray[np.float32]", weight.astype(np.float32, copy=False))


def groups_of_rows(tensors: GptqTensors) -> Array:
    """The group of each row, integers [K]."""
    if tensors.g_idx is not None:
        return tensors.g_idx
    return np.arange(tensors.K) // tensors.group_size


@dataclass(frozen=True)
class Misreading:
    """One wrong way.

    sentence  goes on from "It looks as if "
    parts     the fields of `WeightParts` that it changes
    change    those fields for a weight; None where the way does not apply to it
    cause     what the debugger calls a launch whose reader does so; empty for what none does
    mended    the change in words, for a launch that it makes right
    """

    name: str
    sentence: str
    parts: tuple[str, ...]
    change: Callable[[WeightParts], tuple[Array, ...] | None]
    cause: str = ""
    mended: str = ""
    group_size: Callable[[WeightParts], int] | None = None

    def read(self, weight: WeightParts) -> WeightParts | None:
        """The parts as they are read; None where the way does not apply."""
        changed = self.change(weight)
        if changed is None:
            return None
        size = self.group_size(weight) if self.group_size else weight.group_size
        parts: dict[str, Any] = dict(zip(self.parts, changed, strict=True))
        return replace(weight, group_size=size, **parts)


def misreadings() -> Iterator[Misreading]:
    """All of them, the commoner first: of two that predict the same the first is named."""
    for step, name, size, mended, label in (
        (-1, "zero-too-small", "small", "smaller", "zeros of format v1 are read as v2"),
        (1, "zero-too-large", "large", "larger", "zeros of format v2 are read as v1"),
    ):
        yield Misreading(
            name,
            f"every zero is taken one too {size}: {label}",
            ("zeros",),
            lambda weight, step=step: (weight.zeros + step,),  # type: ignore[misc]
            "zero-convention",
            f"zeros one {mended}",
        )
    yield Misreading(
        "zeros-dropped",
        "the zeros are left out: the levels are taken as they are",
        ("zeros",),
        lambda weight: (np.zeros_like(weight.zeros),),
    )
    yield Misreading(
        "zeros-symmetric",
        "the zeros are taken to be symmetric, 8 for all, though they are not",
        ("zeros",),
        lambda weight: (np.full_like(weight.zeros, _SYMMETRIC_ZERO),),
    )
    yield Misreading(
        "levels-signed",
        "the levels are taken as signed: 8 to 15 as -8 to -1",
        ("levels",),
        lambda weight: (weight.levels - 16 * (weight.levels >= 8),),
    )
    yield from _word_orders()
    yield from _group_faults()
    for zero_format in get_args(ZeroFormat):
        yield Misreading(
            f"zeros-as-{zero_format}",
            f"the zeros are decoded as {zero_format}, which is not their format",
            ("zeros",),
            lambda weight, zero_format=zero_format: _decoded_as(weight, zero_format),  # type: ignore[misc]
            "zero-convention",
            f"zeros decoded as {zero_format}",
        )
    yield Misreading(
        "scales-dropped",
        "the scales are left out",
        ("scales",),
        lambda weight: (np.ones_like(weight.scales),),
    )


def _word_orders() -> Iterator[Misreading]:
    for name, (order, words) in WORD_ORDERS.items():
        for array, axis, what, part in (
            ("qweight", "K", "levels", "levels"),
            ("qzeros", "N", "zeros", "zeros"),
        ):
            along = 0 if axis == "K" else 1
            yield Misreading(
                f"{array}-nibbles-{name}",
                f"the {what} in each word of {array}, which lie along {axis}, are taken {words}",
                (part,),
                lambda weight, part=part, order=order, along=along: (  # type: ignore[misc]
                    _reordered(getattr(weight, part), order, along),
                ),
                "nibble-order",
                f"{array} put into GPTQ's order",
            )
    backwards = WORD_ORDERS["reversed"][0]
    yield Misreading(
        "columns-reversed",
        "the columns come out backwards in every eight: nibbles reversed along N",
        ("levels", "zeros", "scales"),
        lambda weight: (
            _reordered(weight.levels, backwards, 1),
            _reordered(weight.zeros, backwards, 1),
            _reordered(weight.scales, backwards, 1),
        ),
    )


def _reordered(values: Array, order: tuple[int, ...], axis: int) -> Array:
    """Reorder each eight along an axis."""
    if axis == 0:
        words = values.reshape(-1, NIBBLES, values.shape[1])
        return words[:, list(order)].reshape(values.shape)
    return values.reshape(len(values), -1, NIBBLES)[..., list(order)].reshape(values.shape)


def _group_faults() -> Iterator[Misreading]:
    yield Misreading(
        "act-order-ignored",
        "g_idx is ignored: row k is taken to be in group k // group_size (act-order)",
        ("groups",),
        lambda weight: (_groups(weight, weight.group_size),) if weight.act_order else None,
        "act-order-ignored",
    )
    yield _group_size("doubled", "twice as large as it is", lambda weight: 2 * weight.group_size)
    yield _group_size(
        "halved", "half as large as it is", lambda weight: max(1, weight.group_size // 2)
    )
    for usual in _USUAL_GROUPS:
        yield _group_size(f"as-{usual}", f"as {usual}", lambda _, usual=usual: usual)  # type: ignore[misc]
    for by, words in ((1, "of the group before"), (-1, "of the group after")):
        for name, what, parts in (
            ("scales", "the scales", ("scales",)),
            ("zeros", "the zeros", ("zeros",)),
            ("groups", "the scales and the zeros", ("scales", "zeros")),
        ):
            yield Misreading(
                f"{name}-shifted{by:+d}",
                f"each group is given {what} {words}",
                parts,
                lambda weight, by=by, parts=parts: tuple(  # type: ignore[misc]
                    np.roll(getattr(weight, part), by, axis=0) for part in parts
                ),
                "groups-shifted",
                f"the rows of {' and '.join(parts)} moved by {by:+d}",
            )
    yield Misreading(
        "first-group-for-all",
        "all rows are given the scales and zeros of the first group",
        ("groups",),
        lambda weight: (np.zeros_like(weight.groups),),
    )
    yield _group_size("as-K", "as K, one group for all rows", lambda weight: weight.K)


def _group_size(name: str, words: str, size: Callable[[WeightParts], int]) -> Misreading:
    return Misreading(
        f"group-size-{name}",
        f"the group size is taken {words}",
        ("groups",),
        lambda weight: (_groups(weight, size(weight)),),
        "group-size-wrong",
        group_size=size,
    )


def _groups(weight: WeightParts, group_size: int) -> Array:
    """Row k in group k // group_size; one that is not there counts as the last."""
    groups: Array = np.minimum(weight.rows // group_size, len(weight.scales) - 1)
    return groups


def _decoded_as(weight: WeightParts, zero_format: ZeroFormat) -> tuple[Array, ...] | None:
    if weight.zero_format == zero_format:
        return None
    return (decode_zeros(weight.qzeros, zero_format).astype(weight.zeros.dtype),)
