"""Reads of what nobody wrote, and outputs that nobody wrote."""

from __future__ import annotations

import numpy as np

from ferrum_numba.emulator.checks import LaunchArray
from tests.emulator.checks.harness import check, described, kinds

WORD = "shl.b32 %t1, %t0, 2;\nadd.u32 %t1, %t1, tile;\n"


def test_shared_memory_that_was_never_written() -> None:
    body = WORD + (
        "setp.lt.u32 %p1, %t0, 40;\n@%p1 st.shared.b32 [%t1], %t0;\nbar.sync 0;\n"
        "ld.shared.b32 %t2, [%t1];"
    )
    (finding,) = check(body, checks=("init",))
    assert (finding.kind, finding.space, finding.address) == ("uninitialised-shared", "shared", 160)
    assert (finding.warp, finding.lanes) == (1, tuple(range(8, 32)))


def test_each_cta_begins_with_nothing_written() -> None:
    body = WORD + (
        "mov.u32 %t5, %ctaid.x;\nsetp.eq.u32 %p1, %t5, 0;\n@%p1 st.shared.b32 [%t1], %t0;\n"
        "bar.sync 0;\nld.shared.b32 %t2, [%t1];"
    )
    (finding,) = check(body, checks=("init",), grid=3)
    assert (finding.cta, finding.count) == ((1, 0, 0), 2 * 64)


def test_a_matrix_of_which_one_row_is_missing() -> None:
    body = (
        "mul.lo.u32 %t1, %t0, 16;\nsetp.ne.u32 %p1, %t0, 5;\n"
        "@%p1 st.shared.v4.b32 [%t1], {%t0, %t0, %t0, %t0};\nbar.sync 0;\n"
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%t4, %t5}, [%t1];"
    )
    (finding,) = check(body, checks=("init",), block=32)
    assert (finding.lanes, finding.address) == ((5,), 80)


def test_registers() -> None:
    body = "setp.ge.u32 %p1, %t0, 8;\n@%p1 bra OVER;\nmov.b32 %t5, 1;\nOVER:\nadd.u32 %t6, %t5, 1;"
    (finding,) = check(body, checks=("init",), block=32)
    assert (finding.kind, finding.instruction) == ("uninitialised-register", "add.u32 %t6, %t5, 1")
    assert finding.lanes == tuple(range(8, 32))
    # A guarded write counts for all: compilers go on with lanes that do not matter.
    fine = "setp.lt.u32 %p1, %t0, 8;\n@%p1 mov.b32 %t5, 1;\nadd.u32 %t6, %t5, 1;"
    assert not check(fine, checks=("init",), block=32)
    guard = "@%p3 mov.b32 %t5, 1;"
    assert kinds(check(guard, checks=("init",), block=32)) == ["uninitialised-register"]
    branch = "@%p3 bra OVER;\nmov.b32 %t5, 1;\nOVER:"
    assert kinds(check(branch, checks=("init",), block=32)) == ["uninitialised-register"]


def test_outputs_that_were_not_written() -> None:
    out = np.zeros((8, 10), np.uint16)
    body = (
        "setp.ne.u32 %p1, %t0, 23;\nmul.wide.u32 %q8, %t0, 2;\nadd.s64 %q8, %q8, %q0;\n"
        "@%p1 st.global.b16 [%q8], 1;"
    )
    (finding,) = check(body, described("out", out, "output"), checks=("init",), block=64)
    assert (finding.kind, finding.count, finding.array) == ("unwritten-output", 17, "out")
    assert finding.offset == 46
    assert "17 of 80 elements" in finding.message
    assert "out[2, 3]" in finding.message
    strided = described("out", out[:6, :7], "output")
    findings = check(body, strided, checks=("init",), block=64)
    assert kinds(findings) == ["out-of-bounds", "unwritten-output"]
    assert findings[1].count == 1


def test_scratch_is_read_only_after_it_was_written() -> None:
    memory = np.zeros(64, np.uint32)
    scratch = LaunchArray("scratch", memory.ctypes.data, memory.nbytes, role="scratch")
    body = (
        "mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q8, %q8, %q0;\nsetp.lt.u32 %p1, %t0, 50;\n"
        "@%p1 st.global.b32 [%q8], %t0;\nld.global.b16 %h1, [%q8+2];"
    )
    (finding,) = check(body, scratch, checks=("init",))
    assert (finding.kind, finding.lanes) == ("uninitialised-global", tuple(range(18, 32)))


LOCAL = """.local .align 8 .b8 depot[24]; .reg .b64 %sp, %sg; mov.b64 %sp, depot;
cvta.local.u64 %sg, %sp; setp.lt.u32 %p1, %t0, 8;"""


def test_local_memory_is_read_only_after_it_was_written() -> None:
    body = LOCAL + "@%p1 st.local.b32 [%sp+8], %t0; ld.local.b32 %t2, [%sp+8];"
    (finding,) = check(body, checks=("init",), block=32)
    assert (finding.kind, finding.space, finding.address) == ("uninitialised-local", "local", 8)
    assert finding.lanes == tuple(range(8, 32))
    assert not check(body.replace("@%p1 ", ""), checks=("init",))
    # The second element of a vector; the gap of a structure is no mistake.
    vector = "st.local.b16 [%sp+{}], 7; ld.local.v2.b32 {{%t2, %t3}}, [%sp];"
    store = LOCAL + "st.local.b8 [%sp], 1;"
    assert kinds(check(store + vector.format(2), checks=("init",))) == ["uninitialised-local"]
    assert not check(store + vector.format(6), checks=("init",))


def test_local_memory_by_a_generic_address() -> None:
    body = LOCAL + "{} [%s{}+4], %t0; {} %t2, [%s{}+4];"
    for store, load in (("st.b32", "ld.local.b32"), ("st.local.b32", "ld.b32")):
        names = ("g" if store == "st.b32" else "p", "g" if load == "ld.b32" else "p")
        text = body.format(store, names[0], load, names[1])
        assert not check(text, checks=("memory", "init"))
        missing = text.replace("+4], %t0", "+8], %t0")
        assert kinds(check(missing, checks=("memory", "init"))) == ["uninitialised-local"]


def test_each_cta_begins_with_its_own_local_memory() -> None:
    body = LOCAL + (
        "mov.u32 %t5, %ctaid.x; setp.eq.u32 %p1, %t5, 0; @%p1 st.local.b32 [%sp], 1;"
        "ld.local.b32 %t2, [%sp];"
    )
    (finding,) = check(body, checks=("init",), grid=3)
    assert (finding.cta, finding.count) == ((1, 0, 0), 2 * 64)
