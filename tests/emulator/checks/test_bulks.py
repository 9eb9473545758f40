"""Bulk copies from shared to global memory, and what is done before they have read it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.checks.harness import check, described, kinds

FILL = """mov.u32 %t1, tile; setp.eq.u32 %p1, %t0, 0; shl.b32 %t2, %t0, 2; add.u32 %t3, %t1, %t2;
st.shared.b32 [%t3], %t0; fence.proxy.async.shared::cta; bar.sync 0;"""
COPY = "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%q0{}], [%t1], 256;"
COMMIT = "@%p1 cp.async.bulk.commit_group;"
STORE = "bar.sync 0; st.shared.b32 [%t3], 7;"


def wait(keep: int, who: str = "@%p1") -> str:
    return f"{who} cp.async.bulk.wait_group.read {keep};"


def found(*parts: str) -> list[str]:
    out = np.zeros(128, np.uint32)
    return kinds(check(FILL + "".join(parts), described("out", out)))


ONE, OTHER = COPY.format("") + COMMIT, COPY.format("+256") + COMMIT


@pytest.mark.parametrize(
    "parts",
    [
        (ONE, wait(0), STORE),
        (ONE, wait(0, ""), STORE),
        (ONE, wait(0), STORE, "fence.proxy.async; bar.sync 0;", OTHER, wait(0)),
        (ONE, STORE.replace("%t3]", "%t3+256]"), wait(0)),  # of what no copy reads
    ],
)
def test_what_is_waited_for(parts: tuple[str, ...]) -> None:
    assert not found(*parts)


@pytest.mark.parametrize(
    "parts",
    [
        (ONE, STORE, wait(0)),
        (ONE, wait(1), STORE, wait(0)),  # leaves the group
        (ONE, OTHER, wait(1), STORE, wait(0)),  # both read it
        (COPY.format(""), wait(0), COMMIT, STORE, wait(0)),
        (ONE, wait(0, "@!%p1"), STORE, wait(0)),  # others wait, for their own
    ],
)
def test_stores_before_a_copy_has_read(parts: tuple[str, ...]) -> None:
    assert set(found(*parts)) == {"pending-bulk"}


def test_a_cta_that_ends_before_its_copies_have_read() -> None:
    out = np.zeros(128, np.uint32)
    (finding,) = check(FILL + ONE, described("out", out), checks=("race",))
    assert finding.kind == "pending-bulk"
    assert finding.instruction == "ret"
    assert "ends while a bulk copy" in finding.message


WHOLE = "@%p1 cp.async.bulk.wait_group {};"
BACK = "mad.wide.u32 %q8, %t0, 4, %q0; ld.global.u32 %t4, [%q8];"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((wait(0), "bar.sync 0;", BACK), {"unfinished-bulk"}),  # its reads alone are done
        ((WHOLE.format(0), "bar.sync 0;", BACK), set()),
        ((WHOLE.format(0), BACK), {"warp-race"}),  # the other warp does not know of it
        ((WHOLE.format(1), "bar.sync 0;", BACK, wait(0)), {"unfinished-bulk"}),
        ((wait(0), WHOLE.format(0), "bar.sync 0;", BACK), set()),
        ((wait(0), "fence.acq_rel.gpu; bar.sync 0;", BACK), {"unfinished-bulk"}),
    ],
)
def test_what_a_copy_writes_is_read_back(parts: tuple[str, ...], expected: set[str]) -> None:
    assert set(found(ONE, *parts)) == expected


def test_of_two_groups_the_first_is_done() -> None:
    """Each CTA's second copy is still under way."""
    other = BACK.replace("[%q8]", "[%q8+256]")
    done = WHOLE.format(1) + "bar.sync 0;"
    assert not found(ONE, OTHER, done, BACK, wait(0))
    assert set(found(ONE, OTHER, done, other, wait(0))) == {"unfinished-bulk"}
    assert not found(ONE, OTHER, done, WHOLE.format(0), "bar.sync 0;", BACK, other)


def test_a_copy_to_what_another_cta_reads() -> None:
    """Each CTA copies to its own 64 words, and reads those of the CTA before it."""
    place = "mov.u32 %t9, %ctaid.x; mul.wide.u32 %q5, %t9, 256; add.s64 %q0, %q0, %q5;"
    out = np.zeros(192, np.uint32)
    back = BACK.replace("[%q8]", "[%q8+-256]").replace("ld.", "@%p2 ld.")
    some = "setp.ne.u32 %p2, %t9, 0;"
    body = place + FILL + ONE + WHOLE.format(0) + some + back
    assert kinds(check(body, described("out", out), grid=3)) == ["cta-race"]
