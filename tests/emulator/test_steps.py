"""Kernels that never end are stopped, and nothing else is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from ferrum_numba.errors import DeviceError, LaunchError

from .harness import entry, run

# Warps and lanes that all loop; lanes that loop while others wait; a loop around a barrier; a warp
# that loops while the others wait for it.
ENDLESS = {
    "warps": "HERE: bra HERE;",
    "lanes": "setp.lt.u32 %p1, %t0, 7;\nHERE: @%p1 bra HERE;",
    "barrier": "mov.u32 %t1, 0;\nHERE: bar.sync 0; bra HERE;",
    "one warp": """mov.u32 %t1, %warpid; setp.eq.u32 %p1, %t1, 1;
@%p1 bra HERE; bar.sync 0; ret;
HERE: add.u32 %t2, %t2, 1; bra HERE;""",
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_loops_are_stopped(
    kind: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRUM_CPU_STEPS", "1e5")
    text = entry(1, ENDLESS[kind])
    line = next(i for i, t in enumerate(text.splitlines(), 1) if t.startswith("HERE:"))
    with pytest.raises(LaunchError, match=rf"k: CTA .*PTX line {line}:.*\n.*\n.*FERRUM_CPU_STEPS"):
        run(text, np.zeros(1), block=64, grid=5, threads=threads)


def test_steps_of_other_ctas_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    body = """mov.u32 %t1, 0;
LOOP: add.u32 %t1, %t1, 1; bar.sync 0; setp.lt.u32 %p1, %t1, 200; @%p1 bra LOOP;
    red.global.add.u32 [%q0], %t1;"""
    out = np.zeros(1, np.uint32)
    monkeypatch.setenv("FERRUM_CPU_STEPS", "10000")
    run(entry(1, body.replace("red.global.add.u32", "st.global.u32")), out, grid=1000, block=64)
    assert out[0] == 200
    with pytest.raises(LaunchError, match="warp"):
        run(entry(1, body.replace("200", "4000").replace("red.global.add", "st.global")), out)


@pytest.mark.parametrize("block", [128, 100])
def test_a_kernel_that_is_interrupted_often_gives_the_same(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices that end in the middle of everything: warps and barriers must not notice."""
    body = """shl.b32 %t2, %t0, 2; mov.u32 %t5, tile; add.u32 %t3, %t5, %t2; mov.u32 %t9, %t0;
    mov.u32 %t1, 0; and.b32 %t8, %t0, 3;
LOOP:
    st.shared.b32 [%t3], %t9; bar.sync 0; xor.b32 %t4, %t2, 4; add.u32 %t4, %t4, %t5;
    ld.shared.b32 %t6, [%t4]; mad.lo.u32 %t9, %t9, 3, %t6; mov.u32 %t7, 0; bar.sync 0;
INNER:
    add.u32 %t9, %t9, %t7; add.u32 %t7, %t7, 1; setp.lt.u32 %p2, %t7, 3; @%p2 bra INNER;
    add.u32 %t1, %t1, 1; setp.lt.u32 %p1, %t1, 40; @%p1 bra LOOP;
    mov.u32 %t11, %ctaid.x; mov.u32 %t12, %ntid.x; mad.lo.u32 %t11, %t11, %t12, %t0;
    mul.wide.u32 %q20, %t11, 4; add.s64 %q20, %q20, %q0; st.global.b32 [%q20], %t9;"""
    x = np.arange(block, dtype=np.uint32)
    for _ in range(40):
        x = 3 * x + x.reshape(-1, 2)[:, ::-1].ravel() + np.uint32(3)
    for slice_steps in (1, 7, 1000, 1 << 22):
        monkeypatch.setattr("ferrum_numba.emulator.seat._SLICE", slice_steps)
        out = np.zeros((3, block), np.uint32)
        run(entry(1, body), out, grid=3, block=block, shared_bytes=4 * block)
        assert (out == x).all(), slice_steps


@pytest.mark.parametrize("value", ["many", "0", "-3", "nan", "inf"])
def test_what_the_limit_may_not_be(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRUM_CPU_STEPS", value)
    with pytest.raises(DeviceError, match=f"FERRUM_CPU_STEPS: expected .*{value}"):
        run(entry(1, "st.global.u32 [%q0], %t0;"), np.zeros(1, np.uint32))


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to one's own process")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c(threads: int) -> None:
    running = np.zeros(1, np.uint32)
    text = entry(1, f"st.global.u32 [%q0], 1; {ENDLESS['lanes']}")

    def interrupt() -> None:
        while not running[0]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts its background jobs with the signal ignored, and Python leaves that so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(text, running, grid=4, threads=threads)
    finally:
        signal.signal(signal.SIGINT, before)


def test_shared_memory_beyond_any_gpu() -> None:
    from ferrum_numba.errors import PtxError

    for size in (1 << 20, 1 << 50, 1 << 70):
        with pytest.raises(PtxError, match="shared"):
            run(entry(1, f".shared .align 16 .b8 big[{size}]; mov.u32 %t1, big;"), np.zeros(1))
