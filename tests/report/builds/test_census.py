from __future__ import annotations

import pytest

from ferrum_numba import kernels
from ferrum_numba.abi import Signature
from ferrum_numba.ptx_text import read_opcode
from ferrum_numba.report.builds import Access, Census, SourceFile, TensorUse
from ferrum_numba.report.builds.census import family, take_census
from ferrum_numba.report.builds.outline import outline
from tests.corpus import FILES, corpus_text
from tests.ptx import ptx


def census(body: str) -> Census:
    return take_census(outline(ptx([], body), "k"))


def texts():
    files = [pytest.param(path.read_text(), id=path.stem) for path in FILES]
    return files + [pytest.param(build.text, id=build.name) for build in kernels.builds()[::6]]


@pytest.mark.parametrize("text", texts())
def test_every_instruction_is_counted_once(text):
    for entry in Signature.entries(text):
        found = outline(text, entry)
        counted = take_census(found)
        assert counted.instructions == len(found.statements)
        assert sum(f.count for f in counted.families) == counted.instructions
        assert all(sum(f.opcodes.values()) == f.count for f in counted.families)
        assert sum(f.count for f in counted.files) == counted.instructions
        assert all(sum(f.lines.values()) == f.count for f in counted.files if f.name)
        assert "other" not in {f.name for f in counted.families}


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        ("mul.wide.u32", "integer"),
        ("mul.f16x2", "half"),
        ("fma.rn.bf16x2", "half"),
        ("fma.rn.f32", "float"),
        ("add.rn.f32x2", "float"),
        ("min.s32", "integer"),
        ("wgmma.fence.sync.aligned", "tensor"),
        ("cp.async.commit_group", "async copy"),
        ("mbarrier.init.shared::cta.b64", "barrier"),
        ("redux.sync.add.s32", "lanes"),
        ("lop3.b32", "logic"),
        ("madeup.b32", "other"),
    ],
)
def test_families(opcode, name):
    assert family(read_opcode(opcode)) == name


@pytest.mark.parametrize(
    ("statement", "access"),
    [
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];", ("ld", "global", 16)),
        (
            "ld.global.L1::evict_last.L2::cache_hint.v2.b64 {%rd1, %rd2}, [%rd3], %rd4;",
            ("ld", "global", 16),
        ),
        ("ld.u8 %r1, [%rd1];", ("ld", "generic", 1)),
        ("st.shared::cta.v2.f16x2 [%r1], {%r2, %r3};", ("st", "shared", 8)),
        ("@%p1 red.global.add.f32 [%rd1], %r1;", ("red", "global", 4)),
        ("atom.global.cas.b64 %rd1, [%rd2], %rd3, %rd4;", ("atom", "global", 8)),
        ("cp.async.cg.shared.global [%r1], [%rd1], 16;", ("cp.async", "global to shared", 16)),
        (
            "cp.async.ca.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;",
            ("cp.async", "global to shared", 16),
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1,%r2,%r3,%r4}, [%r5];",
            ("ldmatrix", "shared", 16),
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
            " [%r1], [%rd1, {%r2, %r3}], [%r4];",
            ("cp.async.bulk.tensor", "global to shared", None),
        ),
        ("prefetch.global.L2 [%rd1];", ("prefetch", "global", None)),
    ],
)
def test_memory(statement, access):
    assert census(statement).accesses == (Access(*access, 1),)


def test_no_memory():
    assert census("cp.async.wait_group 0;\ncp.async.commit_group;\nbar.sync 0;").accesses == ()


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};",
            ("mma", "m16n8k16", "f32.f16.f16.f32"),
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, p, 1, 1;",
            ("wgmma.mma_async", "m64n128k16", "f32.bf16.bf16"),
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r1, %r2}, [%r3];",
            ("ldmatrix", "m8n8 x2 trans", "b16"),
        ),
        (
            "wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r1}, [%r2];",
            ("wmma.load", "m16n16k16", "f16"),
        ),
        (
            "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32"
            " {%r1}, {%r2}, {%r3}, {%r4}, %r5, 0;",
            ("mma.sp", "m16n8k32", "f32.f16.f16.f32"),
        ),
    ],
)
def test_tensor(statement, use):
    assert census(statement).tensor == (TensorUse(*use, 1),)


def test_sources():
    text = corpus_text("scale_add.triton-3.6.0.sm_80")
    (file,) = take_census(outline(text, "scale_add")).files
    assert file.name == "source/triton_kernels.py"
    assert set(file.lines) == {3, 4, 5, 6, 7, 8}
    assert census("mov.u32 %r1, 1;\nret;").files == (SourceFile("", 2, {}),)
