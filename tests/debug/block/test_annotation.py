from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.abi import ArrayReference
from ferrum_numba.debug.block import annotate, differences
from tests.abi.test_block import typed_values
from tests.debug.block.launches import SIDECAR, SIGNATURE, block, launch
from tests.ptx import ptx

VALUES, ARRAYS = launch()


@st.composite
def aggregates(draw: st.DrawFn) -> tuple[str, bytes]:
    data = draw(st.binary(min_size=1, max_size=40))
    align = draw(st.sampled_from([1, 2, 4, 8, 16]))
    return f".align {align} .b8", data


@given(st.lists(st.one_of(typed_values(), aggregates()), max_size=16))
def test_values_to_bytes_to_values(values: list[tuple[str, int | float | bytes]]) -> None:
    """Values of a block come out of its bytes, and every byte of it is accounted for."""
    params = [
        f".param {kind} p{i}[{len(value)}]" if isinstance(value, bytes) else f".param .{kind} p{i}"
        for i, (kind, value) in enumerate(values)
    ]
    signature = fe.Signature.from_ptx(ptx(params))
    data = fe.ParameterBlock(signature).set(*(value for _, value in values)).to_bytes()
    found = annotate(signature, data)
    assert [field.value for field in found.fields] == [value for _, value in values]
    assert b"".join(part for _, part, _ in found.parts()) == data
    offset = 0
    for place, part, _ in found.parts():
        assert place == offset
        offset += len(part)
    again = fe.ParameterBlock(signature).set(**found.values)
    assert again.to_bytes() == data
    assert fe.ParameterBlock.from_bytes(signature, data).values() == found.values


@settings(max_examples=20)
@given(st.binary(min_size=112, max_size=112))
def test_any_bytes_can_be_read_and_written_again(data: bytes) -> None:
    found = annotate(SIGNATURE, data, SIDECAR, ARRAYS)
    inside = fe.ParameterBlock(SIGNATURE)
    inside.write(found.values)
    assert inside.to_bytes() == data


@pytest.mark.parametrize(
    ("nbytes", "what"),
    [
        (0, "found 0, so that it ends before a;"),
        (
            104,
            "found 104, so that it ends before profile_scratch;",
        ),  # a build with one scratch pointer
        (111, "found 111, so that it ends before profile_scratch;"),
        (113, "found 113; is it of another entry or build"),
    ],
)
def test_another_number_of_bytes_is_refused(nbytes: int, what: str) -> None:
    with pytest.raises(fe.AbiError, match=f"expected a parameter block of 112 bytes, {what}"):
        annotate(SIGNATURE, bytes(nbytes))


def test_halves_and_signs() -> None:
    signature = fe.Signature.from_ptx(ptx([".param .f16 h", ".param .u32 n", ".param .b16 b"]))
    signature = signature.named(
        [("h", "fp16", "argument"), ("n", "i32", "argument"), ("b", "bf16", "argument")]
    )
    data = fe.ParameterBlock(signature).set(h=-1.5, n=-3, b=0x3F80).to_bytes()
    assert annotate(signature, data).values == {"h": -1.5, "n": -3, "b": 0x3F80}


def test_arrays_and_what_is_left_of_them() -> None:
    a = ArrayReference(0x1000, (12, 2048), None, "float16", 2, 12 * 4096, "cpu")
    values = {**VALUES, "a": 0x1000 + 4096}
    field = annotate(SIGNATURE, block(values), SIDECAR, {**ARRAYS, "a": a})["a"]
    assert (field.owner, field.inside, field.needed, field.slack) == ("a", 4096, 40960, 4096)
    strided = annotate(SIGNATURE, block({**values, "stride_am": 2056}), SIDECAR, {"a": a})["a"]
    assert strided.needed == (9 * 2056 + 2048) * 2
    assert annotate(SIGNATURE, block({**VALUES, "c": values["a"]}), SIDECAR, {"a": a})[
        "c"
    ].owner == ("a")


def test_what_integers_stand_for() -> None:
    found = annotate(SIGNATURE, block(VALUES), SIDECAR)
    assert found["M"].meaning == "size of a[0], c[0]"
    assert found["stride_qzk"].meaning == "stride of qzeros[0]"
    assert found["N"].meaning.startswith("size of qweight[1], scales[1], c[1]; N // 8: size of")
    assert annotate(SIGNATURE, block(VALUES))["M"].meaning == ""


def test_sizes_that_no_rule_can_read() -> None:
    """A group size of 0 divides nothing: the arrays' extents are unknown, not an error."""
    found = annotate(SIGNATURE, block({**VALUES, "group_size": 0}), SIDECAR, ARRAYS)
    assert (found["scales"].needed, found["a"].needed) == (None, 40960)


def test_differences() -> None:
    a, b = (annotate(SIGNATURE, block({**VALUES, **more})) for more in ({}, {"M": 11, "c": 8}))
    assert [d.name for d in differences(a, b)] == ["c", "M"]
    assert [d.b.value for d in differences(a, b)] == [8, 11]
    other = fe.Signature.from_ptx(ptx([".param .u32 n"]))
    with pytest.raises(fe.AbiError, match="whose signature is another"):
        differences(a, annotate(other, bytes(4)))
