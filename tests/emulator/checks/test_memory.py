"""Accesses outside the arrays, misaligned ones, writes to what may only be read."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator import Job
from ferrum_numba.emulator.checks import CheckedProgram
from tests.emulator.checks.harness import check, described, kinds
from tests.emulator.harness import entry

LANE = "mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q8, %q8, %q0;\n"


def test_a_store_behind_the_end() -> None:
    out = np.zeros(60, np.uint32)
    (finding,) = check(
        LANE + "st.global.b32 [%q8], %t0;", described("out", out), checks=("memory",)
    )
    assert (finding.kind, finding.check, finding.space) == ("out-of-bounds", "memory", "global")
    assert (finding.array, finding.offset) == ("out", 240)
    assert finding.address == out.ctypes.data + 240
    assert (finding.cta, finding.warp, finding.lanes) == ((0, 0, 0), 1, (28, 29, 30, 31))
    assert finding.count == 4
    assert finding.instruction == "st.global.b32 [%q8], %t0"
    assert "0 bytes behind the end of out" in finding.message
    assert out.tolist() == list(range(60))


def test_a_load_before_the_start_under_a_mask() -> None:
    data = np.arange(80, dtype=np.uint32)
    body = LANE + "setp.lt.u32 %p1, %t0, 3;\n@%p1 ld.global.b32 %t1, [%q8+-4];"
    (finding,) = check(body, described("data", data[8:72]), checks=("memory",))
    assert (finding.array, finding.offset, finding.lanes) == ("data", -4, (0,))
    assert "4 bytes before data" in finding.message
    assert "mask" in finding.message


def test_a_vector_that_ends_behind_the_array() -> None:
    data = np.zeros(64 * 4 - 1, np.uint32)
    body = (
        "mul.wide.u32 %q8, %t0, 16;\nadd.s64 %q8, %q8, %q0;\n"
        "ld.global.v4.b32 {%t1, %t2, %t3, %t4}, [%q8];"
    )
    (finding,) = check(body, described("data", data), checks=("memory",))
    assert (finding.lanes, finding.offset) == ((31,), 63 * 16)
    assert "the end of data" in finding.message


@pytest.mark.parametrize("address", [0, 8, 1 << 47, (1 << 64) - 16])
def test_wild_pointers_do_not_kill(address: int) -> None:
    body = (
        f"mov.b64 %q8, {address};\nld.global.b32 %t1, [%q8];\nst.global.b32 [%q8], %t0;\n"
        "ld.global.v4.b32 {%t1, %t2, %t3, %t4}, [%q8];\nst.global.b16 [%q8+2], %h0;\n"
        "cp.async.ca.shared.global [tile], [%q8], 16;\ncp.async.wait_all;\n"
        "mul.wide.u32 %q9, %t0, 4096;\nadd.s64 %q9, %q9, %q8;\nst.global.b64 [%q9], %q8;"
    )
    out = np.zeros(4, np.uint32)
    for checks in (("memory",), ("memory", "init", "race")):
        findings = check(body, described("out", out), checks=checks)
        assert kinds(findings).count("out-of-bounds") == 6


def test_the_same_address_for_all_lanes() -> None:
    data = np.zeros(4, np.uint32)
    body = "ld.global.b32 %t1, [%q0+16];"
    (finding,) = check(body, described("data", data), checks=("memory",), block=32)
    assert (finding.array, finding.offset) == ("data", 16)


def test_misaligned() -> None:
    data = np.zeros(80, np.uint32)
    body = LANE + "ld.global.b32 %t1, [%q8+2];\nst.shared.b32 [tile+2], %t0;"
    first, second = check(body, described("data", data), checks=("memory",))
    assert (first.kind, first.array, first.count) == ("misaligned", "data", 64)
    assert (second.kind, second.space, second.address) == ("misaligned", "shared", 2)


def test_shared_memory_ends_where_the_launch_says() -> None:
    body = "shl.b32 %t1, %t0, 4;\nst.shared.b32 [%t1], %t0;\nld.shared.b32 %t2, [%t1+-4];"
    store, load = check(body, checks=("memory",), shared_bytes=1000)
    assert (store.kind, store.space, store.lanes, store.warp) == (
        "out-of-bounds",
        "shared",
        (31,),
        1,
    )
    assert store.address == 63 * 16
    assert "1000 bytes" in store.message
    assert (load.lanes, load.warp) == ((0,), 0)


def test_matrices_behind_the_end_of_shared_memory() -> None:
    body = (
        "mul.lo.u32 %t1, %t0, 16;\nadd.u32 %t1, %t1, tile;\n"
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%t4, %t5, %t6, %t7}, [%t1];"
    )
    (finding,) = check(body, checks=("memory",), shared_bytes=496, block=32)
    assert (finding.kind, finding.lanes) == ("out-of-bounds", (31,))


def test_inputs_may_not_be_written() -> None:
    data = np.zeros(64, np.uint32)
    body = LANE + "st.global.b32 [%q8], %t0;"
    (finding,) = check(body, described("data", data, "input"), checks=("memory",))
    assert (finding.kind, finding.count) == ("read-only", 64)
    assert not data.any()


@pytest.mark.parametrize(
    "access", ["st.global.b32 [%q9+256], %t0;", "ld.global.b32 %t1, [%q9+256];"]
)
def test_an_access_that_lands_in_another_array(access: str) -> None:
    """Arrays may lie one behind the other; which of them is meant shows in the address."""
    both = np.zeros(128, np.uint32)
    a, b = described("a", both[:64]), described("b", both[64:])
    body = f"mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q9, {{}}, %q8;\n{access}"
    (finding,) = check(body.format("%q0"), a, b, checks=("memory",))
    assert finding.kind == "out-of-bounds"
    assert (finding.array, finding.offset, finding.count) == ("a", 256, 64)
    assert "behind the end of a, where b[0]" in finding.message
    assert not check(body.format("%q0"), described("a", both), b, checks=("memory",))
    assert not check(body.replace("+256", "").format("%q1"), a, b, checks=("memory",))


def test_accesses_on_one_line() -> None:
    """A line tells an access's pointer only where it is the one access of the line."""
    a, b = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    copy = """mov.u32 %t1, tile; setp.eq.u32 %p1, %t0, 0; mul.wide.u32 %q8, %t0, 4;
    @%p1 mbarrier.init.shared.b64 [%t1], 1; add.s64 %q9, %q1, %q8; bar.sync 0;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%t1], 256;
    @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%t1+128], [%q0], 256,
    [%t1]; st.global.b32 [%q9], %t0;"""
    both = "mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; add.s64 %q10, %q1, %q8;"
    both += "ld.global.b32 %t1, [%q9]; st.global.b32 [%q10], %t1;"
    for body in (copy.replace("256,\n    [", "256, ["), both):
        assert not check(body, described("a", a), described("b", b), checks=("memory",))


def test_an_address_that_may_be_of_two_arrays() -> None:
    both = np.zeros(128, np.uint32)
    a, b = described("a", both[:64]), described("b", both[64:])
    body = """mul.wide.u32 %q8, %t0, 4; setp.lt.u32 %p1, %t0, 32;
    selp.b64 %q9, %q0, %q1, %p1; add.s64 %q9, %q9, %q8; st.global.b32 [%q9], %t0;"""
    assert not check(body, a, b, checks=("memory",))


def test_a_pointer_of_no_array() -> None:
    data, other = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    body = LANE + f"mov.b64 %q9, {other.ctypes.data};\nld.global.b32 %t1, [%q9];"
    (finding,) = check(body, described("data", data), checks=("memory",))
    assert (finding.kind, finding.array) == ("out-of-bounds", "data")


def test_a_cp_async_source_is_read_only_as_far_as_its_size_says() -> None:
    data = np.zeros(64, np.uint32)
    copy = "cp.async.cg.shared.global [%t1], [%q8], 16, {};\n"
    body = (
        "mul.wide.u32 %q8, %t0, 16;\nadd.s64 %q8, %q8, %q0;\nmul.lo.u32 %t1, %t0, 16;\n"
        "setp.lt.u32 %p1, %t0, 16;\nselp.b32 %t2, 16, 0, %p1;\n"
    )
    for checks in (("memory",), ("memory", "init", "race")):
        assert not check(body + copy.format("%t2"), described("data", data), checks=checks)
        (finding,) = check(body + copy.format("16"), described("data", data), checks=checks)
        assert (finding.warp, finding.lanes) == (0, tuple(range(16, 32)))
        (finding,) = check(body + copy.format("5"), described("data", data), checks=checks)
        assert finding.lanes == tuple(range(16, 32))


def test_lines_of_the_source() -> None:
    data = np.zeros(4, np.uint32)
    body = ".loc 1 7 0\nld.global.b32 %t1, [%q0+16];"
    (finding,) = check(body, described("data", data), checks=("memory",), block=32)
    assert (finding.source, finding.source_line) == (None, 7)
    assert finding.line is not None
    assert "PTX line" in str(finding)
    assert finding.to_json()["lanes"] == list(finding.lanes)


def test_an_index_beyond_a_local_array() -> None:
    """Each lane has its own; nothing outside is read or written."""
    body = """.local .align 8 .b8 depot[24]; .reg .b64 %sp; mov.b64 %sp, depot;
    and.b32 %t1, %t0, 7; mul.wide.u32 %q8, %t1, 4; add.s64 %q8, %q8, %sp;
    st.local.b32 [%q8], %t0;\nld.local.b32 %t2, [%q8];\nst.local.b32 [%sp+-4096], %t2;"""
    store, load, far = check(body, checks=("memory",), block=32)
    lanes = tuple(lane for lane in range(32) if lane % 8 > 5)
    assert (store.kind, store.space, store.lanes) == ("out-of-bounds", "local", lanes)
    assert store.address == 24
    assert (load.lanes, far.lanes) == (lanes, tuple(range(32)))
    assert "24 bytes" in store.message
    (odd,) = check(body.replace("%t1, 4", "%t1, 2"), checks=("memory",), block=32)[:1]
    assert odd.kind == "misaligned"


def test_generic_addresses_of_shared_and_local_memory() -> None:
    data = np.zeros(64, np.uint32)
    body = """.local .align 4 .b8 depot[8]; .shared .align 4 .b8 own[256]; .reg .b64 %sp, %so;
    mov.b64 %sp, depot; cvta.local.u64 %sp, %sp; mov.b64 %so, own; cvta.shared.u64 %so, %so;
    mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %so, %q8; add.s64 %q10, %q0, %q8;
    st.b32 [%q9], %t0;\nst.b32 [%sp+4], %t0;\nld.b32 %t1, [%q9]; ld.b32 %t2, [%sp+4];
    add.u32 %t1, %t1, %t2; st.b32 [%q10], %t1;"""
    assert not check(body, described("data", data))
    assert data.tolist() == [2 * lane for lane in range(64)]
    found = check(body.replace("%sp+4], %t0", "%sp+8], %t0"), described("data", data))
    finding = found[0]
    assert kinds(found) == ["out-of-bounds", "uninitialised-local"]
    assert (finding.kind, finding.count) == ("out-of-bounds", 64)


def test_an_index_beyond_a_constant_array() -> None:
    body = """mul.wide.u32 %q8, %t0, 4; mov.u64 %q9, table; add.s64 %q9, %q9, %q8;
    ld.const.b32 %t1, [%q9];"""
    text = entry(0, body, ".const .align 4 .b32 table[4] = {1, 2, 3, 4};")
    program = CheckedProgram(text, "k", ("memory",))
    job = Job(grid=(1, 1, 1), block=(32, 1, 1), shared_bytes=0, parameter_block=b"")
    (finding,) = program.run(job, [])
    assert (finding.kind, finding.lanes) == ("out-of-bounds", tuple(range(4, 32)))


def test_parameters_by_their_address() -> None:
    """As compilers read structures, by the address of a parameter in a register."""
    out, data = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    arrays = described("out", out), described("data", data)
    body = (
        "mov.b64 %q8, p0; add.s64 %q8, %q8, 16; ld.param.u64 %q9, [%q8+-8]; ld.u64 %q10, [%q8+-8];"
        "setp.ne.u64 %p1, %q9, %q10; @!%p1 st.global.u64 [%q0], %q9;"
    )
    assert not check(body, *arrays, checks=("memory",))
    assert out[0] == data.ctypes.data
    (finding,) = check(body + "ld.param.u64 %q9, [%q8];", *arrays, checks=("memory",))
    assert finding.kind == "out-of-bounds"
