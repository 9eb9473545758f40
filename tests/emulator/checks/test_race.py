"""Missing barriers and waits, lanes and CTAs that disagree."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.checks.harness import check, described, kinds

# Each thread's own word, and that of the thread 32 further on.
WORD = "shl.b32 %t1, %t0, 2;\nadd.u32 %t1, %t1, tile;\nxor.b32 %t2, %t1, 128;\n"
OUT = "mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q8, %q8, %q0;\nst.global.b32 [%q8], %t3;\n"


def test_a_missing_barrier_between_write_and_read() -> None:
    out = np.zeros(64, np.uint32)
    body = WORD + "st.shared.b32 [%t1], %t0;\n{}ld.shared.b32 %t3, [%t2];\n" + OUT
    # Warp 0 reads what warp 1 writes later, and warp 1 what warp 0 wrote.
    store, finding = check(body.format(""), described("out", out), checks=("race",))
    assert (store.kind, store.warp, store.address) == ("race", 1, 128)
    assert (finding.kind, finding.warp, finding.address) == ("race", 1, 0)
    assert "warp 0" in finding.message
    assert len(finding.lanes) == 32
    assert not check(body.format("bar.sync 0;\n"), described("out", out), checks=("race",))
    assert kinds(check(body.format(""), described("out", out), checks=("order",))) == ["order"]
    assert not check(body.format("bar.sync 0;\n"), described("out", out), checks=("order",))


def test_a_missing_barrier_between_read_and_write() -> None:
    body = WORD + (
        "st.shared.b32 [%t1], %t0;\nbar.sync 0;\nld.shared.b32 %t3, [%t2];\n"
        "{}setp.lt.u32 %p1, %t0, 40;\n@%p1 st.shared.b32 [%t1], %t3;"
    )
    # Warp 1 writes what warp 0 has read, and reads what warp 0 wrote too early.
    load, store = check(body.format(""), checks=("race",))
    assert (load.kind, load.warp, store.kind, store.warp) == ("race", 1, "race", 1)
    assert store.instruction == "@%p1 st.shared.b32 [%t1], %t3"
    assert not check(body.format("bar.sync 0;\n"), checks=("race",))


def test_two_warps_that_write_one_place() -> None:
    body = "and.b32 %t1, %t0, 31;\nshl.b32 %t2, %t1, 2;\nst.shared.b32 [%t2], {};"
    assert kinds(check(body.format("%t0"), checks=("race",))) == ["race"]
    assert not check(body.format("%t1"), checks=("race",))  # the same values


def test_several_readers_and_a_writer() -> None:
    body = (
        "setp.eq.u32 %p1, %t0, 0;\n@%p1 st.shared.b32 [tile], 5;\nbar.sync 0;\n"
        "ld.shared.b32 %t1, [tile];\n{}setp.eq.u32 %p2, %t0, 95;\n@%p2 st.shared.b32 [tile], 6;"
    )
    (finding,) = check(body.format(""), checks=("race",), block=96)
    assert "several warps" in finding.message
    assert finding.lanes == (31,)
    assert not check(body.format("bar.sync 0;\n"), checks=("race",), block=96)


def test_narrow_neighbours_are_no_race() -> None:
    body = "add.u32 %t1, %t0, tile;\nst.shared.b8 [%t1], %h0;\nld.shared.b8 %h1, [%t1];"
    assert not check(body, checks=("memory", "race"), block=48)


def test_lanes_that_store_different_values_to_one_place() -> None:
    body = "and.b32 %t1, %t0, 28;\nst.shared.b32 [%t1], {};"
    (finding,) = check(body.format("%t0"), checks=("race",), block=32)
    assert (finding.kind, finding.count) == ("lane-conflict", 24)
    assert not check(body.format("5"), checks=("race",), block=32)
    out = np.zeros(64, np.uint32)
    body = (
        "and.b32 %t1, %t0, 28;\ncvt.u64.u32 %q8, %t1;\nadd.s64 %q8, %q8, %q0;\n"
        "st.global.b32 [%q8], %t0;"
    )
    (finding,) = check(body, described("out", out), checks=("race",), block=32)
    assert (finding.kind, finding.array, finding.offset) == ("lane-conflict", "out", 0)


COPY = (
    "shl.b32 %t1, %t0, 2;\nadd.u32 %t1, %t1, tile;\nmul.wide.u32 %q8, %t0, 4;\n"
    "add.s64 %q8, %q8, %q0;\ncp.async.ca.shared.global [%t1], [%q8], 4;\n"
    "cp.async.commit_group;\ncp.async.ca.shared.global [%t1+256], [%q8], 4;\n"
    "cp.async.commit_group;\n{}ld.shared.b32 %t3, [%t1];\nld.shared.b32 %t4, [%t1+256];\n"
)


@pytest.mark.parametrize(
    ("wait", "lines"), [("", 2), ("cp.async.wait_group 1;\n", 1), ("cp.async.wait_group 0;\n", 0)]
)
def test_copies_land_at_the_wait(wait: str, lines: int) -> None:
    data = np.arange(100, 164, dtype=np.uint32)
    findings = check(COPY.format(wait), described("data", data, "input"), checks=("race",))
    assert kinds(findings) == ["pending-copy"] * lines


def test_what_a_copy_brought_is_there_after_the_wait_only() -> None:
    data, out = np.arange(100, 164, dtype=np.uint32), np.zeros(64, np.uint32)
    for wait, values in (("cp.async.wait_all;\n", data.tolist()), ("", [0] * 64)):
        body = COPY.format(wait) + OUT.replace("%q0", "%q1")
        check(body, described("data", data), described("out", out), checks=("race",))
        assert out.tolist() == values


def test_lanes_that_read_what_another_lane_has_copied() -> None:
    body = """shl.b32 %t1, %t0, 2; mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8;
    mov.u32 %t2, tile; add.u32 %t3, %t2, %t1; cp.async.ca.shared.global [%t3], [%q9], 4;
    cp.async.wait_all; {} xor.b32 %t3, %t3, 4; ld.shared.b32 %t4, [%t3];"""
    words = np.zeros(32, np.uint32)
    assert not check(body.format("bar.warp.sync -1;"), described("a", words), block=32)
    found = check(body.format(""), described("a", words), block=32, checks=("race",))
    assert kinds(found) == ["lane-race"]


def test_a_copy_that_overwrites_what_others_read() -> None:
    data = np.arange(64, dtype=np.uint32)
    body = WORD + (
        "st.shared.b32 [%t1], %t0;\nbar.sync 0;\nld.shared.b32 %t3, [%t2];\n{}"
        "mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q8, %q8, %q0;\n"
        "cp.async.ca.shared.global [%t1], [%q8], 4;\ncp.async.wait_all;\n"
    )
    (finding, *_) = check(body.format(""), described("data", data), checks=("race",))[::-1]
    assert finding.instruction is not None
    assert finding.instruction.startswith("cp.async")
    assert not check(body.format("bar.sync 0;\n"), described("data", data), checks=("race",))


def test_a_wait_behind_the_barrier() -> None:
    """The copies of another warp may not have landed yet."""
    data = np.arange(64, dtype=np.uint32)
    body = WORD + (
        "mul.wide.u32 %q8, %t0, 4;\nadd.s64 %q8, %q8, %q0;\n"
        "cp.async.ca.shared.global [%t1], [%q8], 4;\ncp.async.commit_group;\n"
        "{}{}ld.shared.b32 %t3, [%t2];\n"
    )
    wait, barrier = "cp.async.wait_group 0;\n", "bar.sync 0;\n"
    assert not check(body.format(wait, barrier), described("data", data), checks=("race",))
    assert check(body.format(barrier, wait), described("data", data), checks=("race",))


def test_two_ctas_that_write_one_element() -> None:
    out = np.zeros(64, np.uint32)
    body = (
        "mov.u32 %t1, %ctaid.x;\nmad.lo.u32 %t1, %t1, 40, %t0;\nmul.wide.u32 %q8, %t1, 4;\n"
        "add.s64 %q8, %q8, %q0;\nsetp.lt.u32 %p1, %t1, 64;\n@%p1 st.global.b32 [%q8], {};\n"
    )
    assert not check(body.format("3"), described("out", out), checks=("race",), grid=2)
    (finding,) = check(body.format("%t0"), described("out", out), checks=("race",), grid=2)
    assert (finding.kind, finding.array, finding.count) == ("cta-race", "out", 24)
    assert "CTA number 0" in finding.message
    assert finding.cta == (1, 0, 0)


def test_a_finding_is_one_for_each_instruction_and_kind() -> None:
    body = WORD + "st.shared.b32 [%t1], %t0;\nld.shared.b32 %t3, [%t2];\n"
    store, load = check(body, checks=("race",), grid=50, threads=3)
    assert (store.count, load.count) == (50 * 32, 50 * 32)


@pytest.mark.parametrize(
    "between", ["", "bar.warp.sync -1;", "shfl.sync.idx.b32 %t7, %t3, 0, 31, -1;", "bar.sync 0;"]
)
def test_lanes_that_hand_words_to_each_other(between: str) -> None:
    """Each lane reads what its neighbour stored, in every round of a loop."""
    body = f"""shl.b32 %t1, %t0, 2; mov.u32 %t2, tile; add.u32 %t1, %t1, %t2; xor.b32 %t5, %t1, 4;
    mov.u32 %t6, 0; mov.u32 %t3, %t0;
    LOOP: st.shared.b32 [%t1], %t3; {between} ld.shared.b32 %t4, [%t5]; ld.shared.b32 %t9, [%t1];
    bar.warp.sync -1; add.u32 %t3, %t3, %t4; add.u32 %t6, %t6, 1; setp.lt.u32 %p1, %t6, 3;
    @%p1 bra LOOP;"""
    found = check(body, checks=("race",))
    if between:
        assert not found
    else:
        assert [(f.kind, f.count) for f in found] == [("lane-race", 3 * 64)]
        assert "bar.warp.sync" in found[0].message


COUNT = """setp.eq.u32 %p1, %t0, 0; @%p1 st.shared.b32 [tile], 0; bar.sync 0;
{operation} {between} ld.shared.b32 %t2, [tile];"""
ADDITION = "atom.shared.add.u32 %t1, [tile], 1;"


@pytest.mark.parametrize("operation", [ADDITION, "red.shared.add.u32 [tile], 1;"])
def test_a_plain_load_and_atomic_operations_of_others(operation: str) -> None:
    intact = COUNT.format(operation=operation, between="bar.sync 0;")
    assert not check(intact, block=128)
    found = check(COUNT.format(operation=operation, between=""), checks=("init", "race"), block=128)
    assert set(kinds(found)) == {"race"}
    assert any("shared.add" in (finding.instruction or "") for finding in found)


def test_atomic_operations_do_not_race_with_each_other() -> None:
    body = COUNT.format(operation=3 * ADDITION, between="")
    strong = body.replace("ld.shared", "ld.relaxed.cta.shared")
    assert not check(strong, checks=("init", "race"))


def test_a_lock_in_shared_memory_orders_what_it_guards() -> None:
    body = """mov.u32 %t1, tile; setp.eq.u32 %p1, %t0, 0; and.b32 %t2, %t0, 31;
    setp.ne.u32 %p2, %t2, 0; @%p1 st.shared.v2.b32 [%t1], {{0, 0}}; bar.sync 0;
    @%p2 bra END;
AGAIN: {lock} setp.ne.u32 %p3, %t3, 0; @%p3 bra AGAIN;
    ld.shared.b32 %t4, [%t1+4]; add.u32 %t4, %t4, 1; st.shared.b32 [%t1+4], %t4;
    atom.shared.exch.b32 %t5, [%t1], 0;
END:"""
    taken = body.format(lock="atom.shared.cas.b32 %t3, [%t1], 0, 1;")
    assert not check(taken, checks=("init", "race"), block=128)
    assert "race" in kinds(check(body.format(lock="mov.u32 %t3, 0;"), checks=("race",), block=128))
