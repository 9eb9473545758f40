"""Long entries, which are cut into parts and compiled with less effort."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from ferrum_numba.abi.signature import Signature
from ferrum_numba.emulator.flow import analyse
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.translate import Module
from tests.emulator.harness import THIS, entry, run

# Rounds of a loop over a long body with a barrier in its middle; each warp adds to its own word,
# and reads that of the thread 32 further on.
_BODY = """
shl.b32 %t1, %t0, 2; mov.u32 %t2, tile; add.u32 %t1, %t1, %t2; xor.b32 %t2, %t1, 128;
mov.u32 %t3, %t0; mov.u32 %t4, 0;
{rounds}
LOOP:
{work}
st.shared.b32 [%t1], %t3; bar.sync 0; ld.shared.b32 %t6, [%t2]; bar.sync 0;
add.u32 %t3, %t3, %t6;
{work}
add.u32 %t4, %t4, 1; setp.lt.u32 %p1, %t4, {bound}; @%p1 bra LOOP;
mul.wide.u32 %q8, %t0, 4; add.s64 %q8, %q8, %q0; st.global.b32 [%q8], %t3;
"""
_STEP = "mul.lo.u32 %t3, %t3, 5; xor.b32 %t3, %t3, {};"


def _expected(steps: int, rounds: int) -> np.ndarray:
    words = np.arange(64, dtype=np.uint32)
    for _ in range(rounds):
        for half in range(2):
            for i in range(steps):
                words = words * np.uint32(5) ^ np.uint32(i)
            if half == 0:
                words = words + words[np.arange(64) ^ 32]
    return words


@pytest.mark.parametrize("steps", [100, 700, 1500])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_come_to_the_same_as_one_function(steps: int, masked: bool) -> None:
    work = "\n".join(_STEP.format(i) for i in range(steps))
    # A bound that differs between lanes as far as one can see makes the control flow divergent.
    rounds, bound = "and.b32 %t7, %t0, 0; add.u32 %t7, %t7, 3;", "%t7" if masked else "3"
    text = entry(1, _BODY.format(work=work, rounds=rounds, bound=bound))
    out = np.zeros(64, np.uint32)
    run(text, out, block=64, shared_bytes=256)
    np.testing.assert_array_equal(out, _expected(steps, 3))


def test_blocks_and_functions_have_bounds() -> None:
    work = "\n".join(_STEP.format(i) for i in range(3000))
    text = entry(1, _BODY.format(work=work, rounds="", bound="3"))
    body = parse_entry(text, "k")
    assert max(len(b.instructions) for b in analyse(body, None, masked=False).blocks) <= 640
    ir = Module(body, Signature.from_ptx(text, "k"), THIS, masked=False).text
    functions = re.split(r"^define ", ir, flags=re.MULTILINE)
    assert max(function.count(" = mul ") for function in functions) <= 1024


def test_a_notice_comes_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ferrum_numba.emulator import notice

    monkeypatch.setattr(notice, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FERRUM_CACHE_DIR", "")
    out = np.zeros(64, np.uint32)
    work = "\n".join(_STEP.format(i + 7) for i in range(400))
    run(entry(1, _BODY.format(work=work, rounds="", bound="2")), out, block=64, shared_bytes=256)
    assert re.search(r"making k ready for the CPU, \d+ lines of PTX", capfd.readouterr().err)
