"""CTAs that add up what each of them has computed: the last to arrive reads what others wrote."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator.checks import Finding, LaunchArray
from tests.emulator.checks.harness import check, described

# p0: (CTAs, 64) of partial sums; p1: how many CTAs have arrived; p2: 64 sums.  64 threads each.
SPLIT = """mov.u32 %t1, %ctaid.x; mov.u32 %t2, %nctaid.x; mad.lo.u32 %t3, %t1, 64, %t0;
mul.wide.u32 %q8, %t3, 4; add.s64 %q8, %q8, %q0; add.u32 %t4, %t3, 1;
st.global.u32 [%q8], %t4; setp.eq.u32 %p1, %t0, 0; {fence} {before}
@%p1 atom{order}.add.u32 %t5, [%q1], 1; @%p1 st.shared.u32 [tile], %t5; {after}
ld.shared.u32 %t6, [tile]; add.u32 %t6, %t6, 1; setp.ne.u32 %p2, %t6, %t2; {after_fence}
@%p2 bra END;
mov.u32 %t7, 0; mov.u32 %t9, 0; mul.wide.u32 %q9, %t0, 4; add.s64 %q10, %q9, %q0;
SUM: {load} %t8, [%q10]; add.u32 %t9, %t9, %t8; add.s64 %q10, %q10, 256; add.u32 %t7, %t7, 1;
setp.lt.u32 %p3, %t7, %t2; @%p3 bra SUM;
add.s64 %q9, %q9, %q2; st.global.u32 [%q9], %t9; @%p1 st.global.u32 [%q1], 0;
END:"""
RIGHT = {
    "fence": "",
    "before": "bar.sync 0;",
    "order": ".global.gpu.acq_rel",
    "after": "bar.sync 0;",
    "after_fence": "",
    "load": "ld.global.u32",
}
CTAS = 5


def run(threads: int = 1, **changes: str) -> list[Finding]:
    partial, counter = np.zeros((CTAS, 64), np.uint32), np.zeros(1, np.uint32)
    sums = np.zeros(64, np.uint32)
    arrays: list[LaunchArray] = [described("partial", partial), described("counter", counter)]
    arrays.append(described("sums", sums, "output"))
    body = SPLIT.format(**(RIGHT | changes))
    findings = check(body, *arrays, checks=("init", "race"), grid=CTAS, threads=threads)
    if not changes:
        assert sums.tolist() == [sum(64 * c + i + 1 for c in range(CTAS)) for i in range(64)]
        assert counter[0] == 0
    return findings


@pytest.mark.parametrize("threads", [1, 2])
def test_the_last_to_arrive(threads: int) -> None:
    for _ in range(20):
        assert not run(threads)


@pytest.mark.parametrize(
    "changes",
    [
        {"fence": "membar.gl;", "order": ".global", "after_fence": "membar.gl;"},
        {
            "fence": "fence.acq_rel.gpu;",
            "order": ".global.gpu.relaxed",
            "load": "ld.relaxed.gpu.u32",
        },
    ],
)
def test_fences_do_it_too(changes: dict[str, str]) -> None:
    assert not run(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"before": ""},  # other warps may not have stored yet
        {"order": ".global.gpu.relaxed"},
        {"order": ".global.gpu.acquire"},
        {"order": ".global.gpu.release"},
        {"order": ".global.cta.acq_rel"},
        {"order": ".global", "fence": "membar.gl;"},  # none on the other side
    ],
    ids=str,
)
def test_what_is_missing(changes: dict[str, str]) -> None:
    races = [f for f in run(**changes) if f.kind == "cta-race"]
    (finding,) = (f for f in races if f.array == "partial")
    assert finding.instruction is not None
    assert finding.instruction.startswith("ld.global")
    assert "CTA number" in finding.message


def test_ctas_that_use_one_place_after_one_another() -> None:
    """A store where another CTA has stored is fine after its arrival, and not without."""
    body = """setp.eq.u32 %p1, %t0, 0; mov.u32 %t1, %ctaid.x; {0}
    @%p1 st.global.u32 [%q0], %t1; {1}"""
    atom = "@%p1 atom.global.gpu.acq_rel.add.u32 %t3, [%q1], 1;"
    for first, last, count in ((atom, atom, 0), ("", atom, 1), (atom, "", 1)):
        out, counter = np.full(1, 9, np.uint32), np.zeros(1, np.uint32)
        arrays = (described("out", out), described("counter", counter))
        found = check(body.format(first, last), *arrays, checks=("race",), grid=3)
        assert len(found) == count


TOTAL = """mov.u32 %t1, %ctaid.x; setp.ne.u32 %p1, %t1, 0; setp.ne.u32 %p2, %t0, 0;
@%p2 bra END; {first} red.relaxed.gpu.global.add.u32 [%q0], 1; {last}
END:"""


@pytest.mark.parametrize(
    ("first", "last", "finds"),
    [
        ("", "", False),
        ("@!%p1 st.global.u32 [%q0], 0;", "", True),  # may come after the others' additions
        ("@!%p1 st.relaxed.gpu.global.u32 [%q0], 0;", "", False),  # no race, whatever it is for
        ("", "ld.global.u32 %t2, [%q0];", True),
        ("", "ld.relaxed.gpu.global.u32 %t2, [%q0];", False),
        ("ld.global.u32 %t2, [%q0];", "", True),
        ("red.relaxed.cta.global.add.u32 [%q0], 2;", "", True),  # atomic for its own CTA only
        ("", "ld.relaxed.cta.global.u32 %t2, [%q0];", True),
        # How atomic operations are made that no GPU has: any value will do to begin with.
        ("", "ld.global.u32 %t2, [%q0]; atom.global.cas.b32 %t3, [%q0], %t2, 7;", False),
    ],
)
def test_plain_accesses_beside_atomic_ones(first: str, last: str, finds: bool) -> None:
    for threads in (1, 2):
        total = np.zeros(1, np.uint32)
        body = TOTAL.format(first=first, last=last)
        found = check(body, described("total", total), checks=("race",), grid=4, threads=threads)
        assert {finding.kind for finding in found} == ({"cta-race"} if finds else set())
        assert all("nothing orders the two" in finding.message for finding in found)


@pytest.mark.parametrize(
    ("first", "between", "second", "kind"),
    [
        ("st.global.u32 [%q0], 1;", "bar.sync 0;", "st.global.u32 [%q0], 2;", None),
        ("st.global.u32 [%q0], 1;", "", "st.global.u32 [%q0], 2;", "warp-race"),
        ("st.global.u32 [%q0], 1;", "", "st.global.u32 [%q0], 1;", None),
        ("st.global.u16 [%q0], 1;", "", "st.global.u16 [%q0+2], 2;", None),
        ("st.global.u32 [%q0], 1;", "", "ld.global.u32 %t5, [%q0];", "warp-race"),
        ("ld.global.u32 %t4, [%q0];", "", "ld.global.u32 %t5, [%q0];", None),
    ],
)
def test_warps_of_one_cta(first: str, between: str, second: str, kind: str | None) -> None:
    """In kernels with atomic operations, of which the results are not compared in two orders."""
    body = f"""setp.eq.u32 %p1, %t0, 0; setp.eq.u32 %p2, %t0, 32;
    @%p1 atom.global.gpu.relaxed.add.u32 %t3, [%q1], 1; @%p1 {first} {between} @%p2 {second}"""
    out, counter = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    found = check(body, described("out", out), described("counter", counter), checks=("race",))
    assert [finding.kind for finding in found] == ([kind] if kind else [])
    assert all("which warp 0 of this CTA" in finding.message for finding in found)
