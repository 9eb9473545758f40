"""Packing: word layout by hand, and that unpacking undoes packing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq.packing import pack_columns, pack_rows, unpack_columns, unpack_rows

SIZES = st.integers(0, 6)
LEVELS = st.integers(0, 15)
WIDTHS = [2, 3, 4, 8]


def test_low_nibble_is_the_first_row():
    words = np.array([[0x76543210, -1]], np.int32)  # -1: all bits, the sign bit too
    levels = unpack_rows(words)
    assert levels.dtype == np.uint8
    assert levels.flags.c_contiguous
    assert levels[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert levels[:, 1].tolist() == [15] * 8


def test_low_nibble_is_the_first_column():
    words = np.array([[0x76543210, -2]], np.int32)
    assert unpack_columns(words).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 14] + [15] * 7]


@given(
    st.tuples(SIZES, SIZES).flatmap(
        lambda size: hnp.arrays(np.uint8, (size[0] * 8, size[1]), elements=LEVELS)
    )
)
def test_rows_round_trip(levels):
    words = pack_rows(levels)
    assert words.dtype == np.int32
    assert words.shape == (levels.shape[0] // 8, levels.shape[1])
    np.testing.assert_array_equal(unpack_rows(words), levels)


@given(
    st.tuples(SIZES, SIZES).flatmap(
        lambda size: hnp.arrays(np.uint8, (size[0], size[1] * 8), elements=LEVELS)
    )
)
def test_columns_round_trip(levels):
    words = pack_columns(levels)
    assert words.dtype == np.int32
    assert words.shape == (levels.shape[0], levels.shape[1] // 8)
    np.testing.assert_array_equal(unpack_columns(words), levels)


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_words_round_trip(words):
    np.testing.assert_array_equal(pack_rows(unpack_rows(words)), words)
    np.testing.assert_array_equal(pack_columns(unpack_columns(words)), words)
    np.testing.assert_array_equal(unpack_rows(words), unpack_columns(words.T.copy()).T)


def bit_stream(words, bits):
    """Levels of a row of words, read off its bits one after the other: written out anew."""
    stream = np.unpackbits(words.view(np.uint8), bitorder="little").reshape(-1, bits)
    return (stream << np.arange(bits)).sum(axis=1)


@pytest.mark.parametrize("bits", WIDTHS)
@given(data=st.data())
def test_levels_follow_each_other_without_gaps(bits, data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda n: n * bits)))
    words = data.draw(hnp.arrays(np.int32, shape))
    levels = unpack_columns(words, bits)
    assert levels.dtype == np.uint8
    for row, expected in zip(levels, words, strict=True):
        np.testing.assert_array_equal(row, bit_stream(expected, bits))
    np.testing.assert_array_equal(unpack_rows(words.T.copy(), bits), levels.T)
    np.testing.assert_array_equal(pack_columns(levels, bits), words)
    np.testing.assert_array_equal(pack_rows(levels.T.copy(), bits), words.T)


def test_a_strided_view_of_words_is_read_right():
    words = np.arange(48, dtype=np.int32).reshape(4, 12)[::2, ::3]
    np.testing.assert_array_equal(unpack_rows(words), unpack_rows(words.copy()))


@pytest.mark.parametrize(
    ("pack", "levels", "message"),
    [
        (pack_rows, np.full((8, 1), 16, np.uint8), r"levels: expected 0\.\.15, found 16"),
        (pack_rows, np.zeros((9, 8), np.uint8), "expected K to be a multiple of 8, found 9"),
        (pack_columns, np.zeros((8, 9), np.uint8), "expected N to be a multiple of 8, found 9"),
        (pack_rows, np.zeros((8, 8), np.int32), "expected a 2-D uint8 array, found 2-D int32"),
        (pack_columns, np.zeros(8, np.uint8), "expected a 2-D uint8 array, found 1-D uint8"),
        (lambda a: pack_rows(a, 3), np.zeros((8, 8), np.uint8), "K to be a multiple of 32, found"),
        (lambda a: pack_rows(a, 3), np.full((32, 1), 8, np.uint8), r"expected 0\.\.7, found 8"),
        (lambda a: unpack_rows(a, 3), np.zeros((4, 8), np.int32), "multiple of 3 words .* found 4"),
        (unpack_rows, np.zeros((1, 8), np.int64), "expected a 2-D int32 array, found 2-D int64"),
        (unpack_columns, np.zeros(8, np.int32), "expected a 2-D int32 array, found 1-D int32"),
    ],
)
def test_refusals(pack, levels, message):
    with pytest.raises(CheckpointError, match=message):
        pack(levels)
