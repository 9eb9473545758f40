"""Four-bit levels and the int32 words that hold them, eight to a word, low nibble first.

`qweight` packs along K (rows), `qzeros` along N (columns). A word is read as 32 bits without
sign: its int32 type on disk says nothing about its value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError

NIBBLES = 8
"""Four-bit levels in one 32-bit word."""

_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)


def unpack_rows(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Levels of words packed along the rows, as `qweight` is.

    words: int32 [K/8, N]. Returns uint8 [K, N], C order, 0..15: row 8r+j is nibble j of row r.
    """
    packed = _words(words)
    rows, N = packed.shape
    levels = np.empty((rows * NIBBLES, N), np.uint8)
    for j, shift in enumerate(_SHIFTS):
        levels[j::NIBBLES] = packed >> shift  # the cast keeps the low byte
    levels &= np.uint8(15)
    return levels


def pack_rows(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The inverse of `unpack_rows`: uint8 [K, N] in 0..15, K a multiple of 8, to int32 [K/8, N]."""
    K, N = _levels(levels, axis=0, name="K").shape
    words = np.zeros((K // NIBBLES, N), np.uint32)
    for j, shift in enumerate(_SHIFTS):
        words |= levels[j::NIBBLES].astype(np.uint32) << shift
    return words.view(np.int32)


def unpack_columns(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Levels of words packed along the columns, as `qzeros` is.

    words: int32 [groups, N/8]. Returns uint8 [groups, N], C order, 0..15: column 8c+j is
    nibble j of column c.
    """
    packed = _words(words)
    groups, columns = packed.shape
    levels = np.empty((groups, columns, NIBBLES), np.uint8)
    levels[:] = packed[:, :, None] >> _SHIFTS  # the cast keeps the low byte
    levels &= np.uint8(15)
    return levels.reshape(groups, columns * NIBBLES)


def pack_columns(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The inverse of `unpack_columns`: uint8 [groups, N] in 0..15 to int32 [groups, N/8]."""
    groups, N = _levels(levels, axis=1, name="N").shape
    nibbles = levels.reshape(groups, N // NIBBLES, NIBBLES).astype(np.uint32) << _SHIFTS
    words: npt.NDArray[np.uint32] = np.bitwise_or.reduce(nibbles, axis=2)
    return words.view(np.int32)


def _words(words: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    if words.dtype != np.int32 or words.ndim != 2:
        raise CheckpointError(
            f"packed words: expected a 2-D int32 array, found {words.ndim}-D {words.dtype}"
        )
    return words.view(np.uint32)


def _levels(levels: npt.NDArray[Any], axis: int, name: str) -> npt.NDArray[np.uint8]:
    if levels.dtype != np.uint8 or levels.ndim != 2:
        raise CheckpointError(
            f"levels: expected a 2-D uint8 array, found {levels.ndim}-D {levels.dtype}"
        )
    if levels.shape[axis] % NIBBLES:
        raise CheckpointError(
            f"levels: expected {name} to be a multiple of {NIBBLES}, found {levels.shape[axis]}"
        )
    if levels.size and levels.max() > 15:
        raise CheckpointError(f"levels: expected 0..15, found {levels.max()}")
    return levels
