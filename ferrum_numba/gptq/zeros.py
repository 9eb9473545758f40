"""The zero point: what the nibbles of `qzeros` mean.

A weight is `scale * (level - zero)`. Files of format v2 store the true zero, files of format v1
the true zero minus one, and where the true zero is 0 the writers of v1 disagree, so their files
need their own reading.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .packing import pack_columns, unpack_columns

_ONES = np.uint32(0x11111111)
SYMMETRIC_ZERO = 8
"""The true zero of every symmetric 4-bit group."""


ZeroFormat = Literal["v1", "v2", "v1_gptqmodel", "v1_autogptq"]
"""How a stored nibble becomes a true zero.

v1            nibble + 1, so 1..16. auto-round, and v1 files of unknown make.
v2            nibble, so 0..15.
v1_gptqmodel  the writer subtracted 0x11111111 from the whole word, so a zero of 0 borrows from
              the next nibble: add it back to the whole word, then take the nibble.
v1_autogptq   (nibble + 1) & 15, as AutoGPTQ's own reader does it. Where its writer wrapped, the
              higher nibbles of that word were lost when the file was written.
"""


def check_zero_format(value: object) -> ZeroFormat:
    """`value` as a ZeroFormat; CheckpointError for anything else."""
    for name in get_args(ZeroFormat):
        if value == name:
            return cast(ZeroFormat, name)
    names = ", ".join(repr(name) for name in get_args(ZeroFormat))
    raise CheckpointError(f"zero_format: expected one of {names}, found {value!r}")


def decode_zeros(qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat) -> npt.NDArray[np.uint8]:
    """True zeros, uint8 [groups, N], of `qzeros`, int32 [groups, N/8]; 1..16 for v1, else 0..15."""
    words, bias = kernel_words(qzeros, zero_format)
    zeros = unpack_columns(words)
    zeros += np.uint8(bias)
    return zeros


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
        return (qzeros.view(np.uint32) + _ONES).view(np.int32), 0
    return pack_columns((unpack_columns(qzeros) + np.uint8(1)) & np.uint8(15)), 0


def has_nibble_f(qzeros: npt.NDArray[np.int32]) -> bool:
    """Whether any nibble is 0xF: in v1 the mark of a true zero of 0, and of an unclear file."""
    words = qzeros.view(np.uint32)
    # A nibble is 0xF where all four bits meet in its lowest one.
    return bool(np.any(words & words >> 1 & words >> 2 & words >> 3 & _ONES))


def refuse_mislabelled(qzeros: npt.NDArray[np.int32], zero_format: ZeroFormat, name: str) -> None:
    """Refuse a symmetric layer whose `qzeros` say the other format than the label does.

    A symmetric 4-bit zero is 8, so all words are 0x77777777 in v1 and 0x88888888 in v2; the
    opposite means a wrong label. name: the tensor's name. Raises CheckpointError.
    """
    is_v2 = zero_format == "v2"
    expected, opposite = (0x88888888, 0x77777777) if is_v2 else (0x77777777, 0x88888888)
    if not np.all(qzeros.view(np.uint32) == opposite):
        return
    remedy: ZeroFormat = "v1" if is_v2 else "v2"
    raise CheckpointError(
        f"{name}: the configuration says symmetric and zero format {zero_format}, so every word "
        f"should be {expected:#010x} (true zero {SYMMETRIC_ZERO}); found {opposite:#010x} in all "
        f"of them, which is what zero format {remedy} stores. The label is probably wrong: open "
        f'with Checkpoint.open(path, zero_format="{remedy}"), or with '
        f'zero_format="{zero_format}" if the values are meant'
    )
