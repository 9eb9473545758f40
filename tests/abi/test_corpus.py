"""Signatures of what other releases and other compilers write."""

from __future__ import annotations

import pytest

import ferrum_numba as fe
from tests.corpus import TRITON, corpus_sidecar, corpus_text, declared
from tests.ptx import ptx

ROLES = ["global_scratch", "profile_scratch"]
SCRATCH = {"3.2": 0, "3.3": 1, "3.4": 1, "3.5": 2, "3.6": 2, "3.7": 2, "3.8": 2, "3.9": 2}
ARGUMENTS = {
    "scale_add": ["u64", "u64", "u64", "f32", "u32"],
    "dot": ["u64", "u64", "u64", "u32", "u32", "u32"],
}


@pytest.mark.parametrize("path", TRITON, ids=lambda path: path.stem)
def test_every_triton_release(path):
    kernel, _, built = path.stem.partition(".triton-")
    signature = declared(path.stem)
    corpus_sidecar(path.stem).check(corpus_text(path.stem), signature)
    assert signature.entry == kernel
    assert signature.target.startswith(built.rpartition(".")[2])
    scratch = ROLES[: SCRATCH[built[:3]]]
    assert [p.role for p in signature.scratch] == scratch
    assert [p.ptx_type for p in signature.arguments] == ARGUMENTS[kernel]
    end = sum(p.size for p in signature.arguments)
    first = end if not scratch else -(-end // 8) * 8
    assert signature.nbytes == first + 8 * len(scratch)


def test_nvcc():
    text = corpus_text("cuda.nvcc-13.0.sm_80")
    axpy, block_sum, nothing = fe.Signature.entries(text)
    assert (block_sum, nothing) == ("block_sum", "nothing")
    signature = fe.Signature.from_ptx(text, axpy)
    assert [p.offset for p in signature.params] == [0, 8, 16, 24, 40]
    assert (signature.params[3].count, signature.params[3].size) == (16, 16)
    assert fe.Signature.from_ptx(text, nothing).nbytes == 0


def test_numba_and_llvm():
    signature = declared("saxpy.numba.sm_80")
    assert len(signature.params) == 15
    assert signature.nbytes == 116
    assert declared("reverse.llvm-14.sm_70").nbytes == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ptx([".param .u64 a", ".param .v4 .u32 x"]), "PTX line 7: k: parameter 1: cannot be read"),
        (ptx([".param .u64 a", "// no\n.param .align 3 .b8 x[4]"]), "PTX line 8: k: .*alignment 3"),
        (ptx([".param .u64 a"])[:70], "PTX line 5: this .entry has no complete head and body"),
    ],
)
def test_errors_name_the_line(text, message):
    with pytest.raises(fe.PtxError, match=message):
        fe.Signature.from_ptx(text)
