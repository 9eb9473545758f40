"""The zero point: what the nibbles of `qzeros` mean.

A weight is `scale * (level - zero)`. Files of format v2 store the true zero, files of format v1
the true zero minus one, and where the true zero is 0 the writers of v1 disagree, so their files
need their own reading.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .packing import WORD_BITS, pack_columns, unpack_columns

ZeroFormat = Literal["v1", "v2", "v1_gptqmodel", "v1_autogptq"]
"""Rule by which a stored nibble becomes a true zero.

v1            nibble + 1, so 1..16. auto-round, and v1 files of unknown make.
v2            nibble, so 0..15.
v1_gptqmodel  the writer subtracted 0x11111111 from the whole word, so a zero of 0 borrows from
              the next nibble: add it back to the whole word, then take the nibble.
v1_autogptq   (nibble + 1) & 15, as AutoGPTQ's own reader does it. Where its writer wrapped, the
              higher nibbles of that word were lost when the file was written.

Layers of other widths follow the same rules with their own mask, but for three bits GPTQModel
shifts each level by itself, as AutoGPTQ does: there a borrow cannot stay within a word.
"""


def check_zero_format(value: object) -> ZeroFormat:
    """`value` as a ZeroFormat; CheckpointError for anything else."""
    for name in get_args(ZeroFormat):
        if value == name:
            return cast(ZeroFormat, name)
    names = ", ".join(repr(name) for name in get_args(ZeroFormat))
    raise CheckpointError("zero_format", f"one of {names}", f"{value!r}")


def decode_zeros(
    qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat, bits: int = 4
) -> npt.NDArray[Any]:
    """True zeros [groups, N] of `qzeros`, int32 [groups, N*bits/32].

    1..2^bits for v1, else 0..2^bits - 1; uint8, but int16 for 8 bits, where v1 reaches 256.
    """
    if bits == 4:
        words, bias = kernel_words(qzeros, zero_format)
        zeros = unpack_columns(words)
        zeros += np.uint8(bias)
        return zeros
    if zero_format == "v1_gptqmodel" and bits != 3:  # three bits it shifts level by level
        words = (qzeros.view(np.uint32) + np.uint32(word_of_ones(bits))).view(np.int32)
        return _widened(unpack_columns(words, bits), bits)
    zeros = _widened(unpack_columns(qzeros, bits), bits)
    if zero_format == "v2":
        return zeros
    zeros += zeros.dtype.type(1)
    if zero_format != "v1":
        zeros &= zeros.dtype.type((1 << bits) - 1)
    return zeros


def _widened(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[Any]:
    return levels.astype(np.int16) if bits == 8 else levels


def word_of_ones(bits: int) -> int:
    """32 bits of levels of one, for widths that divide a word: 0x11111111 for four bits."""
    return 0xFFFFFFFF // ((1 << bits) - 1)


def kernel_words(
    qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat
) -> tuple[npt.NDArray[np.int32], int]:
    """Words that a kernel reads as `nibble + zero_bias`, and that bias (1 or 0).

    qzeros: int32 [groups, N/8]. Returns the same array wherever that reading is exact: always for
    v1 (bias 1) and v2 (bias 0), and for a producer's own v1 as long as no nibble is 0xF, since
    adding one then carries nowhere. Otherwise new words that hold the true zeros (bias 0).
    """
    if zero_format == "v2":
        return qzeros, 0
    if zero_format == "v1" or not has_nibble_f(qzeros):
        return qzeros, 1
    if zero_format == "v1_gptqmodel":
        return (qzeros.view(np.uint32) + np.uint32(word_of_ones(4))).view(np.int32), 0
    return pack_columns((unpack_columns(qzeros) + np.uint8(1)) & np.uint8(15)), 0


def has_nibble_f(qzeros: npt.NDArray[np.int32]) -> bool:
    """True if any nibble is 0xF: in v1 the mark of a true zero of 0, and of an unclear file."""
    words = qzeros.view(np.uint32)
    # A nibble is 0xF where all four bits meet in its lowest one.
    return bool(np.any(words & words >> 1 & words >> 2 & words >> 3 & np.uint32(word_of_ones(4))))


def symmetric_words(
    shape: tuple[int, int], stores_true_zero: bool, bits: int
) -> npt.NDArray[np.int32]:
    """`qzeros` of a symmetric layer: int32 of `shape` [groups, N*bits/32], one row read by all.

    The true zero is 2^(bits-1). stores_true_zero: as v2 does; v1 stores one less.
    """
    groups, columns = shape
    stored = (1 << bits - 1) - (0 if stores_true_zero else 1)
    row = _row_of(stored, columns, bits)
    return np.broadcast_to(row, (groups, row.shape[1]))


@lru_cache(maxsize=64)
def _row_of(stored: int, columns: int, bits: int) -> npt.NDArray[np.int32]:
    """One row of words, int32 [1, columns], whose levels are all the same."""
    return pack_columns(np.full((1, columns * WORD_BITS // bits), stored, np.uint8), bits)


def plain_format(qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat) -> ZeroFormat:
    """The simplest 4-bit format that reads `qzeros` the same: v1 for a producer's own, mostly."""
    producers_own = zero_format not in ("v1", "v2")
    return "v1" if producers_own and not has_nibble_f(qzeros) else zero_format


def refuse_mislabelled(
    qzeros: npt.NDArray[np.int32],
    zero_format: ZeroFormat,
    name: str,
    *,
    symmetric: bool | None,
    bits: int = 4,
) -> None:
    """Refuse `qzeros` that contradict what the configuration says.

    A symmetric zero is 2^(bits-1), so that for four bits all words are 0x77777777 in v1 and
    0x88888888 in v2. All words the other format's means a wrong label, unless the layer is known
    to be asymmetric; any other zero in a layer known to be symmetric is damage, or a wrong `sym`.

    name: the tensor's name. symmetric: what the configuration says, None if nothing. Raises
    CheckpointError.
    """
    if symmetric is False:
        return
    is_v2 = zero_format == "v2"
    if np.array_equal(qzeros, symmetric_words(_shape(qzeros), not is_v2, bits)):
        remedy: ZeroFormat = "v1" if is_v2 else "v2"
        expected = symmetric_words(_shape(qzeros), is_v2, bits).view(np.uint32)[0, 0]
        raise CheckpointError(
            name,
            f"{expected:#010x} (true zero {1 << bits - 1}) in every word, as the configuration "
            f"says {'symmetric and ' if symmetric else ''}zero format {zero_format}",
            f"{qzeros.view(np.uint32)[0, 0]:#010x} in all of them, which is what zero format "
            f"{remedy} stores",
            f'the label is probably wrong: open with Checkpoint.open(path, zero_format="{remedy}")'
            f', or with zero_format="{zero_format}" if the values are meant',
            code="zero-convention",
            data={"symmetric": True} if symmetric else {},
        )
    if symmetric:
        _refuse_asymmetric(qzeros, zero_format, name, bits)


def _refuse_asymmetric(
    qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat, name: str, bits: int
) -> None:
    words = symmetric_words(_shape(qzeros), zero_format == "v2", bits)
    if np.array_equal(qzeros, words):
        return
    group, word = (int(index) for index in np.argwhere(qzeros != words)[0])
    raise CheckpointError(
        name,
        f"{words.view(np.uint32)[group, word]:#010x} (true zero {1 << bits - 1}) in every word, as "
        f"the configuration says symmetric and zero format {zero_format}",
        f"{qzeros.view(np.uint32)[group, word]:#010x} at [{group}, {word}], the first of "
        f"{int(np.count_nonzero(qzeros != words))} such words",
        "the file is damaged, or sym is wrong: correct it, or open with "
        f'Checkpoint.open(path, zero_format="{zero_format}") if the values are meant',
        code="tensor-values",
        data={"symmetric": True},
    )


def _shape(qzeros: npt.NDArray[np.int32]) -> tuple[int, int]:
    groups, columns = qzeros.shape
    return groups, columns
