"""Clocks of the CPU device: they advance, and runs repeat."""

from __future__ import annotations

import numpy as np

from .harness import entry, run

# out[warp, 0..5] of each CTA: two looks at each of three clocks; a lane of each warp writes them.
LOOKS = """mov.u32 %t1, %clock; mov.u64 %q1, %clock64; mov.u64 %q2, %globaltimer;
mov.u32 %t2, %clock; mov.u64 %q3, %clock64; mov.u64 %q4, %globaltimer;
mov.u32 %t3, %ctaid.x; mov.u32 %t4, %warpid; mad.lo.u32 %t4, %t3, 2, %t4;
mul.wide.u32 %q5, %t4, 48; add.s64 %q5, %q0, %q5; and.b32 %t5, %t0, 31;
cvt.u64.u32 %q6, %t1; cvt.u64.u32 %q7, %t2; setp.eq.u32 %p1, %t5, 0;
@%p1 st.global.u64 [%q5], %q6; @%p1 st.global.u64 [%q5+8], %q7;
@%p1 st.global.u64 [%q5+16], %q1; @%p1 st.global.u64 [%q5+24], %q3;
@%p1 st.global.u64 [%q5+32], %q2; @%p1 st.global.u64 [%q5+40], %q4;"""


def looks(threads: int, block: int) -> np.ndarray:
    found = np.zeros((8, 2, 6), np.int64)
    run(entry(1, LOOKS), found, grid=8, block=block, threads=threads)
    return found


def test_clocks_advance() -> None:
    for block in (64, 50):  # 50: a partial warp, for which lanes are masked
        found = looks(1, block)
        assert (found[:, :, 0::2] > 0).all()
        assert (found[:, :, 0::2] < found[:, :, 1::2]).all()


def test_runs_repeat_on_any_number_of_threads() -> None:
    first = looks(1, 64)
    assert (first == first[:1]).all(), "each CTA has a clock of its own"
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(looks(threads, 64), first)


def test_halves_of_a_clock() -> None:
    body = """mov.u32 %t1, %globaltimer_lo; mov.u32 %t2, %globaltimer_hi; mov.u32 %t3, %clock_hi;
    st.global.u32 [%q0], %t1; st.global.u32 [%q0+4], %t2; st.global.u32 [%q0+8], %t3;"""
    found = np.full(3, -1, np.int32)
    run(entry(1, body), found)
    assert found[0] > 0
    assert found[1:].tolist() == [0, 0]


def test_lanes_that_wait_for_different_times() -> None:
    """Lane i of a warp looks at the clock until i microseconds are over."""
    body = """mul.wide.u32 %q1, %t0, 1000; mov.u64 %q2, %globaltimer; mov.u32 %t1, 0;
AGAIN: add.u32 %t1, %t1, 1; mov.u64 %q3, %globaltimer; sub.s64 %q3, %q3, %q2;
    setp.lt.s64 %p1, %q3, %q1; @%p1 bra AGAIN;
    mul.wide.u32 %q4, %t0, 4; add.s64 %q4, %q0, %q4; st.global.u32 [%q4], %t1;"""
    found = np.zeros(32, np.int32)
    run(entry(1, body), found)
    assert (np.diff(found) >= 0).all()
    assert found[0] == 1
    assert found[31] > 20
