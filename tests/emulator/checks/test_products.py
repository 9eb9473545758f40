"""Registers of products that are under way: the left operand's, which a later chunk writes anew."""

from __future__ import annotations

import pytest

from tests.emulator.checks.harness import check, kinds

BODY = """mov.u32 %t2, tile; mad.lo.u32 %t3, %t0, 4, %t2; st.shared.b32 [%t3], 0;
fence.proxy.async; bar.sync 0; shr.u32 %t6, %t2, 4; and.b32 %t6, %t6, 16383; cvt.u64.u32 %q2, %t6;
add.s64 %q2, %q2, 34359803904;
mov.b32 %t10, 0; mov.b32 %t11, 0; mov.b32 %t12, 0; mov.b32 %t13, 0; mov.b32 %t14, 0;
mov.b32 %t40, 0; mov.b32 %t41, 0; mov.b32 %t42, 0; mov.b32 %t43, 0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16
    {{%t40, %t41, %t42, %t43}}, {{%t10, %t11, %t12, %t13}}, %q2, 1, 1, 1, 0;
wgmma.commit_group.sync.aligned;
{}"""
DONE = "wgmma.wait_group.sync.aligned 0;"


@pytest.mark.parametrize("write", ["mov.b32 %t11, 5;", "add.u32 %t13, %t0, 1;"])
def test_the_left_operand_is_written_while_it_is_read(write: str) -> None:
    race = {"checks": ("race",), "block": 128}
    assert not check(BODY.format(DONE + write), **race)
    (finding,) = check(BODY.format(write + DONE), **race)
    assert finding.kind == "pending-product"
    assert finding.instruction is not None
    assert finding.instruction.startswith(write.partition(" ")[0])


def test_the_left_operand_may_be_read() -> None:
    assert not check(BODY.format("mov.b32 %t14, %t11;" + DONE), checks=("race",), block=128)


def test_two_sets_of_registers_take_turns() -> None:
    """The set of the product before the last is free when all but one group are done."""
    again = """wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16
    {%t40, %t41, %t42, %t43}, {%t20, %t21, %t22, %t23}, %q2, 1, 1, 1, 0;
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;
"""
    other = "mov.b32 %t20, 0; mov.b32 %t21, 0; mov.b32 %t22, 0; mov.b32 %t23, 0;"
    race = {"checks": ("race",), "block": 128}
    assert not check(BODY.format(other + again + "mov.b32 %t10, 7;" + DONE), **race)
    found = check(BODY.format(other + again + "mov.b32 %t20, 7;" + DONE), **race)
    assert kinds(found) == ["pending-product"]
