"""Costs of accesses: sectors of global memory, passes over the banks of shared memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.emulator.trace import Access, alike, traffic
from tests.emulator.trace.harness import trace

# Passes on an H200, as scripts/measure_banks.py writes them.
MEASURED = Path(__file__).parent / "data" / "banks_h200.npz"
LANE = np.arange(32)


def in_global(opcode: str, stride: int, first: int = 0) -> Access:
    """Lane i accesses address first + stride * i of an array that begins anywhere."""
    many = "{%t1, %t2, %t3, %t4}" if "v4" in opcode else "{%t1, %t2}" if "v2" in opcode else "%t1"
    if opcode.endswith("16"):
        many = "%h1"
    operands = f"[%q9], {many}" if opcode.startswith("st") else f"{many}, [%q9]"
    body = f"mad.wide.u32 %q9, %t0, {stride}, %q0; add.u64 %q9, %q9, {first}; {opcode} {operands};"
    memory = np.zeros(8192, np.uint8)
    skew = -memory.ctypes.data % 256 + 48  # not where a GPU would put it
    launch = trace(body, memory[skew : skew + 32 * 128 + 64])
    (access,) = launch[-2].accesses
    return access


@pytest.mark.parametrize(
    ("opcode", "stride", "first", "sectors", "lines", "ideal"),
    [
        ("ld.global.b32", 4, 0, 4, 1, 4),
        ("st.global.b32", 4, 0, 4, 1, 4),
        ("ld.global.b32", 0, 0, 1, 1, 1),
        ("ld.global.b32", 8, 0, 8, 2, 4),
        ("ld.global.b32", 32, 0, 32, 8, 4),
        ("ld.global.b32", 128, 0, 32, 32, 4),
        ("ld.global.b32", 4, 4, 5, 2, 4),
        ("ld.global.b32", 4, 32, 4, 2, 4),
        ("ld.global.b16", 2, 0, 2, 1, 2),
        ("ld.global.b16", 2, 32, 2, 1, 2),
        ("ld.global.v2.b32", 8, 0, 8, 2, 8),
        ("ld.global.v4.b32", 16, 0, 16, 4, 16),
        ("st.global.v4.b32", 16, 16, 17, 5, 16),
        ("ld.global.v4.b32", 128, 0, 32, 32, 16),
        ("ld.global.v2.b32", 0, 0, 1, 1, 1),
    ],
)
def test_coalescing(
    opcode: str, stride: int, first: int, sectors: int, lines: int, ideal: int
) -> None:
    access = in_global(opcode, stride, first)
    assert (access.sectors, access.lines, access.ideal) == (sectors, lines, ideal)
    assert access.space == "global"


def test_lanes_without_a_part_cost_nothing() -> None:
    body = (
        "mad.wide.u32 %q9, %t0, 32, %q0; setp.lt.u32 %p1, %t0, 3; @%p1 ld.global.b32 %t1, [%q9];"
        "setp.gt.u32 %p2, %t0, 99; @%p2 ld.global.b32 %t1, [%q9];"
    )
    launch = trace(body, np.zeros(256, np.uint32))
    (access,) = [access for event in launch for access in event.accesses]
    assert (access.lanes, access.sectors, access.ideal) == ((0, 1, 2), 3, 1)


def in_shared(opcode: str, stride: int, lanes: str = "%t0") -> Access:
    many = "{%t1, %t2, %t3, %t4}" if "v4" in opcode else "{%t1, %t2}" if "v2" in opcode else "%t1"
    operands = f"[%t9], {many}" if opcode.startswith("st") else f"{many}, [%t9]"
    body = (
        f"shr.u32 %t5, %t0, 1; mov.u32 %t8, tile; mad.lo.u32 %t9, {lanes}, {stride}, %t8;"
        f"{opcode} {operands};"
    )
    (access,) = trace(body, shared_bytes=8192)[-2].accesses
    return access


@pytest.mark.parametrize(
    ("opcode", "stride", "conflict", "passes", "ideal"),
    [
        ("ld.shared.b32", 4, 1, 1, 1),
        ("ld.shared.b32", 0, 1, 1, 1),  # one word for all
        ("ld.shared.b32", 8, 2, 2, 1),
        ("st.shared.b32", 16, 4, 4, 1),
        ("ld.shared.b32", 128, 32, 32, 1),
        ("ld.shared.b32", 132, 1, 1, 1),  # a row of 32 words and one of padding
        ("ld.shared.v2.b32", 8, 1, 2, 2),
        ("ld.shared.v2.b32", 16, 2, 4, 2),
        ("st.shared.v4.b32", 16, 1, 4, 4),
        ("ld.shared.v4.b32", 32, 2, 8, 4),
        ("ld.shared.v4.b32", 128, 8, 32, 4),
        ("st.shared.v2.b32", 0, 1, 2, 2),
        ("ld.shared.v2.b32", 0, 1, 1, 1),  # neighbours that want the same share a phase
    ],
)
def test_bank_conflicts(opcode: str, stride: int, conflict: int, passes: int, ideal: int) -> None:
    access = in_shared(opcode, stride)
    assert (access.conflict, access.cost, access.ideal) == (conflict, passes, ideal)


def test_pairs_of_lanes_that_want_the_same() -> None:
    access = in_shared("ld.shared.v4.b32", 16, "%t5")
    assert (access.cost, access.ideal, access.conflict) == (2, 2, 1)


def test_as_an_h200_has_it() -> None:
    """Loads and stores of 2 to 16 bytes: rows, strides, broadcasts, permutations, random places."""
    measured = np.load(MEASURED)
    columns = ("kind", "nbytes", "pattern", "mask", "passes")
    rows = list(zip(*(measured[name].tolist() for name in columns), strict=True))
    offsets = measured["offsets"].astype(np.uint64)
    for kind, nbytes, pattern, mask, passes in rows:
        places = offsets[pattern]
        access = Access("shared", kind, nbytes, mask, places, places)
        assert access.cost == passes, (kind, nbytes, places, hex(mask))
    assert len(rows) == 6478


def test_matrix_loads_take_a_phase_for_each_matrix() -> None:
    rows = "mov.u32 %t8, tile; mad.lo.u32 %t9, %t0, {}, %t8;"
    load = "ldmatrix.sync.aligned.m8n8.x{}.shared.b16 {{{}}}, [%t9];"
    for count, registers in ((1, "%t1"), (2, "%t1, %t2"), (4, "%t1, %t2, %t3, %t4")):
        for stride, conflict in ((16, 1), (32, 2), (128, 8), (144, 1)):
            body = rows.format(stride) + load.format(count, registers)
            (access,) = trace(body, shared_bytes=8192)[-2].accesses
            assert access.kind == "ldmatrix"
            assert (access.conflict, access.cost, access.ideal) == (
                conflict,
                conflict * count,
                count,
            )


def test_an_asynchronous_copy_reads_and_writes() -> None:
    body = (
        "mad.wide.u32 %q9, %t0, 16, %q0; mov.u32 %t8, tile; mad.lo.u32 %t9, %t0, 128, %t8;"
        "setp.lt.u32 %p1, %t0, 8; selp.b32 %t7, 16, 0, %p1;"
        "cp.async.cg.shared.global [%t9], [%q9], 16, %t7;"
        "cp.async.wait_all;"
    )
    launch = trace(body, np.zeros(512, np.uint8), shared_bytes=8192)
    (source, target) = next(event for event in launch if len(event.accesses) == 2).accesses
    assert (source.space, source.kind, source.sectors, source.lanes) == (
        "global",
        "load",
        4,
        tuple(range(8)),
    )
    assert (target.space, target.kind, target.conflict, target.cost) == ("shared", "store", 8, 32)


def test_the_traffic_of_a_loop() -> None:
    body = (
        "mov.u32 %t1, 0; mov.u32 %t8, tile; mad.lo.u32 %t9, %t0, 8, %t8;\n"
        "LOOP: st.shared.b32 [%t9], %t1;\nst.shared.b32 [%t9], %t0;\n"
        "add.u32 %t1, %t1, 1; setp.lt.u32 %p1, %t1, 5; @%p1 bra LOOP;"
    )
    found = traffic(trace(body, shared_bytes=256), "shared")
    assert [(t.executions, t.cost, t.ideal, t.wasted, t.conflict) for t in found] == [
        (5, 10, 5, 5, 2)
    ] * 2
    assert len(alike(found)) == 2  # no source line says that they belong together
    assert traffic(trace(body, shared_bytes=256), "global") == []
