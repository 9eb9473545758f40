"""CTAs that wait for each other run in turns, and a deadlock is named."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator.checks import Finding
from ferrum_numba.emulator.seat import Seat
from ferrum_numba.errors import LaunchError
from tests.emulator.checks import harness as checked
from tests.emulator.harness import entry, run

START = """mov.u32 %t1, %ctaid.x; mov.u32 %t2, %nctaid.x; mul.wide.u32 %q8, %t1, 4;
mov.u32 %t10, 0; mov.u32 %t7, 0; setp.ne.u32 %p1, %t0, 0;
"""
# All CTAs of the grid meet, eight times: p0 counts, p1 (CTAs,) is added to by the CTA before.
BARRIER = (
    START
    + """add.u32 %t3, %t1, 1; rem.u32 %t3, %t3, %t2; mul.wide.u32 %q9, %t3, 4;
add.s64 %q8, %q8, %q1; add.s64 %q9, %q9, %q1; mov.u32 %t4, 0;
ROUND: @%p1 bra MET;
ld.global.b32 %t5, [%q8]; add.u32 %t5, %t5, %t1; st.global.b32 [%q8], %t5;
atom.global.gpu.release.add.u32 %t6, [%q0], 1;
add.u32 %t4, %t4, {ctas};
AGAIN: ld.global.gpu.acquire.b32 %t6, [%q0]; setp.lt.u32 %p2, %t6, %t4; @%p2 bra AGAIN;
ld.global.b32 %t5, [%q9]; add.u32 %t10, %t10, %t5;
atom.global.gpu.release.add.u32 %t6, [%q0], 1;
add.u32 %t4, %t4, {ctas};
AGAIN2: ld.global.gpu.acquire.b32 %t6, [%q0]; setp.lt.u32 %p2, %t6, %t4; @%p2 bra AGAIN2;
MET: bar.sync 0; add.u32 %t7, %t7, 1; setp.lt.u32 %p3, %t7, 8; @%p3 bra ROUND;
@!%p1 st.global.b32 [%q8], %t10;
"""
)
# Each CTA adds its number to the sum of the CTA before, by a flag in p0 and a value in p1.
LOOK_BACK = (
    START
    + """add.s64 %q10, %q8, %q0; add.s64 %q11, %q8, %q1;
@%p1 bra END; mov.u32 %t5, 0; setp.eq.u32 %p2, %t1, {first}; @%p2 bra MINE;
AGAIN: ld.volatile.global.b32 %t6, [%q10+{back}]; setp.eq.u32 %p3, %t6, 0; @%p3 bra AGAIN;
membar.gl; ld.global.b32 %t5, [%q11+{back}];
MINE: add.u32 %t5, %t5, %t1; st.global.b32 [%q11], %t5; membar.gl;
st.volatile.global.b32 [%q10], 1;
END:"""
)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("ctas", [2, 40])
def test_a_barrier_of_the_grid(ctas: int, threads: int) -> None:
    count, parts = np.zeros(1, np.uint32), np.zeros(ctas, np.uint32)
    run(entry(2, BARRIER.format(ctas=ctas)), count, parts, grid=ctas, block=64, threads=threads)
    after = (np.arange(ctas) + 1) % ctas
    assert parts.tolist() == (after * 36).tolist()  # 1 + 2 + … + 8 times its number
    assert count[0] == 16 * ctas


@pytest.mark.parametrize("back", [-4, 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_waits_for_the_one_before_or_behind(back: int, threads: int) -> None:
    flags, sums, ctas = np.zeros(50, np.uint32), np.zeros(50, np.uint32), np.arange(50)
    text = entry(2, LOOK_BACK.format(back=back, first=0 if back < 0 else 49))
    run(text, flags, sums, grid=50, block=64, threads=threads)
    expected = ctas.cumsum() if back < 0 else ctas[::-1].cumsum()[::-1]
    assert sums.tolist() == expected.tolist()


def test_a_wait_that_counts_its_looks() -> None:
    """Its registers differ at every look, so that only its patience ends."""
    body = (
        START
        + """mov.u32 %t3, 0; setp.ne.u32 %p2, %t1, 0; @%p2 bra LAST;
AGAIN: add.u32 %t3, %t3, 1; ld.volatile.global.b32 %t6, [%q0]; setp.eq.u32 %p3, %t6, 0;
@%p3 bra AGAIN; st.global.b32 [%q1], %t3; bra END;
LAST: st.volatile.global.b32 [%q0], 1;
END:"""
    )
    flag, looks = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    run(entry(2, body), flag, looks, grid=2)
    assert flag[0] == 1
    assert looks[0] > 1


def test_a_cta_that_computes_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its memory is compared only where it reads what others write, again and again."""
    looks: list[Seat] = []
    monkeypatch.setattr(Seat, "_look", looks.append)
    body = """mov.u32 %t1, 0;
AGAIN: add.u32 %t1, %t1, 1; setp.lt.u32 %p1, %t1, 30000; @%p1 bra AGAIN;
setp.eq.u32 %p2, %t0, 0; @%p2 atom.global.add.u32 %t2, [%q0], %t1;"""
    count = np.zeros(1, np.uint32)
    run(entry(1, body), count, grid=4)
    assert count[0] == 4 * 30000
    assert not looks


def findings(text: str, ctas: int, *arrays: np.ndarray) -> list[Finding]:
    described = [checked.described(f"a{i}", array) for i, array in enumerate(arrays)]
    return checked.check(text, *described, checks=("memory", "init", "race"), grid=ctas)


def test_checks_find_nothing_in_right_ones() -> None:
    zeros = np.zeros(1, np.uint32), np.zeros(9, np.uint32), np.zeros(9, np.uint32)
    assert not findings(BARRIER.format(ctas=9), 9, zeros[0], zeros[1])
    assert not findings(LOOK_BACK.format(back=-4, first=0), 9, zeros[1] * 0, zeros[2])


def test_checks_find_what_is_read_too_early() -> None:
    count, parts = np.zeros(1, np.uint32), np.zeros(9, np.uint32)
    early = BARRIER.format(ctas=9).replace("acquire.b32", "relaxed.b32")
    assert {f.kind for f in findings(early, 9, count, parts)} == {"cta-race"}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_deadlock_is_named_with_address_and_writers(threads: int) -> None:
    count, parts = np.zeros(1, np.uint32), np.zeros(6, np.uint32)
    text = entry(2, BARRIER.format(ctas=7))
    lines = text.splitlines()
    poll = next(i for i, line in enumerate(lines, 1) if line.startswith("AGAIN:"))
    add = next(i for i, line in enumerate(lines, 1) if line.startswith("atom.global.gpu.release"))
    with pytest.raises(LaunchError) as raised:
        run(text, count, parts, grid=6, block=64, threads=threads)
    message = str(raised.value)
    assert "deadlock: 6 CTAs cannot end (0 did)" in message
    assert f"polling p0+0 ({count.ctypes.data:#x}), which holds 6, at PTX line {poll}" in message
    assert f"written by PTX line {add}: atom.global.gpu.release.add.u32" in message
    assert "(0, 0, 0), (1, 0, 0), (2, 0, 0) and 3 more" in message


def test_an_endless_loop_is_named_at_once() -> None:
    with pytest.raises(LaunchError, match="deadlock: 1 CTA cannot end .*\n.*the loop at PTX line"):
        run(entry(1, "HERE: bra HERE;"), np.zeros(1))


def test_a_lock_that_nobody_gives_back() -> None:
    body = (
        START
        + """@%p1 bra END;
AGAIN: atom.global.acquire.gpu.cas.b32 %t6, [%q0], 0, 1; setp.ne.u32 %p2, %t6, 0; @%p2 bra AGAIN;
END:"""
    )
    with pytest.raises(LaunchError, match=r"4 CTAs cannot end \(1 did\).*\n.*holds 1"):
        run(entry(1, body), np.zeros(1, np.uint32), grid=5)
