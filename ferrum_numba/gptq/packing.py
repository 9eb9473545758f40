"""Levels of 2, 3, 4 or 8 bits and the int32 words that hold them, the first level lowest.

`qweight` packs along K (rows), `qzeros` along N (columns). Levels follow each other without gaps,
so that three bits fill three words with 32 levels, two of which straddle a word's edge; the other
widths fill every word by itself. A word is read as 32 bits without sign: its int32 type on disk
says nothing about its value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError

WORD_BITS = 32
NIBBLES = 8
"""Four-bit levels in one 32-bit word."""

WIDTHS = (2, 3, 4, 8)
"""Bits of a level that are packed like this."""


def period(bits: int) -> tuple[int, int]:
    """(levels, words) of the shortest run of whole words that holds whole levels."""
    shared = math.gcd(WORD_BITS, bits)
    return WORD_BITS // shared, bits // shared


def unpack_rows(words: npt.NDArray[np.int32], bits: int = 4) -> npt.NDArray[np.uint8]:
    """Levels of words packed along the rows, as `qweight` is.

    words: int32 [K*bits/32, N]. Returns uint8 [K, N], C order, below 2^bits: for four bits, row
    8r+j is nibble j of row r.
    """
    packed = _words(words, 0, bits)
    levels = np.empty((packed.shape[0] * WORD_BITS // bits, packed.shape[1]), np.uint8)
    _unpack(packed, levels, bits)
    return levels


def pack_rows(levels: npt.NDArray[np.uint8], bits: int = 4) -> npt.NDArray[np.int32]:
    """The inverse of `unpack_rows`: uint8 [K, N] below 2^bits to int32 [K*bits/32, N]."""
    K, N = _levels(levels, bits, axis=0, name="K").shape
    words = np.zeros((K * bits // WORD_BITS, N), np.uint32)
    _pack(levels, words, bits)
    return words.view(np.int32)


def unpack_columns(words: npt.NDArray[np.int32], bits: int = 4) -> npt.NDArray[np.uint8]:
    """Levels of words packed along the columns, as `qzeros` is.

    words: int32 [groups, N*bits/32]. Returns uint8 [groups, N], C order, below 2^bits: for four
    bits, column 8c+j is nibble j of column c.
    """
    packed = _words(words, 1, bits)
    levels = np.empty((packed.shape[0], packed.shape[1] * WORD_BITS // bits), np.uint8)
    _unpack(packed.T, levels.T, bits)
    return levels


def pack_columns(levels: npt.NDArray[np.uint8], bits: int = 4) -> npt.NDArray[np.int32]:
    """The inverse of `unpack_columns`: uint8 [groups, N] to int32 [groups, N*bits/32]."""
    groups, N = _levels(levels, bits, axis=1, name="N").shape
    words = np.zeros((groups, N * bits // WORD_BITS), np.uint32)
    _pack(levels.T, words.T, bits)
    return words.view(np.int32)


def _unpack(packed: npt.NDArray[np.uint32], levels: npt.NDArray[np.uint8], bits: int) -> None:
    """Fill levels [n, any] from packed [n*bits/32, any], along the first axis of both."""
    step, words = period(bits)
    for j in range(step):
        word, shift = divmod(j * bits, WORD_BITS)
        if shift + bits <= WORD_BITS:
            levels[j::step] = packed[word::words] >> np.uint32(shift)  # the cast keeps the low byte
        else:
            low = packed[word::words] >> np.uint32(shift)
            levels[j::step] = low | packed[word + 1 :: words] << np.uint32(WORD_BITS - shift)
    levels &= np.uint8((1 << bits) - 1)


def _pack(levels: npt.NDArray[np.uint8], words: npt.NDArray[np.uint32], bits: int) -> None:
    """Set the bits of words [n*bits/32, any], all 0 before, from levels [n, any]."""
    step, count = period(bits)
    for j in range(step):
        word, shift = divmod(j * bits, WORD_BITS)
        level = levels[j::step].astype(np.uint32)
        words[word::count] |= level << np.uint32(shift)
        if shift + bits > WORD_BITS:
            words[word + 1 :: count] |= level >> np.uint32(WORD_BITS - shift)


def _words(words: npt.NDArray[Any], axis: int, bits: int) -> npt.NDArray[np.uint32]:
    if words.dtype != np.int32 or words.ndim != 2:
        raise CheckpointError("packed words", "a 2-D int32 array", f"{words.ndim}-D {words.dtype}")
    if words.shape[axis] % period(bits)[1]:
        raise CheckpointError(
            "packed words",
            f"a multiple of {period(bits)[1]} words for levels of {bits} bits",
            words.shape[axis],
        )
    return words.view(np.uint32)


def _levels(levels: npt.NDArray[Any], bits: int, axis: int, name: str) -> npt.NDArray[np.uint8]:
    if levels.dtype != np.uint8 or levels.ndim != 2:
        raise CheckpointError("levels", "a 2-D uint8 array", f"{levels.ndim}-D {levels.dtype}")
    if levels.shape[axis] % period(bits)[0]:
        raise CheckpointError(
            "levels", f"{name} to be a multiple of {period(bits)[0]}", levels.shape[axis]
        )
    if levels.size and levels.max() >= 1 << bits:
        raise CheckpointError("levels", f"0..{(1 << bits) - 1}", levels.max())
    return levels
