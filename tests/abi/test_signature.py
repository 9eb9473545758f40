from __future__ import annotations

import pytest

import ferrum_numba as fe
from tests.ptx import ptx

OFFSETS = [0, 8, 16, 24, 32, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76, 80, 84, 88, 92, 96, 104]


def test_canonical_signature() -> None:
    signature = fe.Signature.from_ptx(fe.W4A16_PTX)
    assert signature.entry == "w4a16_gptq_gemm_typed"
    assert [p.ptx_type for p in signature.params] == ["u64"] * 5 + ["u32"] * 14 + ["u64"] * 2
    assert [p.offset for p in signature.params] == OFFSETS
    assert signature.nbytes == 112
    assert signature.reqntid == (128,)
    assert (signature.target, signature.ptx_version) == ("sm_80", (7, 0))


def test_alignment_arrays_and_comments() -> None:
    text = ptx(
        [
            ".param .u8 flag",
            ".param .align 8 .b8 pair[12] /* by value, ) and , inside */",
            "// a comment, with a comma\n.param .f64 x",
            ".param .u64 .ptr .global .align 16 p",
        ],
        tail=".maxntid 64, 2, 1\n.minnctapersm 2",
    )
    signature = fe.Signature.from_ptx(text)
    assert [(p.name, p.offset, p.size) for p in signature.params] == [
        ("flag", 0, 1),
        ("pair", 8, 12),
        ("x", 24, 8),
        ("p", 32, 8),
    ]
    assert signature.nbytes == 40
    assert [p.is_pointer for p in signature.params] == [False, False, False, True]
    assert signature.reqntid is None


def test_an_entry_without_parameters() -> None:
    assert fe.Signature.from_ptx(ptx([])).nbytes == 0


def test_several_entries() -> None:
    text = ptx([".param .u32 n"], entry="first") + ptx([], entry="second").split("64\n", 1)[1]
    assert fe.Signature.entries(text) == ["first", "second"]
    assert fe.Signature.from_ptx(text, "second").params == ()
    with pytest.raises(fe.AbiError, match="first, second"):
        fe.Signature.from_ptx(text)
    with pytest.raises(fe.PtxError, match="first, second.*'third'"):
        fe.Signature.from_ptx(text, "third")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\.version and \.target"),
        ("int main() { return 0; }", "not PTX"),
        (".version 7.0\n.target sm_80\n", r"a \.entry, found none"),
        (ptx([".param .u32"]), "parameter 0"),
        (ptx([".param .v4 .u32 x"]), "parameter 0"),
        (ptx([".param .align 3 .b8 x[4]"]), "alignment 3"),
        (ptx([], version="seven"), r"\.version"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(fe.PtxError, match=message):
        fe.Signature.from_ptx(text)


def test_text_must_be_text() -> None:
    with pytest.raises(fe.PtxError, match="bytes"):
        fe.Signature.from_ptx(b".version 7.0")  # type: ignore[arg-type]


def test_lookup_by_name() -> None:
    signature = fe.Signature.from_ptx(ptx([".param .u32 n"]))
    assert signature["n"].size == 4
    with pytest.raises(fe.AbiError, match="parameter: expected one of k's .*n"):
        signature["m"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "it is empty"),
        ("\x7fELF\x02\x01", "an ELF file, perhaps a cubin"),
        ("<!DOCTYPE html>", "HTML or XML"),
        ("version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("; ModuleID = 'x'", "LLVM IR"),
        ("module attributes {}", "an MLIR module"),
        ("#include <cuda.h>", "source: compile it, as by nvcc"),
        ("hello", "it begins with 'hello'"),
    ],
)
def test_what_is_no_ptx_is_named(text: str, kind: str) -> None:
    with pytest.raises(fe.PtxError, match=kind):
        fe.Signature.from_ptx(text)


def test_two_modules_in_one_text() -> None:
    with pytest.raises(fe.PtxError, match="line 4: a second .version"):
        fe.Signature.from_ptx(2 * ".version 7.0\n.target sm_80\n.entry k() { ret; }\n")
