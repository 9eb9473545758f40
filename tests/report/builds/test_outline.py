from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.abi import Sidecar, Signature
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.ptx import Instruction
from ferrum_numba.report.builds import inspect_ptx
from ferrum_numba.report.builds.outline import outline
from tests.corpus import FILES, corpus_text
from tests.ptx import IOTA, SHARED, ptx


def outlines(path):
    text = path.read_text()
    return [outline(text, entry) for entry in Signature.entries(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_compiler_is_read(path):
    for found in outlines(path):
        assert found.statements[-1].opcode.base == "ret"
        text = path.read_text().splitlines()
        for statement in found.statements:
            assert statement.opcode.text in text[statement.line - 1]


@pytest.mark.parametrize("text", [IOTA, SHARED, fe.W4A16_PTX], ids=["iota", "shared", "w4a16"])
def test_the_cpu_devices_parser_is_the_second_opinion(text):
    entry = fe.Signature.from_ptx(text).entry
    body = parse_entry(text, entry)
    expected = [
        (s.line, s.opcode.text, s.guard is not None, s.loc)
        for s in body.statements
        if isinstance(s, Instruction)
    ]
    found = outline(text, entry)
    assert [
        (s.line, s.opcode.text, s.guard is not None, s.loc) for s in found.statements
    ] == expected
    assert found.dynamic_shared == ("global_smem" in text)


def test_memory_calls_and_directives():
    text = corpus_text("cuda.nvcc-13.0.sm_80")
    found = outline(text, "block_sum")
    assert found.static_shared_bytes == 1024
    assert not found.dynamic_shared
    assert found.calls == ("_Z5curvef", "vprintf")
    assert found.directives == {"maxntid": (256, 1, 1), "minnctapersm": (2,)}
    assert found.files[1] == "source/cuda_kernels.cu"
    assert outline(text, "nothing").static_shared_bytes == 0


def test_shared_arrays_of_the_module_count_where_they_are_used():
    head = ".shared .align 16 .b8 used[100];\n.shared .align 16 .b8 other[64];\n.visible"
    text = ptx([], "mov.u32 %r1, used;\nret;").replace(".visible", head)
    assert outline(text, "k").static_shared_bytes == 100


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mov.u32 %r1, 1\nmov.u32 %r2, 2;\nret;", "PTX line 13: the instruction has no semicolon"),
        ("mov.u32 %r1, 1;\n???;\nret;", "PTX line 14: not an instruction"),
        ("{ mov.u32 %r1, 1;\nret;", "PTX line 15: the entry has no end"),
        ("mov.u32 %r1, 1;\nret", "PTX line 14: the instruction has no semicolon"),
    ],
)
def test_broken_bodies_name_the_line(body, message):
    with pytest.raises(fe.PtxError, match=message):
        outline(ptx([".param .u32 n"], body), "k")


def test_an_entry_that_is_not_there():
    with pytest.raises(fe.PtxError, match="'other': its body is not in the PTX"):
        outline(IOTA, "other")


@settings(max_examples=80)
@given(data=st.data())
def test_damaged_text_is_read_or_refused(data):
    """Any slice cut out, or any junk put in: an inspection, or an error of this package."""
    text = corpus_text(
        data.draw(st.sampled_from(["scale_add.triton-3.6.0.sm_80", "reverse.llvm-14.sm_70"]))
    )
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    junk = data.draw(st.text('{}();.[]<>%/*"@, \n', max_size=6))
    damaged = text[:start] + junk + text[end:]
    with contextlib.suppress(fe.FerrumError):
        inspect_ptx("damaged", damaged, Sidecar(), None, None)
