"""Suspicions about blocks that are wrong in known ways."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.abi import ArrayReference, Sidecar
from ferrum_numba.debug.block import annotate, suspicions
from tests.debug.block.launches import SIDECAR, SIGNATURE, block, launch, pack
from tests.ptx import ptx

VALUES, ARRAYS = launch()
SIZED = [(SIGNATURE[name].size, value) for name, value in VALUES.items()]
INDEX = {name: index for index, name in enumerate(VALUES)}


def kinds(data, *, sidecar=SIDECAR, arrays=None, **more):
    return [s.kind for s in suspicions(annotate(SIGNATURE, data, sidecar, arrays, **more))]


eights = st.integers(1, 4096).map(lambda n: 8 * n)


@settings(max_examples=60)
@example(M=1, N=8, K=0x7F00, group_size=8, known=True)  # N and K are the address of a, by chance
@given(
    M=st.integers(1, 8192),
    N=eights,
    K=eights,
    group_size=st.sampled_from([8, 32, 64, 128]),
    known=st.booleans(),
)
def test_a_right_launch_is_not_suspected(M, N, K, group_size, known):
    values, arrays = launch(M=M, N=N, K=K, group_size=group_size)
    config = fe.LaunchConfig((-(-M // 64), -(-N // 64)), 128, 8192)
    assert kinds(block(values), arrays=arrays if known else None, config=config) == []


def test_a_strided_array_is_not_suspected():
    assert kinds(block({**VALUES, "stride_am": 4096})) == []


def test_strides_in_bytes():
    changed = {"stride_am": 2 * VALUES["stride_am"], "stride_ak": 2}
    (found,) = suspicions(annotate(SIGNATURE, block({**VALUES, **changed}), SIDECAR))
    assert (found.kind, found.names) == ("byte strides", ("stride_am", "stride_ak"))
    a = ARRAYS["a"]
    strided = replace(a, strides=(4 * a.shape[1], 4), available=2 * a.available)
    assert kinds(block({**VALUES, **changed}), arrays={**ARRAYS, "a": strided}) == []


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", ["a", "qzeros", "c", "M", "N", "K", "group_size", "stride_qwk"])
def test_a_parameter_left_out(name, known):
    data = pack([pair for i, pair in enumerate(SIZED) if i != INDEX[name]])
    first = suspicions(annotate(SIGNATURE, data, SIDECAR, ARRAYS if known else None))[0]
    assert first.kind == "misread"
    assert "a parameter was left out" in first.what
    assert name in first.names
    if known and SIGNATURE[name].is_pointer:
        assert first.names == (name,)


@pytest.mark.parametrize("value", [(8, 0x7F12_3456_7000), (4, 7)])
@pytest.mark.parametrize("before", ["a", "c", "M", "K", "stride_am"])
def test_a_value_too_many(before, value):
    index = INDEX[before]
    first = suspicions(annotate(SIGNATURE, pack([*SIZED[:index], value, *SIZED[index:]]), SIDECAR))[
        0
    ]
    assert first.kind == "misread"
    assert "too many" in first.what
    assert before in first.names


def test_every_integer_as_eight_bytes():
    first = suspicions(annotate(SIGNATURE, pack([(8, v) for _, v in SIZED]), SIDECAR))[0]
    assert "every value was written as 8 bytes" in first.what


@pytest.mark.parametrize("pair", [("N", "K"), ("M", "N"), ("stride_am", "stride_ak")])
def test_two_that_were_exchanged(pair):
    x, y = pair
    first = suspicions(annotate(SIGNATURE, block({**VALUES, x: VALUES[y], y: VALUES[x]}), SIDECAR))[
        0
    ]
    assert (first.kind, set(first.names)) == ("misread", set(pair))
    assert "exchanged" in first.what


def test_two_arrays_that_were_exchanged():
    data = block({**VALUES, "a": VALUES["c"], "c": VALUES["a"]})
    assert "misread" in kinds(data, arrays=ARRAYS)
    unknown = kinds(data, sidecar=Sidecar(), arrays=ARRAYS)
    assert unknown[0] == "misread" or unknown.count("other array") == 2


def test_halves_of_an_address_in_two_integers():
    """Without names too: what a launcher of a kernel with one pointer more hands over."""
    signature = fe.Signature.from_ptx(ptx([".param .u64 p", ".param .u32 n", ".param .u32 m"]))
    data = struct.pack("<QQ", 0x7F12_3400_0000, 0x7F12_3456_7000)
    found = suspicions(annotate(signature, data))
    assert [(s.kind, s.names) for s in found] == [
        ("split address", ("n", "m")),
        *((s.kind, s.names) for s in found[1:]),
    ]
    assert "0x7f1234567000" in found[0].what
    low = ArrayReference(0x5000_0000_0010, (4,), None, "float32", 4, 16, "cpu")
    found = suspicions(
        annotate(signature, struct.pack("<QQ", 0, low.address + 8), None, {"p": low})
    )
    assert any(s.kind == "split address" and "that of p" in s.what for s in found)


@pytest.mark.parametrize(
    ("changes", "kind", "names", "certain"),
    [
        ({"a": 0}, "null", ("a",), False),
        ({"a": VALUES["a"] + 1}, "misaligned", ("a",), True),
        ({"qweight": 0x1234}, "not an address", ("qweight",), False),
        ({"qweight": 0xA00_0000_0800}, "not an address", ("qweight",), False),
        ({"N": 2564}, "rule", ("N",), True),
        ({"group_size": -1}, "rule", ("group_size",), True),
        ({"M": 0x3F80_0000}, "float bits", ("M",), False),
        ({"M": 1 << 29}, "unusual", ("M",), False),
        ({"global_scratch": 77}, "not an address", ("global_scratch",), False),
    ],
)
def test_a_single_value(changes, kind, names, certain):
    found = suspicions(annotate(SIGNATURE, block({**VALUES, **changes}), SIDECAR))
    assert (kind, names, certain) in [(s.kind, s.names, s.certain) for s in found]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        ({"available": 40958}, "too short"),
        ({"dtype": "float32", "itemsize": 4}, "dtype"),
        ({"address": 0x7E00_0000_0000}, "not an address"),
        ({"address": VALUES["c"] + 64}, "overlap"),
    ],
)
def test_an_array_that_does_not_fit(array, kind):
    fields = {**vars(ARRAYS["a"]), **array}
    fields.pop("contiguous", None)
    changed = ArrayReference(**fields)
    value = changed.address if kind == "overlap" else VALUES["a"]
    found = kinds(block({**VALUES, "a": value}), arrays={**ARRAYS, "a": changed})
    assert kind in found


def test_the_grid():
    wrong = fe.LaunchConfig((1, 1), 128, 8192)
    assert kinds(block(VALUES), config=wrong) == ["rule"]


def test_scratch_that_the_kernel_needs():
    sidecar = Sidecar.read({"global_scratch_size": 256, "global_scratch_align": 128})
    signature = sidecar.declare(fe.Signature.from_ptx(ptx([".param .u32 n", ".param .u64 s"])))
    for address, kind in ((0, "scratch"), (0x7F00_0000_0040, "misaligned"), (0x7F00_0000_0080, "")):
        data = fe.ParameterBlock(signature).set(n=1, s=address).to_bytes()
        assert [s.kind for s in suspicions(annotate(signature, data, sidecar))] == [kind] * bool(
            kind
        )


def test_scratch_that_the_launcher_has_yet_to_fill_in():
    sidecar = Sidecar.read({"global_scratch_size": 256, "global_scratch_align": 128})
    signature = sidecar.declare(fe.Signature.from_ptx(ptx([".param .u32 n", ".param .u64 s"])))
    assert suspicions(annotate(signature, bytes(16), sidecar, filled=False)) == []


def test_floats():
    signature = fe.Signature.from_ptx(ptx([".param .f32 x", ".param .f64 y"]))
    for data, expected in (
        (struct.pack("<f4xd", 0.5, -2), []),
        (struct.pack("<i4xd", 128, 0), ["integer bits"]),
        (struct.pack("<f4xd", float("nan"), 1e300), ["integer bits", "integer bits"]),
    ):
        assert [s.kind for s in suspicions(annotate(signature, data))] == expected


@settings(max_examples=60)
@given(st.binary(min_size=112, max_size=112))
def test_any_bytes_get_an_answer(data):
    for found in suspicions(annotate(SIGNATURE, data, SIDECAR, ARRAYS)):
        assert str(found)
