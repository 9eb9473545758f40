"""Instructions above an entry's .target are refused, as a GPU's driver refuses them."""

from __future__ import annotations

import re

import pytest

from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.targets import refuse_above
from ferrum_numba.errors import PtxError
from tests.emulator.harness import entry

EARLY = [
    ("sm_75", "cp.async.wait_all;", "sm_80"),
    ("sm_80", "mbarrier.try_wait.parity.shared.b64 %p1, [tile], 0;", "sm_90"),
    ("sm_80", "mbarrier.arrive.expect_tx.shared.b64 _, [tile], 16;", "sm_90"),
    ("sm_80", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [tile], {%t1};", "sm_90"),
    ("sm_80", "barrier.cluster.arrive;", "sm_90"),
    ("sm_80", "mov.u32 %t1, %cluster_ctarank;", "sm_90"),
    ("sm_80", "add.bf16 %h1, %h1, %h2;", "sm_90"),
    ("sm_80", "cvt.rn.satfinite.e4m3x2.f32 %h1, %t1, %t2;", "sm_89"),
    ("sm_90", "max.f32 %t1, %t1, %t2, %t3;", "sm_100"),
    ("sm_90", "add.f32x2 %q1, %q1, %q2;", "sm_100"),
    ("sm_90", "setmaxnreg.inc.sync.aligned.u32 232;", "sm_90a"),
]


@pytest.mark.parametrize(("target", "instruction", "needed"), EARLY)
def test_what_comes_with_later_gpus(target: str, instruction: str, needed: str) -> None:
    body = parse_entry(entry(1, instruction), "k")
    refuse_above(body, needed)
    stem = re.escape(instruction.partition(" ")[0].rstrip(";"))
    with pytest.raises(PtxError, match=rf"{stem}: expected .target {needed}.*, found {target}"):
        refuse_above(body, target)
