from __future__ import annotations

import ctypes
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.ptx import ptx

VALUES = {
    "a": 0x1111_2222_3333_4440,
    "qweight": 0x7F00_0000_0010,
    "scales": 0x7F00_0000_0020,
    "qzeros": 0x7F00_0000_0030,
    "c": 0xFFFF_FFFF_FFFF_FFF0,
    "M": 10,
    "N": 2560,
    "K": 2048,
    "group_size": 128,
    "stride_am": 2048,
    "stride_ak": 1,
    "stride_qwk": 2560,
    "stride_qwn": 1,
    "stride_sk": 2560,
    "stride_sn": 1,
    "stride_qzk": 320,
    "stride_qzn": 1,
    "stride_cm": 2560,
    "stride_cn": -2,
}
# Spelt out by hand: what an H200 reads for the values above.
LITERAL = bytes.fromhex(
    "4044333322221111 1000000000 7f0000 2000000000 7f0000 3000000000 7f0000 f0ffffffffffffff"
    "0a000000 000a0000 00080000 80000000"
    "00080000 01000000 000a0000 01000000 000a0000 01000000 40010000 01000000"
    "000a0000 feffffff"
    "0000000000000000 0000000000000000"
)


def canonical_signature() -> fe.Signature:
    sidecar = kernels.W4A16_SIDECAR
    return sidecar.declare(fe.Signature.from_ptx(fe.W4A16_PTX))


def test_the_canonical_block_is_these_112_bytes() -> None:
    assert len(LITERAL) == 112
    assert fe.ParameterBlock(canonical_signature()).set(**VALUES).to_bytes() == LITERAL


def test_by_position_and_in_parts() -> None:
    block = fe.ParameterBlock(canonical_signature())
    names = list(VALUES)
    block.set(*(VALUES[n] for n in names[:7])).set(**{n: VALUES[n] for n in names[7:]})
    assert block.to_bytes() == LITERAL


def test_kernel_params_point_into_the_block() -> None:
    block = fe.ParameterBlock(canonical_signature()).set(**VALUES)
    pointers = block.kernel_params()
    assert [p - block.address for p in pointers] == [p.offset for p in block.signature.params]
    assert ctypes.string_at(pointers[6], 4) == struct.pack("<i", 2560)
    block.set(N=64)
    assert ctypes.string_at(pointers[6], 4) == struct.pack("<i", 64), "a later set shows through"


def test_scratch_can_be_set() -> None:
    block = fe.ParameterBlock(canonical_signature()).set(**VALUES, global_scratch=0x1000)
    assert block.to_bytes()[96:104] == struct.pack("<Q", 0x1000)


def test_an_incomplete_block_is_not_read() -> None:
    block = fe.ParameterBlock(canonical_signature()).set(a=0, M=1)
    with pytest.raises(
        fe.AbiError, match="qweight, scales, qzeros, c, N, K.*: expected a value, found none"
    ):
        block.to_bytes()
    with pytest.raises(fe.AbiError, match="expected a value, found none"):
        block.kernel_params()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": 2**31}, r"M: expected -2147483648 to 2147483647 \(i32\), found 2147483648"),
        ({"M": 1.0}, r"M: expected an integer for i32, found 1.0 \(float\)"),
        ({"M": True}, "found True"),
        ({"M": None}, "NoneType"),
        ({"M": "12"}, "str"),
        ({"a": -1}, r"a: expected 0 to"),
        ({"a": 2**64}, "a: expected 0 to"),
        ({"a": 1.5}, "expected an address"),
        ({"lda": 3}, "parameter: expected one of .*, found 'lda'"),
    ],
)
def test_values_that_do_not_fit_change_nothing(change: dict[str, object], message: str) -> None:
    block = fe.ParameterBlock(canonical_signature()).set(**VALUES)
    with pytest.raises(fe.AbiError, match=message):
        block.set(**{"N": 64, **change})
    assert block.to_bytes() == LITERAL


def test_twice_and_too_many() -> None:
    block = fe.ParameterBlock(canonical_signature())
    with pytest.raises(fe.AbiError, match="a: given by position and by name"):
        block.set(0, a=0)
    with pytest.raises(fe.AbiError, match="at most 21 values, found 22"):
        block.set(*range(22))


PACK = {"u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q",
        "s64": "q", "f32": "f", "f64": "d", "b32": "I", "b64": "Q"}  # fmt: skip


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[str, int | float]:
    kind = draw(st.sampled_from(sorted(PACK)))
    bits = int(kind[1:])
    if kind[0] == "f":
        return kind, draw(st.floats(width=bits, allow_nan=False))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind[0] == "s" else (0, 2**bits - 1)
    return kind, draw(st.integers(low, high))


@given(st.lists(typed_values(), max_size=24))
def test_any_signature_is_laid_out_as_c_does(values: list[tuple[str, int | float]]) -> None:
    """Natural alignment is also struct's native one, so struct is the second opinion."""
    text = ptx([f".param .{kind} p{i}" for i, (kind, _) in enumerate(values)])
    signature = fe.Signature.from_ptx(text)
    block = fe.ParameterBlock(signature).set(*(value for _, value in values))
    expected = struct.pack("@" + "".join(PACK[k] for k, _ in values), *(v for _, v in values))
    assert block.to_bytes() == expected


def test_aggregates_and_halves() -> None:
    text = ptx([".param .u8 first", ".param .align 64 .b8 map[128]", ".param .f16 h"])
    block = fe.ParameterBlock(fe.Signature.from_ptx(text)).set(7, bytes(range(128)), 1.5)
    data = block.to_bytes()
    assert len(data) == 194
    assert data[64:192] == bytes(range(128))
    assert data[192:] == struct.pack("<e", 1.5)
    with pytest.raises(fe.AbiError, match="map: expected 128 bytes, found 127"):
        block.set(map=bytes(127))
    with pytest.raises(fe.AbiError, match="h: .*does not fit"):
        block.set(h=1e6)


@given(st.floats(width=32))
def test_bfloat16_rounds_as_ml_dtypes_does(number: float) -> None:
    parameter = fe.Signature.from_ptx(ptx([".param .b16 h"])).named([("h", "bf16", "argument")])
    block = fe.ParameterBlock(parameter)
    expected = ml_dtypes.bfloat16(number)
    if np.isinf(float(expected)) and not math.isinf(number):
        with pytest.raises(fe.AbiError, match="does not fit bf16"):
            block.set(number)
    else:
        (value,) = block.set(number).values().values()
        np.testing.assert_equal(value, float(expected))


def test_a_stated_sign_is_kept_to_and_none_is_not() -> None:
    signature = fe.Signature.from_ptx(ptx([".param .u32 a", ".param .u64 b"]))
    block = fe.ParameterBlock(signature).set(-5, -6)
    assert block.to_bytes() == struct.pack("<iiq", -5, 0, -6)
    assert block.values() == {"a": 2**32 - 5, "b": 2**64 - 6}
    stated = signature.named([("a", "u32", "argument"), ("b", "u64", "argument")])
    with pytest.raises(fe.AbiError, match=r"a: expected 0 to 4294967295 \(u32\), found -5"):
        fe.ParameterBlock(stated).set(a=-5)


@pytest.mark.parametrize(("c_type", "data"), [("fp16", b"\x00\x3e"), ("bf16", b"\xc0\x3f")])
def test_a_stated_half_takes_any_number(c_type: str, data: bytes) -> None:
    for declared in (".align 2 .b8 h[2]", ".b16 h"):
        signature = fe.Signature.from_ptx(ptx([f".param {declared}"]))
        block = fe.ParameterBlock(signature.named([("h", c_type, "argument")]))
        for value in (1.5, np.float16(1.5), ml_dtypes.bfloat16(1.5), np.float32(1.5)):
            assert block.set(value).to_bytes() == data


@pytest.mark.parametrize(
    ("instruction", "data"),
    [
        ("cvt.f32.f16 %r1, %h1;", b"\x00\x3e"),
        ("cvt.f32.bf16 %r1, %h1;", b"\xc0\x3f"),
        ("fma.rn.bf16 %h2, %h3, %h1, %h1;", b"\xc0\x3f"),
        ("mov.b32 %r1, {%h1, %h1};", None),
        ("cvt.f32.f16 %r1, %h1; cvt.f32.bf16 %r1, %h1;", None),
        ("cvt.f32.f16 %r1, %h11;", None),
    ],
)
def test_what_half_an_entry_reads(instruction: str, data: bytes | None) -> None:
    """A float is written as what the instructions read; where they do not say, it is refused."""
    for declared in (".align 2 .b8 h[2]", ".b16 h"):
        text = ptx([f".param {declared}"], f"ld.param.b16 %h1, [h]; {instruction} ret;")
        block = fe.ParameterBlock(fe.Signature.from_ptx(text))
        if data is None:
            with pytest.raises(fe.AbiError, match=r"say which half it is: np\.float16\(x\)"):
                block.set(1.5)
            assert block.set(np.float16(1.5)).to_bytes() == b"\x00\x3e"
            assert block.set(ml_dtypes.bfloat16(1.5)).to_bytes() == b"\xc0\x3f"
        else:
            for value in (1.5, np.float32(1.5), np.float16(1.5), ml_dtypes.bfloat16(1.5)):
                assert block.set(value).to_bytes() == data
