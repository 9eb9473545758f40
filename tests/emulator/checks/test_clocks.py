"""Warps that wait for some of the others only: what orders their accesses, and what does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cpu.checked import CheckedCpuDevice
from ferrum_numba.emulator.checks import Finding
from tests.emulator import test_kernels as kernels
from tests.emulator.checks.harness import check, described, kinds

NAME = "specialised.sm_90a"
TEXT = (kernels.FOLDER / f"{NAME}.ptx").read_text()


@pytest.fixture(scope="module")
def checked() -> CheckedCpuDevice:
    device = fe.open_device("cpu", checks=("memory", "init", "race"), threads=1)
    assert isinstance(device, CheckedCpuDevice)
    return device


def findings(device: CheckedCpuDevice, text: str) -> list[Finding]:
    known = kernels.INDEX[NAME]
    M, N, K = 64, 32, 512
    a, b, c = np.ones((M, K), np.float16), np.ones((N, K), np.int8), np.zeros((M, N), np.float32)
    kernel = device.load_module(text).get_kernel(known["entry"])
    config = fe.LaunchConfig((1, 1), 32 * known["warps"], known["shared"])
    with device.collect() as found:
        kernel.launch(config, a, b, c, M, N, K, None, None)
    return found


def test_what_is_handed_over_through_mbarriers_is_clean() -> None:
    device = fe.open_device("cpu", checks=("memory", "init", "race", "order"), threads=1)
    kernels.test_specialised_warps(device)


def without(pattern: str, which: int = 0) -> str:
    """The kernel without the `which`-th statement that a pattern finds."""
    found = list(re.finditer(pattern, TEXT))[which]
    return TEXT[: found.start()] + TEXT[found.end() :]


@pytest.mark.parametrize(
    ("pattern", "which", "kind"),
    [
        (r"@!complete bra.uni waitLoop;", 0, "race"),  # multiplies before the tile is there
        (r"@!complete bra.uni waitLoop;", 1, "pending-product"),  # stores before it is free
        (r"bar.sync \t2, 128;(?=\s+@%p\d+ mbarrier.arrive)", 0, "race"),  # others store still
        (r"bar.sync \t0, 128;", -1, "pending-product"),  # others still wait for their product
        (r"fence.proxy.async.shared::cta;", 0, "missing-fence"),
        (r"wgmma.fence.sync.aligned;", 0, "missing-fence"),
        (r"wgmma.wait_group.sync.aligned 0;", 0, "pending-product"),
    ],
)
def test_what_is_missing_is_found(
    checked: CheckedCpuDevice, pattern: str, which: int, kind: str
) -> None:
    found = {finding.kind for finding in findings(checked, without(pattern, which))}
    assert kind in found


def test_a_wait_for_too_few_products(checked: CheckedCpuDevice) -> None:
    late = TEXT.replace("wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;")
    (*_, finding) = findings(checked, late)
    assert finding.kind == "pending-product"
    assert finding.instruction is not None
    assert finding.instruction.startswith(("cp.async", "st.shared"))
    assert "a wgmma" in finding.message


HANDED = """mov.u32 %t1, %warpid; shl.b32 %t2, %t0, 2; and.b32 %t3, %t2, 124; mov.u32 %t4, tile;
add.u32 %t3, %t3, %t4; setp.eq.u32 %p1, %t1, 0; setp.eq.u32 %p2, %t0, 0;
@%p2 mbarrier.init.shared.b64 [%t4+512], 32; bar.sync 0; @%p1 bra FIRST;
{wait}
ld.shared.b32 %t9, [%t3]; bra END;
FIRST: {before} mbarrier.arrive.shared.b64 _, [%t4+512]; {after}
END:"""
STORE = "st.shared.b32 [%t3], %t0;"
WAIT = """{ .reg .pred complete;
AGAIN: mbarrier.try_wait.parity.shared.b64 complete, [%t4+512], 0; @!complete bra AGAIN; }"""


def test_stores_after_the_arrival_are_not_covered_by_it() -> None:
    assert not check(HANDED.format(wait=WAIT, before=STORE, after=""), checks=("race",))
    found = check(HANDED.format(wait=WAIT, before="", after=STORE), checks=("race",))
    assert kinds(found) == ["race"]
    assert kinds(check(HANDED.format(wait="", before=STORE, after=""), checks=("race",)))


def test_warps_that_do_not_wait_stay_unordered() -> None:
    """Two warps hand a word over; a third, which has seen neither, stores there too."""
    body = """mov.u32 %t1, %warpid; setp.eq.u32 %p1, %t1, 2; mov.u32 %t2, tile;
    @%p1 bra THIRD; setp.eq.u32 %p2, %t1, 0; @%p2 st.shared.b32 [%t2], 5; bar.sync 1, 64;
    @!%p2 st.shared.b32 [%t2], 6; bra END;
THIRD: {}
END:"""
    assert not check(body.format(""), checks=("race",), block=96)
    (finding,) = check(body.format("st.shared.b32 [%t2], 7;"), checks=("race",), block=96)
    assert (finding.kind, finding.warp) in (("race", 2), ("race", 0))


def test_an_arrival_without_a_wait_orders_one_way_only() -> None:
    """bar.arrive lets the other warp go on; what this warp does later is not ordered."""
    body = """mov.u32 %t1, %warpid; setp.eq.u32 %p1, %t1, 0; mov.u32 %t2, tile; @%p1 bra FIRST;
    bar.sync 1, 64; ld.shared.b32 %t9, [%t2]; bra END;
FIRST: st.shared.b32 [%t2], 5; bar.arrive 1, 64; {}
END:"""
    assert not check(body.format(""), checks=("init", "race"))
    assert kinds(check(body.format("st.shared.b32 [%t2], 6;"), checks=("race",))) == ["race"]


def test_an_mbarrier_that_is_used_before_it_is_there() -> None:
    text = HANDED.format(wait=WAIT, before=STORE, after="").replace("bar.sync 0;", "")
    assert "race" in kinds(check(text, checks=("init", "race")))


# Copies for which an mbarrier waits; a bulk copy reads them, as wgmma would.
COPIED = """mov.u32 %t4, tile; setp.eq.u32 %p2, %t0, 0; mul.wide.u32 %q8, %t0, 16;
add.s64 %q8, %q8, %q0; shl.b32 %t3, %t0, 4; add.u32 %t3, %t3, %t4;
@%p2 mbarrier.init.shared.b64 [%t4+512], 32; bar.sync 0;
cp.async.cg.shared.global [%t3], [%q8], 16;
{wait} {fence}
@%p2 cp.async.bulk.global.shared::cta.bulk_group [%q1], [%t4], 512;
@%p2 cp.async.bulk.commit_group; @%p2 cp.async.bulk.wait_group 0;"""
AWAITED = "cp.async.mbarrier.arrive.noinc.shared.b64 [%t4+512]; " + WAIT
FENCE = "fence.proxy.async;"


@pytest.mark.parametrize(
    ("wait", "fence", "found"),
    [
        (AWAITED, FENCE, []),
        (AWAITED, "", ["missing-fence"]),
        (FENCE + AWAITED, "", ["missing-fence"]),  # too early
        ("cp.async.wait_all; bar.sync 0;", "", []),  # what compilers write
    ],
)
def test_a_fence_behind_copies_that_an_mbarrier_waits_for(
    wait: str, fence: str, found: list[str]
) -> None:
    data, out = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    arrays = described("data", data), described("out", out)
    text = COPIED.format(wait=wait, fence=fence)
    assert kinds(check(text, *arrays, checks=("init", "race"), block=32)) == found
    assert (data == out).all()
