"""Rows of global memory, which have one record, are looked at as their elements would be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ferrum_numba.emulator.checks import Finding, arrays
from ferrum_numba.emulator.checks.state import APART
from tests.emulator.checks.harness import check, described

# p0: 2 KiB, and 1 KiB for each CTA but one behind it; p1: a counter.  CTA %t1, of 64 threads.
WORDS, CTAS = 1024, 3
_START = "mov.u32 %t1, %ctaid.x; and.b32 %t2, %t0, 31; shr.u32 %t3, %t0, 5;\n"
# A lane's place among those of its access: neighbours, every fourth lane, some twice, or turned.
_ORDERS = {
    "next": "mov.u32 %t4, %t2;",
    "fourth": "shr.u32 %t4, %t2, 2; and.b32 %t5, %t2, 3; mad.lo.u32 %t4, %t5, 8, %t4;",
    "twice": "and.b32 %t4, %t2, 15;",
    "turned": "xor.b32 %t4, %t2, 5;",
}
_BETWEEN = [
    *("", "", "bar.sync 0;", "bar.warp.sync -1;", "fence.acq_rel.gpu;"),
    "atom.global.gpu.acq_rel.add.u32 %t9, [%q1], 1;",
]


class _Seen:
    """Areas of the launches, with rows or as if there were none."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows, self._each = True, list[np.ndarray]()
        make = arrays.Areas.__init__

        def remember(areas: arrays.Areas, *given: object, **named: object) -> None:
            make(areas, *given, **named)  # type: ignore[arg-type]
            for marks in areas._shadows.values():
                self._each.append(marks.states)
                if not self.rows:
                    marks.states.fill(APART)

        patch.setattr(arrays.Areas, "__init__", remember)

    def states(self) -> set[int]:
        return {int(state) for states in self._each for state in states}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> _Seen:
    return _Seen(monkeypatch)


def access(chance: random.Random) -> str:
    """A load or a store: some bytes a lane, in some order, of this CTA's part or beyond it."""
    log2 = chance.choice([1, 2, 2, 3, 4, 4, 4])
    kinds = {1: "b16 ", 2: "b32 ", 3: "v2.b32 ", 4: "v4.b32 "}
    values = {1: "%h1", 2: "%t10", 3: "{%t10, %t11}", 4: "{%t10, %t11, %t12, %t13}"}
    start = 64 * chance.randrange(8) + chance.choice([0, 0, 0, 0, 32, 16])
    part = chance.choice([1024, 1024, 1024, 512, 0])
    warp = chance.choice([512, 512, 0])
    place = (
        f"{_ORDERS[chance.choice(['next', 'next', 'fourth', 'fourth', 'twice', 'turned'])]}"
        f"shl.b32 %t4, %t4, {log2}; mad.lo.u32 %t4, %t1, {part}, %t4;"
        f"mad.lo.u32 %t4, %t3, {warp}, %t4; add.u32 %t4, %t4, {start};"
        "cvt.u64.u32 %q8, %t4; add.s64 %q8, %q8, %q0;\n"
    )
    guard = chance.choice(
        [
            *("", "", "setp.eq.u32 %p1, %t3, 1; @%p1 ", "setp.lt.u32 %p1, %t2, 24; @%p1 "),
            "setp.eq.u32 %p1, %t1, 0; @%p1 ",
        ]
    )
    if chance.random() < 0.5:
        return f"{place}{guard}st.global.{kinds[log2]}[%q8], {values[log2]};\n"
    return f"{place}{guard}ld.global.{kinds[log2]}{values[log2]}, [%q8];\n"


def found_by(body: str, threads: int, checks: Sequence[str]) -> list[Finding]:
    words, counter = np.zeros(WORDS, np.uint32), np.zeros(1, np.uint32)
    given = described("x", words), described("counter", counter)
    found = check(body, *given, checks=tuple(checks), grid=CTAS, threads=threads)
    return [replace(finding, address=0) for finding in found]


@pytest.mark.parametrize("seed", range(40))
def test_findings_are_those_of_elements(seen: _Seen, seed: int) -> None:
    chance = random.Random(seed)
    number = chance.randrange(3, 9)
    steps = [access(chance) + chance.choice(_BETWEEN) for _ in range(number)]
    body = _START + "mov.u32 %t10, %t0; cvt.u16.u32 %h1, %t0;\n" + "\n".join(steps)
    checks = chance.choice([("race",), ("memory", "init", "race")])
    found = found_by(body, 1, checks)
    seen.rows = False
    assert found == found_by(body, 1, checks)


_TILE = """mov.u32 %t10, %t0; shl.b32 %t4, %t0, 4; mad.lo.u32 %t4, %t1, 1024, %t4;
cvt.u64.u32 %q8, %t4; add.s64 %q8, %q8, %q0; st.global.v4.b32 [%q8], {%t10, %t10, %t10, %t10};
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_keep_one_record(seen: _Seen, threads: int) -> None:
    """Of sixteen bytes a lane, the next lane's behind, no row has records of its elements."""
    assert not found_by(
        _START + _TILE + "ld.global.v4.b32 {%t10, %t11, %t12, %t13}, [%q8];", threads, ["race"]
    )
    assert seen.states() == {0, 1 | 16 << 8}


def test_lanes_that_load_a_row_beside_who_stored_it(seen: _Seen) -> None:
    """Lanes 0 to 15 load what they stored, and 16 to 31 the same at once: compilers do that."""
    twice = _ORDERS["twice"] + "shl.b32 %t4, %t4, 4; mad.lo.u32 %t4, %t1, 1024, %t4;"
    twice += "mad.lo.u32 %t4, %t3, 512, %t4; cvt.u64.u32 %q9, %t4; add.s64 %q9, %q9, %q0;"
    loads = "ld.global.v4.b32 {%t10, %t11, %t12, %t13}, [%q9];"
    assert not found_by(f"{_START}{_TILE}{twice}{loads}", 1, ["race"])
    assert seen.states() == {0, APART, 1 | 16 << 8}
    some = f"setp.gt.u32 %p1, %t2, 15; @%p1 {loads}"
    (finding,) = found_by(f"{_START}{_TILE}{twice}{some}", 1, ["race"])
    assert finding.kind == "lane-race"


@pytest.mark.parametrize("threads", [1, 3])
def test_an_element_of_a_row_is_named(threads: int) -> None:
    """CTA 0 loads an element that the next one stores with the rest of its row."""
    body = _START + "setp.eq.u32 %p2, %t1, 0; @%p2 ld.global.b32 %t11, [%q0+1052];\n" + _TILE
    for _ in range(5):
        (finding,) = found_by(body, threads, ["race"])
        assert finding.kind == "cta-race"
        assert "x[263] (byte 1052 of 4096)" in finding.message
