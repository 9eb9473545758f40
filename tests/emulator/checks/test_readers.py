"""CTAs of one launch of which one reads what another writes."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator.checks import Finding
from tests.emulator.checks.harness import ALL, check, described, kinds

# %q8: this CTA's 64 words of p0; %q9: those of the CTA after it, the first's behind the last's.
PLACES = """
mov.u32 %t1, %ctaid.x; mov.u32 %t2, %nctaid.x; add.u32 %t3, %t1, 1; rem.u32 %t3, %t3, %t2;
mad.lo.u32 %t4, %t1, 64, %t0; mad.lo.u32 %t5, %t3, 64, %t0;
mul.wide.u32 %q8, %t4, 4; add.s64 %q8, %q8, %q0; mul.wide.u32 %q9, %t5, 4; add.s64 %q9, %q9, %q0;
"""
NEIGHBOUR = PLACES + "ld.global.b32 %t6, [%q9]; add.u32 %t6, %t6, 1; st.global.b32 [%q8], %t6;\n"


def run(body: str, grid: int = 4, threads: int = 1, checks: tuple[str, ...] = ALL) -> list[Finding]:
    x = np.arange(64 * grid, dtype=np.uint32)
    return check(body, described("x", x), checks=checks, grid=grid, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("checks", [("race",), ALL])
def test_a_neighbour_is_found_in_every_run(threads: int, checks: tuple[str, ...]) -> None:
    for _ in range(5):
        found = run(NEIGHBOUR, threads=threads, checks=checks)
        assert {f.kind for f in found} == {"cta-race"}
        for finding in found:
            assert finding.array == "x"
            assert "which CTA number" in finding.message
            assert "at PTX line" in finding.message
            assert "split the launch" in finding.message
            assert "bar.sync" not in finding.message


def test_both_orders_are_named_with_cta_line_and_element() -> None:
    """One thread: CTA 0 reads what CTA 1 then writes, and CTA 3 what CTA 0 has written."""
    load, store = run(NEIGHBOUR)
    assert load.instruction == "ld.global.b32 %t6, [%q9]"
    assert load.message.startswith("reads x[0] (byte 0 of 1024), which CTA number 0 writes at PTX")
    assert (load.cta, load.count) == ((3, 0, 0), 64)
    assert store.message.startswith("writes x[64] (byte 256 of 1024), which CTA number 0 reads at")
    assert (store.cta, store.count) == ((1, 0, 0), 3 * 64)
    assert f"PTX line {load.line}," in store.message
    assert f"PTX line {store.line}," in load.message


def test_a_reader_that_is_not_the_first() -> None:
    """Every CTA reads element 0, which the first one writes in the end."""
    body = PLACES + (
        "ld.global.b32 %t6, [%q0]; setp.eq.u32 %p1, %t1, {}; setp.eq.and.u32 %p1, %t0, 0, %p1;\n"
        "@%p1 st.global.b32 [%q0], 7;\n"
    )
    for writer in range(4):
        assert {f.kind for f in run(body.format(writer))} == {"cta-race"}
    assert not run(body.format(9))


def test_ctas_that_keep_to_their_own_elements() -> None:
    own = NEIGHBOUR.replace("[%q9]", "[%q8]")
    assert not run(own)
    assert not run(own + "ld.global.b32 %t7, [%q8]; st.global.b32 [%q8], %t7;", threads=3)


def test_loads_through_the_cache_that_does_not_see_stores() -> None:
    body = """mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; {} st.global.u32 [%q9], %t0; {}"""
    load, out = "ld.global{}.u32 %t2, [%q9];", np.zeros(64, np.uint32)
    for before, after, expected in (
        (load.format(".nc"), "", []),
        ("", load.format(""), []),
        ("", load.format(".nc"), ["stale-load"]),
    ):
        found = check(body.format(before, after), described("out", out), checks=("race",))
        assert kinds(found) == expected


def test_copies_read_too() -> None:
    body = PLACES + (
        "shl.b32 %t7, %t0, 2; mov.u32 %t8, tile; add.u32 %t7, %t7, %t8;\n"
        "cp.async.ca.shared.global [%t7], [%q9], 4; cp.async.wait_all; bar.sync 0;\n"
        "ld.shared.b32 %t6, [%t7]; add.u32 %t6, %t6, 1; st.global.b32 [%q8], %t6;\n"
    )
    assert {f.kind for f in run(body)} == {"cta-race"}


# All CTAs meet between the reads and the writes, by a counter in p1.
MEET = """bar.sync 0; setp.ne.u32 %p1, %t0, 0; @%p1 bra MET;
atom.global.gpu{release}.add.u32 %t9, [%q1], 1;
AGAIN: ld.global{acquire}.gpu.b32 %t9, [%q1]; setp.lt.u32 %p2, %t9, %t2; @%p2 bra AGAIN;
MET: bar.sync 0;
"""


@pytest.mark.parametrize(
    ("release", "acquire", "found"),
    [(".release", ".acquire", False), (".relaxed", ".acquire", True), (".release", "", True)],
)
def test_reads_before_and_writes_after_ctas_have_met(
    release: str, acquire: str, found: bool
) -> None:
    meet = MEET.format(release=release, acquire=acquire or ".relaxed")
    body = NEIGHBOUR.replace("add.u32 %t6", f"{meet}add.u32 %t6")
    x, counter = np.arange(128, dtype=np.uint32), np.zeros(1, np.uint32)
    for threads in (1, 2):
        counter[:] = 0
        arrays = described("x", x), described("counter", counter)
        findings = check(body, *arrays, checks=("race",), grid=2, threads=threads)
        assert bool(findings) == found
        assert {f.kind for f in findings} <= {"cta-race"}
