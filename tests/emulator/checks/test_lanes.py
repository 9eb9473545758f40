"""Lanes and warps that take part where they must not, or stay away where they are expected."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from tests.emulator.checks.harness import check, described, kinds
from tests.emulator.harness import entry, run

OWN = "mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; setp.lt.u32 %p1, %t0, 16;"
KEEP = "st.global.b32 [%q9], %t4; END:"


def launch(body: str, block: int = 64, checks: bool = False) -> list[str]:
    out = np.zeros(128, np.uint32)
    if checks:
        return kinds(check(body, described("out", out), block=block))
    run(entry(1, body), out, block=block, shared_bytes=512)
    return []


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize(
    "exchange",
    [
        "shfl.sync.bfly.b32 %t4, %t0, 1, 31, {};",
        "vote.sync.ballot.b32 %t4, %p1, {};",
        "redux.sync.add.s32 %t4, %t0, {};",
        "match.any.sync.b32 %t4, %t0, {};",
        "bar.warp.sync {}; mov.b32 %t4, 1;",
    ],
)
def test_a_member_mask_names_those_that_come(exchange: str, checks: bool) -> None:
    """All lanes execute it, or under a branch or a guard the first sixteen."""
    everybody, few = exchange.format("-1"), exchange.format("0xffff")
    branch = OWN + "@!%p1 bra END; {}" + KEEP
    assert not launch(OWN + everybody + KEEP, checks=checks)
    assert not launch(branch.format(few), checks=checks)
    for wrong in (OWN + few + KEEP, branch.format(everybody)):
        with pytest.raises(fe.FerrumError, match="not all lanes that it names|all lanes of a warp"):
            launch(wrong, checks=checks)


def test_a_guarded_exchange_names_the_lanes_of_its_guard() -> None:
    shuffle = OWN + "mov.b32 %t4, 0; @%p1 shfl.sync.bfly.b32 %t4, %t0, 1, 31, {};" + KEEP
    assert not launch(shuffle.format("0xffff"))
    with pytest.raises(fe.FerrumError, match="not all lanes that it names"):
        launch(shuffle.format("-1"))
    nobody = shuffle.replace("%t0, 16;", "%t0, 0;").format("-1")  # does not execute it at all
    assert not launch(nobody)


def test_a_value_of_a_lane_that_gives_none() -> None:
    shuffle = OWN + "@!%p1 bra END; shfl.sync.{}, 0xffff;" + KEEP
    assert not launch(shuffle.format("idx.b32 %t4, %t0, 12, 31"), checks=True)
    # As a reduction does, whose last lanes count for nothing.
    assert not launch(shuffle.format("down.b32 %t4, %t0, 8, 31"), checks=True)
    for wrong in ("idx.b32 %t4, %t0, 20, 31", "bfly.b32 %t4, %t0, 16, 31"):
        assert launch(shuffle.format(wrong), checks=True) == ["absent-lane"]


def test_lanes_that_wait_at_different_barriers() -> None:
    body = """and.b32 %t1, %t0, 1; setp.eq.u32 %p1, %t1, 0; @%p1 bra EVEN; {0} bra NEXT;
EVEN: {0}
NEXT: mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; st.global.b32 [%q9], %t0;"""
    assert launch(body.format("bar.sync 0;"), checks=True) == ["divergent-barrier"]
    assert not launch(body.format("barrier.sync 0;"), checks=True)


HANDED = """mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; mov.u32 %t4, 5;
setp.lt.u32 %p1, %t0, 32; @%p1 bra FIRST; bar.sync 1, {}; ld.shared.b32 %t4, [tile]; bra LAST;
FIRST: st.shared.b32 [tile], 5; bar.arrive {};
LAST: st.global.b32 [%q9], %t4;"""


@pytest.mark.parametrize("checks", [False, True])
def test_warps_agree_on_the_threads_of_a_barrier(checks: bool) -> None:
    assert not launch(HANDED.format("64", "1, 64"), checks=checks)
    for here, there in (("32", "1, 64"), ("64", "1, 96"), ("48", "1, 48")):
        with pytest.raises(fe.PtxError, match="the same number of threads, a multiple of 32"):
            launch(HANDED.format(here, there), checks=checks)


def test_a_barrier_of_two_groups_at_once() -> None:
    """Two pairs of warps: a warp of each may open it for both."""
    body = """setp.lt.u32 %p1, %t0, 64; @!%p1 bra OTHER; bar.sync 1, 64;
OTHER: {} @%p1 bra END; bar.sync 1, 64;
END:"""
    assert launch(body.format(""), 128, checks=True) == ["barrier-reuse"]
    assert not launch(body.format("bar.sync 0;"), 128, checks=True)
    again = """mov.u32 %t1, 0; setp.ge.u32 %p1, %t0, 64; @%p1 bra END;
AGAIN: bar.sync 1, 64; add.u32 %t1, %t1, 1; setp.lt.u32 %p2, %t1, 5; @%p2 bra AGAIN;
END:"""
    assert not launch(again, 128, checks=True)


@pytest.mark.parametrize("checks", [False, True])
def test_a_barrier_that_others_do_not_come_to(checks: bool) -> None:
    with pytest.raises(fe.LaunchError, match=r"PTX line \d+: bar.sync 1, 64"):
        launch(HANDED.format("64", "2, 64"), checks=checks)


STORE = "shl.b32 %t2, %t0, 2; st.shared.b32 [%t2], %t0; setp.gt.u32 %p1, %t0, {};"
ON = "ON: bar.sync 0; ld.shared.b32 %t4, [%t2];"
USE = "ld.shared.b32 %t4, [%t2]; mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8;" + KEEP


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (STORE + "@%p1 bra SKIP; bar.sync 0; SKIP:" + USE, "skipped-barrier"),
        (STORE + "@%p1 bra SKIP; barrier.sync 0; SKIP:" + USE, "skipped-barrier"),
        (STORE + "@%p1 ret; bar.sync 0;" + USE, "skipped-barrier"),
        (
            STORE + "bar.sync 0; @!%p1 bra ON; ld.shared.b32 %t4, [%t2]; ret;" + ON,
            "skipped-barrier",
        ),
        (STORE + "bar.sync 0; @%p1 ret; bar.sync 0;" + USE, ""),  # has nothing to be ordered
        (STORE + "bar.sync 0;" + USE.replace("END:", "@%p1 ret; END:"), ""),
        ("setp.gt.u32 %p1, %t0, {}; @%p1 ret; bar.sync 0;", ""),
    ],
)
@pytest.mark.parametrize("first", [40, 31])  # lanes of a warp, or all of one
def test_threads_that_end_without_the_barrier(body: str, found: str, first: int) -> None:
    assert set(launch(body.format(first), checks=True)) == ({found} if found else set())


def test_a_thread_of_the_first_warp_may_be_the_one_that_ends() -> None:
    """Then the others come to the barrier behind it."""
    body = STORE.replace("gt", "lt").format(32) + "@%p1 ret; bar.sync 0;" + USE
    out = np.zeros(64, np.uint32)
    (finding,) = check(body, described("out", out))
    assert finding.instruction == "bar.sync 0"
    assert finding.message.startswith("waits for threads of this CTA that have ended at PTX line")
