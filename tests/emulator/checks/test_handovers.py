"""Warps and lanes of one CTA that hand over data through global memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.checks.harness import ALL, check, described, kinds

# Each thread stores a word of p0, and loads that of another one: `%t3` is its number.
HAND = """mul.wide.u32 %q8, %t0, 4; add.s64 %q8, %q8, %q0; {first}
st.global.u32 [%q8], %t0; {between}
xor.b32 %t3, %t0, {other}; mul.wide.u32 %q9, %t3, 4; add.s64 %q9, %q9, %q0;
ld.global.u32 %t4, [%q9]; {last}"""
WARP, LANE = 32, 1


def run(body: str, checks: tuple[str, ...] = ALL, **given: int) -> list[str]:
    x, flag = np.zeros(64, np.uint32), np.zeros(1, np.uint32)
    return kinds(check(body, described("x", x), described("flag", flag), checks=checks, **given))


def hand(between: str, other: int, first: str = "", last: str = "", **given: int) -> list[str]:
    body = HAND.format(between=between, other=other, first=first, last=last)
    return run(body, **given)


@pytest.mark.parametrize("grid", [1, 3])
def test_what_another_warp_has_stored(grid: int) -> None:
    """Of more than one CTA each has the same elements: those race, too."""
    found = {"warp-race"} | ({"cta-race"} if grid > 1 else set())
    assert set(hand("", WARP, grid=grid)) == found
    assert hand("bar.sync 0;", WARP) == []
    assert hand("barrier.sync 1;", WARP) == []
    assert set(hand("bar.warp.sync -1;", WARP)) == {"warp-race"}


def test_what_another_warp_loads_is_stored_too_early() -> None:
    """The first warp, which runs first, loads what the second stores, and the second the other."""
    last = "{} st.global.u32 [%q8], 7;"
    body = HAND.format(first="", between="bar.sync 0;", other=WARP, last=last)
    load, store = check(body.format(""), described("x", np.zeros(64, np.uint32)))
    assert load.kind == store.kind == "warp-race"
    its = "x[32] (byte 128 of 256), which warp 0 of this CTA reads at PTX line"
    assert store.message.startswith(f"writes {its}")
    its = "x[0] (byte 0 of 256), which warp 0 of this CTA writes at PTX line"
    assert load.message.startswith(f"reads {its}")
    assert not run(body.format("bar.sync 0;"))


def test_what_another_lane_has_stored() -> None:
    assert hand("", LANE) == ["lane-race"]
    assert hand("bar.warp.sync -1;", LANE) == []
    assert hand("bar.sync 0;", LANE) == []
    assert hand("shfl.sync.bfly.b32 %t5, %t0, 1, 31, -1;", LANE) == []
    assert hand("", 0) == []  # its own


@pytest.mark.parametrize("first", ["ld.global.u32 %t5, [%q0];", ""])
def test_what_all_warps_load_and_one_stores(first: str) -> None:
    """As compilers do with a number that a whole CTA has in common."""
    body = """{} ld.global.u32 %t5, [%q0]; add.u32 %t6, %t5, 1; setp.eq.u32 %p1, %t0, {};
@%p1 st.global.u32 [%q0], %t6;"""
    for writer in (0, 40, 63):
        assert not run(body.format(first, writer), ("memory", "init", "race"))


def test_a_loop_whose_last_barrier_is_missing() -> None:
    """All warps load it, too, but after the barrier that lets the writer go on."""
    body = """mov.u32 %t2, 0; setp.eq.u32 %p1, %t0, 0;
AGAIN: ld.global.u32 %t5, [%q0]; bar.sync 0; add.u32 %t6, %t5, 1; @%p1 st.global.u32 [%q0], %t6;
{} add.u32 %t2, %t2, 1; setp.lt.u32 %p2, %t2, 3; @%p2 bra AGAIN;"""
    assert set(run(body.format(""), ("race",))) == {"warp-race"}
    assert not run(body.format("bar.sync 0;"))


# The second warp loads what the first has stored.
FLAG = """setp.ge.u32 %p1, %t0, 32; mul.wide.u32 %q8, %t0, 4; add.s64 %q8, %q8, %q0;
@%p1 bra SECOND; st.global.u32 [%q8], %t0; bar.warp.sync -1; setp.eq.u32 %p2, %t0, 0;
{give} bra END;
SECOND: {take} ld.global.u32 %t4, [%q8+-128];
END:"""
GIVE = "@%p2 st.{}.global.u32 [%q1], 1;"
TAKE = "WAIT: ld.{}.global.u32 %t5, [%q1]; setp.eq.u32 %p3, %t5, 0; @%p3 bra WAIT;"


@pytest.mark.parametrize("scope", ["cta", "gpu"])
def test_a_flag_says_that_it_is_there(scope: str) -> None:
    def found(give: str, take: str) -> list[str]:
        return run(FLAG.format(give=give, take=take), ("race",))

    release, acquire = GIVE.format(f"release.{scope}"), TAKE.format(f"acquire.{scope}")
    plain, polls = GIVE.format("relaxed.gpu"), TAKE.format("relaxed.gpu")
    fence = f"fence.acq_rel.{scope};"
    assert not found(release, acquire)
    assert not found(fence + plain, polls + fence)
    assert found(plain, polls) == ["warp-race"]
    assert found(fence + plain, polls) == ["warp-race"]
    assert found(plain, polls + fence) == ["warp-race"]
