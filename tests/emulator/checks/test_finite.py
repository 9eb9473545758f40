"""The first NaN or infinity out of finite numbers is found."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba import Signature
from ferrum_numba.emulator.checks import Finding
from ferrum_numba.emulator.checks.watch import Watch
from ferrum_numba.emulator.host import Host
from ferrum_numba.emulator.native import Code, Needs
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.translate import Module
from tests.emulator.checks.harness import check, described
from tests.emulator.harness import THIS, entry

OWN = "mul.wide.u32 %q20, %t0, 4;\nadd.s64 %q21, %q0, %q20;\nadd.s64 %q22, %q1, %q20;\n"


def found(body: str, *inputs: np.ndarray, block: int = 32) -> list[Finding]:
    out = np.zeros(64, np.float32)
    arrays = [described(name, x) for name, x in zip("ab", inputs, strict=False)]
    return check(body, *arrays, described("out", out), checks=("nan",), block=block)


def test_the_instruction_that_overflows_and_not_what_follows() -> None:
    a = np.full(64, 1e20, np.float32)
    a[5] = 3e38
    (finding,) = found(
        OWN + "ld.global.f32 %t2, [%q21];\nmul.f32 %t3, %t2, 0f41200000;\n"
        "sub.f32 %t4, %t3, %t3;\nadd.f32 %t5, %t4, %t2;\nst.global.f32 [%q22], %t5;",
        a,
    )
    assert (finding.check, finding.kind, finding.lanes) == ("nan", "nan", (5,))
    assert finding.instruction == "mul.f32 %t3, %t2, 0f41200000"
    assert "an infinity came out of finite numbers: %t3 = inf from %t2 = 3e+38" in finding.message


def test_a_difference_of_halves() -> None:
    a = np.array([0x7BFF3C00] * 64, np.uint32)  # (1, 65504)
    body = (
        OWN + "ld.global.b32 %t2, [%q21];\nadd.rn.f16x2 %t3, %t2, %t2;\nst.global.b32 [%q22], %t3;"
    )
    (finding,) = found(body, a)
    assert "%t3 = (2, inf) from %t2 = (1, 6.55e+04), %t2 = (1, 6.55e+04)" in finding.message


def test_zero_over_zero() -> None:
    body = OWN + "mov.f32 %t2, 0f00000000;\ndiv.rn.f32 %t3, %t2, %t2;\nst.global.f32 [%q22], %t3;"
    (finding,) = found(body, np.zeros(64, np.float32))
    assert "a NaN came out of finite numbers: %t3 = NaN from %t2 = 0, %t2 = 0" in finding.message


def test_a_load_names_the_element() -> None:
    a = np.ones((4, 16), np.float32)
    a[1, 3] = np.nan
    body = OWN + "ld.global.b32 %t2, [%q21];\nadd.f32 %t3, %t2, %t2;\nst.global.f32 [%q22], %t3;"
    (finding,) = found(body, a)
    assert (finding.array, finding.offset, finding.lanes) == ("a", 76, (19,))
    assert "a NaN was read from a[1, 3]" in finding.message


def test_a_vector_load_names_the_element() -> None:
    a = np.ones(128, np.float32)
    a[4 * 7 + 2] = np.inf
    body = (
        "mul.wide.u32 %q20, %t0, 16;\nadd.s64 %q21, %q0, %q20;\n"
        "ld.global.v4.f32 {%t2, %t3, %t4, %t5}, [%q21];\nadd.f32 %t6, %t2, %t4;\n"
        "mul.wide.u32 %q20, %t0, 4;\nadd.s64 %q22, %q1, %q20;\nst.global.f32 [%q22], %t6;"
    )
    (finding,) = found(body, a)
    assert finding.lanes == (7,)
    assert "an infinity was read from a[30]" in finding.message


def test_a_product_of_matrices() -> None:
    """Of halves of 60000: the sum of 16 squares is finite in binary32, and no half."""
    loads = "".join(f"mov.b32 %t{i}, 0x7B537B53;\n" for i in (20, 21, 22, 23, 24, 25))
    product = (
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%t26, %t27},"
        " {%t20, %t21, %t22, %t23}, {%t24, %t25}, {%t28, %t28};\n"
    )
    body = OWN + loads + "mov.b32 %t28, 0;\n" + product + "st.global.b32 [%q22], %t26;"
    findings = found(body, np.zeros(64, np.float32))
    assert [f.instruction for f in findings] == [product.strip(";\n")]
    assert "(inf, inf)" in findings[0].message


def test_infinities_on_purpose_are_none() -> None:
    body = OWN + (
        "ld.global.f32 %t2, [%q21];\nmov.f32 %t3, 0fFF800000;\nmax.f32 %t4, %t3, %t2;\n"
        "add.f32 %t5, %t3, 0f3F800000;\nmin.f32 %t6, %t4, 0f7F800000;\nst.global.f32 [%q22], %t6;"
    )
    assert not found(body, np.ones(64, np.float32))


def test_lanes_that_a_guard_leaves_out() -> None:
    body = OWN + (
        "ld.global.f32 %t2, [%q21];\nsetp.gt.f32 %p1, %t2, 0f00000000;\nmov.f32 %t3, 0f00000000;\n"
        "@%p1 rcp.rn.f32 %t3, %t2;\nst.global.f32 [%q22], %t3;"
    )
    a = np.zeros(64, np.float32)
    a[::2] = 2
    assert not found(body, a)


@pytest.mark.skipif(not THIS.triple.startswith("x86_64"), reason="for x86")
def test_bfloat_needs_no_functions_of_a_compiler() -> None:
    """LLVM would convert what crosses blocks on a CPU without bfloat16: each check makes some."""
    text = entry(2, OWN + "ld.global.f32 %t2, [%q21];\ncvt.rn.bf16.f32 %h1, %t2;\n"
                 "cvt.f32.bf16 %t3, %h1;\nadd.f32 %t4, %t3, %t2;\nbar.sync 0;\n"
                 "cvt.f32.bf16 %t5, %h1;\nst.global.f32 [%q22], %t5;")  # fmt: skip
    body, host = parse_entry(text, "k"), Host.of("haswell", {"avx2": True}, THIS.triple)
    watch = Watch(frozenset({"nan"}), body, None)
    module = Module(body, Signature.from_ptx(text), host, False, watch)
    needs = Needs(0, 0, 0, False, list(module.library.used))
    assert (
        b"__trunc" not in Code.compile(module.text, needs, host, module.length, checked=True).object
    )
