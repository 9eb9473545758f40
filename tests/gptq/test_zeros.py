"""Zero points: each dialect against its producer's formula, and the words for the kernel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq.packing import pack_columns, unpack_columns
from ferrum_numba.gptq.zeros import (
    check_zero_format,
    decode_zeros,
    has_nibble_f,
    kernel_words,
    refuse_mislabelled,
    symmetric_words,
)

FORMATS = ("v1", "v2", "v1_gptqmodel", "v1_autogptq")
WORDS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5))
ZEROS = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda size: hnp.arrays(np.uint8, (size[0], size[1] * 8), elements=st.integers(0, 15))
)


@given(ZEROS)
def test_gptqmodel_borrow_is_undone(zeros):
    words = (pack_columns(zeros).view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    # A true zero of 0 in the top nibble wraps the word; adding wraps it back.
    np.testing.assert_array_equal(decode_zeros(words, "v1_gptqmodel"), zeros)


@given(ZEROS)
def test_v2_stores_the_zero(zeros):
    np.testing.assert_array_equal(decode_zeros(pack_columns(zeros), "v2"), zeros)


@given(WORDS)
def test_v1_adds_one(words):
    zeros = decode_zeros(words, "v1")
    np.testing.assert_array_equal(zeros, unpack_columns(words) + 1)
    assert zeros.max() <= 16


@given(WORDS)
def test_autogptq_wraps_each_nibble(words):
    np.testing.assert_array_equal(
        decode_zeros(words, "v1_autogptq"), (unpack_columns(words) + 1) & 15
    )


def test_the_dialects_differ_only_by_a_zero_of_0():
    words = np.array([[0x777777F7]], np.uint32).view(np.int32)
    decoded = {name: decode_zeros(words, name)[0, :3].tolist() for name in FORMATS}
    assert decoded == {
        "v1": [8, 16, 8],
        "v2": [7, 15, 7],
        "v1_gptqmodel": [8, 0, 9],  # the borrow goes back to the next nibble
        "v1_autogptq": [8, 0, 8],
    }


@pytest.mark.parametrize("zero_format", FORMATS)
@given(words=WORDS)
def test_kernel_words_read_as_nibble_plus_bias(zero_format, words):
    read, bias = kernel_words(words, zero_format)
    assert bias in (0, 1)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(unpack_columns(read) + bias, decode_zeros(words, zero_format))


@pytest.mark.parametrize("zero_format", FORMATS)
def test_kernel_words_are_untouched_without_nibble_f(zero_format):
    words = np.array([[0x0E7A5010, 0x77777777]], np.int32)
    read, bias = kernel_words(words, zero_format)
    assert read is words
    assert bias == (0 if zero_format == "v2" else 1)


@pytest.mark.parametrize(
    ("zero_format", "bias", "untouched"),
    [("v1", 1, True), ("v2", 0, True), ("v1_gptqmodel", 0, False), ("v1_autogptq", 0, False)],
)
def test_kernel_words_are_encoded_anew_with_nibble_f(zero_format, bias, untouched):
    words = np.array([[0x777777F7]], np.uint32).view(np.int32)
    read, found_bias = kernel_words(words, zero_format)
    assert (read is words) is untouched
    assert found_bias == bias
    assert words.view(np.uint32)[0, 0] == 0x777777F7


@given(WORDS)
def test_has_nibble_f(words):
    assert has_nibble_f(words) == bool((unpack_columns(words) == 15).any())


@pytest.mark.parametrize(
    ("zero_format", "word", "remedy"),
    [
        ("v1", 0x88888888, "v2"),
        ("v1_gptqmodel", 0x88888888, "v2"),
        ("v1_autogptq", 0x88888888, "v2"),
        ("v2", 0x77777777, "v1"),
    ],
)
def test_a_mislabelled_symmetric_layer_is_refused(zero_format, word, remedy):
    words = np.full((2, 3), word, np.uint32).view(np.int32)
    with pytest.raises(CheckpointError) as error:
        refuse_mislabelled(words, zero_format, "h.0.q_proj.qzeros", symmetric=True)
    message = str(error.value)
    assert "h.0.q_proj.qzeros" in message
    assert f"found {word:#010x}" in message
    assert f'Checkpoint.open(path, zero_format="{remedy}")' in message


@pytest.mark.parametrize("bits", [2, 3, 8])
@given(data=st.data())
def test_other_widths(bits, data):
    size = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2).map(lambda n: n * 32)))
    zeros = data.draw(
        hnp.arrays(np.uint8, size, elements=st.integers(0, (1 << bits) - 1), fill=st.nothing())
    )
    words = pack_columns(zeros, bits)
    np.testing.assert_array_equal(decode_zeros(words, "v2", bits), zeros)
    np.testing.assert_array_equal(decode_zeros(words, "v1", bits), zeros.astype(int) + 1)
    wrapped = (zeros.astype(int) + 1) & ((1 << bits) - 1)
    np.testing.assert_array_equal(decode_zeros(words, "v1_autogptq", bits), wrapped)
    if bits == 3:  # GPTQModel shifts level by level here
        np.testing.assert_array_equal(decode_zeros(words, "v1_gptqmodel", bits), wrapped)
    else:
        ones = np.uint32(int("1".rjust(bits, "0") * (32 // bits), 2))
        borrowed = (words.view(np.uint32) - ones).view(np.int32)
        np.testing.assert_array_equal(decode_zeros(borrowed, "v1_gptqmodel", bits), zeros)


def test_the_words_of_other_widths():
    words = {
        (bits, is_v2): symmetric_words((2, 3), is_v2, bits)[0].view(np.uint32).tolist()
        for bits in (2, 3, 4, 8)
        for is_v2 in (False, True)
    }
    assert words[4, False] == [0x77777777] * 3
    assert words[4, True] == [0x88888888] * 3
    assert words[8, False] == [0x7F7F7F7F] * 3
    assert words[2, True] == [0xAAAAAAAA] * 3
    # Three of 011 and a bit of the next, and so on: levels straddle the words.
    assert words[3, False] == [0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D]


@pytest.mark.parametrize(
    ("zero_format", "word", "symmetric"),
    [
        ("v1", 0x77777777, True),
        ("v2", 0x88888888, True),
        ("v1", 0x88888888, False),
        ("v1", 0x88888887, None),
    ],
)
def test_a_rightly_labelled_layer_passes(zero_format, word, symmetric):
    words = np.full((2, 3), word, np.uint32).view(np.int32)
    refuse_mislabelled(words, zero_format, "qzeros", symmetric=symmetric)


def test_a_symmetric_layer_with_one_other_zero_is_refused():
    words = np.full((2, 3), 0x77777777, np.int32)
    words[1, 2] ^= 1 << 9
    message = (
        r"^a\.qzeros: expected 0x77777777 .* the configuration says symmetric .*found 0x77777577 "
        r'at \[1, 2\], the first of 1 such words; .*zero_format="v1"'
    )
    with pytest.raises(CheckpointError, match=message):
        refuse_mislabelled(words, "v1", "a.qzeros", symmetric=True)


def test_an_unknown_format_is_refused():
    assert check_zero_format("v2") == "v2"
    with pytest.raises(CheckpointError, match=r"expected one of 'v1', 'v2'.*found 'v3'"):
        check_zero_format("v3")
