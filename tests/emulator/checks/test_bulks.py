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
