"""Launches that may begin before the one ahead of them has ended, on a device with checks."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from tests.ptx import ptx

# out[i] = source[i] + weights[i]
ADD = ptx(
    [".param .u64 source", ".param .u64 weights", ".param .u64 out"],
    """
    // place 0
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd4, %r1, 4;
    ld.param.u64 %rd1, [source];
    add.u64 %rd1, %rd1, %rd4;
    ld.param.u64 %rd2, [weights];
    add.u64 %rd2, %rd2, %rd4;
    ld.param.u64 %rd3, [out];
    add.u64 %rd3, %rd3, %rd4;
    ld.global.u32 %r2, [%rd2];
    // place 1
    ld.global.u32 %r3, [%rd1];
    // place 2
    add.u32 %r3, %r3, %r2;
    st.global.u32 [%rd3], %r3;
    // place 3
    ret;
""",
    tail=".reqntid 64",
    target="sm_90",
    version="7.8",
)
WAIT = "griddepcontrol.wait;"
CONFIG = fe.LaunchConfig(1, 64)
EARLY = fe.LaunchConfig(1, 64, programmatic=True)


def found(where: int, first: fe.LaunchConfig = CONFIG, then: fe.LaunchConfig = EARLY) -> list[str]:
    """Kinds of findings of two launches. where: the place of the wait."""
    device = fe.open_device("cpu", checks=("race",))
    text = ADD.replace(f"// place {where}", WAIT)
    kernel = device.load_module(text).get_kernel()
    a, weights, b, c = (device.to_device(np.arange(64, dtype=np.uint32)) for _ in range(4))
    kernel.launch(first, source=a, weights=weights, out=b)
    with device.collect() as findings:
        kernel.launch(then, source=b, weights=weights, out=c)
        kernel.launch(then, source=c, weights=weights, out=b)  # which the one ahead reads
    return [finding.kind for finding in findings]


@pytest.mark.parametrize("where", [0, 1])
def test_what_waits_first(where: int) -> None:
    """Weights, which no launch writes, may be read before."""
    assert not found(where)


@pytest.mark.parametrize(("where", "count"), [(2, 2), (3, 3)])
def test_what_comes_before_the_wait(where: int, count: int) -> None:
    assert found(where) == ["early-access"] * count


def test_a_launch_that_waits_for_the_one_ahead_anyway() -> None:
    assert not found(3, then=CONFIG)
