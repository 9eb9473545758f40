"""Branches, loops, barriers, exchange between lanes; warps and lanes that go their own ways."""

from __future__ import annotations

import numpy as np
import pytest

from ferrum_numba.emulator import Job
from ferrum_numba.errors import LaunchError, PtxError
from tests.campaigns.operands import words

from .harness import compiled, entry, run

STORE = "mul.wide.u32 %q20, %t0, 4; add.s64 %q20, %q20, %q1; st.global.b32 [%q20], %t9;"
LOAD = "mul.wide.u32 %q20, %t0, 4; add.s64 %q20, %q20, %q0; ld.global.b32 %t1, [%q20];"


def steps(n: int) -> int:
    count = 0
    while n != 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return count


def test_lanes_that_loop_for_different_times() -> None:
    body = f"""{LOAD} mov.u32 %t9, 0;
LOOP:
    setp.eq.u32 %p1, %t1, 1; @%p1 bra DONE;
    add.u32 %t9, %t9, 1; and.b32 %t2, %t1, 1; setp.eq.u32 %p2, %t2, 0; @%p2 bra EVEN;
    mad.lo.u32 %t1, %t1, 3, 1; bra LOOP;
EVEN:
    shr.u32 %t1, %t1, 1; bra.uni LOOP;
DONE:
    {STORE}"""
    x = np.random.default_rng(0).integers(1, 1000, 64).astype(np.uint32)
    out = np.zeros(64, np.uint32)
    run(entry(2, body), x, out, block=64)
    assert out.tolist() == [steps(n) for n in x.tolist()]


@pytest.mark.parametrize("block", [1, 31, 33, 96, (8, 3, 2)])
def test_blocks_with_a_partial_warp(block: int | tuple[int, int, int]) -> None:
    body = """mov.u32 %t1, %tid.y; mov.u32 %t2, %tid.z; mov.u32 %t3, %ntid.x; mov.u32 %t4, %ntid.y;
    mad.lo.u32 %t5, %t2, %t4, %t1; mad.lo.u32 %t5, %t5, %t3, %t0;
    mul.wide.u32 %q20, %t5, 4; add.s64 %q21, %q20, %q0; add.s64 %q22, %q20, %q1;
    shl.b32 %t6, %t5, 2; st.shared.b32 [%t6], %t5; bar.sync 0;
    ld.shared.b32 %t7, [0]; add.u32 %t8, %t5, 1000; add.u32 %t8, %t8, %t7;
    st.global.b32 [%q22], %t8; activemask.b32 %t9; st.global.b32 [%q21], %t9;"""
    n = int(np.prod(block))
    masks, out = np.zeros(n + 64, np.uint32), np.zeros(n + 64, np.uint32)
    run(entry(2, body), masks, out, block=block, shared_bytes=4 * n)
    assert out.tolist() == [*range(1000, 1000 + n), *[0] * 64]
    assert masks[n - 1] == (1 << (n - 1) % 32 + 1) - 1
    assert not masks[n:].any()


def test_warps_that_go_their_own_ways_and_meet_at_barriers() -> None:
    body = f"""shr.u32 %t1, %t0, 5; mov.u32 %t1, %warpid; setp.eq.u32 %p1, %t1, 0; mov.u32 %t9, 0;
    mov.u32 %t2, tile; shl.b32 %t3, %t0, 2; add.u32 %t4, %t2, %t3;
    st.shared.b32 [%t4], %t0; mov.u32 %t5, 0;
LOOP:
    bar.sync 0;
    xor.b32 %t6, %t4, 128; ld.shared.b32 %t7, [%t6]; add.u32 %t9, %t9, %t7;
    @%p1 bra FIRST;
    add.u32 %t9, %t9, 100; bar.sync 0; bra NEXT;
FIRST:
    bar.sync 0;
NEXT:
    st.shared.b32 [%t4], %t9; add.u32 %t5, %t5, 1; setp.lt.u32 %p2, %t5, 3; @%p2 bra LOOP;
    {STORE}"""
    out = np.zeros(64, np.uint32)
    run(entry(2, body), out, out, block=64, shared_bytes=256)
    tile, total = np.arange(64), np.zeros(64, int)
    for _ in range(3):
        total = total + np.roll(tile, 32) + np.repeat([0, 100], 32)
        tile = total.copy()
    assert out.tolist() == total.tolist()


def test_lanes_that_wait_at_different_barriers() -> None:
    body = f"""and.b32 %t1, %t0, 1; setp.eq.u32 %p1, %t1, 0; shl.b32 %t2, %t0, 2;
    st.shared.b32 [%t2], %t0; @%p1 bra EVEN; bar.sync 0; mov.u32 %t3, 7; bra NEXT;
EVEN:
    bar.sync 0; mov.u32 %t3, 9;
NEXT:
    xor.b32 %t2, %t2, 252; ld.shared.b32 %t4, [%t2]; mad.lo.u32 %t9, %t4, 10, %t3; {STORE}"""
    out = np.zeros(64, np.uint32)
    run(entry(2, body), out, out, block=64, shared_bytes=256)
    lanes = np.arange(64)
    assert out.tolist() == ((63 - lanes) * 10 + np.where(lanes % 2, 7, 9)).tolist()


@pytest.mark.parametrize("block", [64, 40])
def test_lanes_and_warps_that_end_early(block: int) -> None:
    body = f"""setp.gt.u32 %p1, %t0, 34; mov.u32 %t9, 5; @%p1 ret; bar.sync 0;
    add.u32 %t9, %t9, %t0; {STORE}"""
    out = np.zeros(64, np.uint32)
    run(entry(2, body), out, out, block=block)
    assert out.tolist() == [*range(5, 40), *[0] * 29]


def test_registers_are_zero_before_they_are_written() -> None:
    body = f"""setp.eq.u32 %p1, %t0, 3; @%p1 mov.u32 %t9, 8; @%p7 add.u32 %t9, %t9, 1;
    add.u32 %t9, %t9, %t33; bra NEXT;
NEXT:
    add.u32 %t9, %t9, %t34; mov.u32 %t34, 77; {STORE}"""
    out = np.ones((2, 32), np.uint32)
    run(entry(2, body), out, out, grid=2)
    assert out[0].tolist() == [0, 0, 0, 8, *[0] * 28]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_ctas_are_spread_over_threads(threads: int) -> None:
    body = """mov.u32 %t1, %ctaid.x; mad.lo.u32 %t2, %t1, 32, %t0; mul.wide.u32 %q20, %t2, 4;
    add.s64 %q20, %q20, %q0; shl.b32 %t3, %t0, 2; st.shared.b32 [%t3], %t2; bar.sync 0;
    xor.b32 %t3, %t3, 4; ld.shared.b32 %t4, [%t3]; st.global.b32 [%q20], %t4;"""
    out = np.zeros(32 * 50, np.uint32)
    run(entry(1, body), out, grid=50, threads=threads, shared_bytes=128)
    assert out.tolist() == [i ^ 1 for i in range(32 * 50)]


def test_a_grid_of_three_axes() -> None:
    body = """mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ctaid.y; mov.u32 %t3, %ctaid.z;
    mov.u32 %t4, %nctaid.x; mov.u32 %t5, %nctaid.y; mad.lo.u32 %t6, %t3, %t5, %t2;
    mad.lo.u32 %t6, %t6, %t4, %t1; mul.wide.u32 %q20, %t6, 4; add.s64 %q20, %q20, %q0;
    mad.lo.u32 %t7, %t3, 100, %t1; mad.lo.u32 %t7, %t2, 10, %t7; st.global.b32 [%q20], %t7;"""
    out = np.zeros((2, 3, 4), np.uint32)
    job = Job(
        grid=(4, 3, 2),
        block=(32, 1, 1),
        shared_bytes=0,
        parameter_block=np.uint64(out.ctypes.data).tobytes(),
    )
    compiled(entry(1, body)).run(job)
    z, y, x = np.indices(out.shape)
    assert (out == 100 * z + 10 * y + x).all()


@pytest.mark.parametrize("mode", ["idx", "up", "down", "bfly"])
def test_shfl(mode: str) -> None:
    for amount, clamp in [(1, 31), (4, 31), (31, 31), (3, 0x181F), (2, 0), (5, 0x1C03)]:
        clamp = clamp & ~31 if mode == "up" else clamp
        body = f"""{LOAD} shfl.sync.{mode}.b32 %t9|%p1, %t1, {amount}, {clamp}, -1;
        @!%p1 xor.b32 %t9, %t9, -1; {STORE}"""
        x, out = words(32, 32), np.zeros(32, np.uint32)
        run(entry(2, body), x, out)
        segment, most = clamp >> 8 & 31, clamp & 31
        for lane in range(32):
            first = lane & segment
            last = first | most & ~segment
            source = {
                "idx": first | amount & ~segment,
                "up": lane - amount,
                "down": lane + amount,
                "bfly": lane ^ amount,
            }[mode]
            inside = source >= last if mode == "up" else source <= last
            expected = int(x[source]) if inside else int(x[lane]) ^ 0xFFFFFFFF
            assert out[lane] == expected, (mode, amount, clamp, lane)


def test_vote() -> None:
    body = f"""{LOAD} setp.ne.u32 %p1, %t1, 0; vote.sync.ballot.b32 %t9, %p1, -1;
    vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
    vote.sync.uni.pred %p4, !%p1, -1; selp.b32 %t2, 1, 0, %p2; selp.b32 %t3, 2, 0, %p3;
    selp.b32 %t4, 4, 0, %p4; or.b32 %t2, %t2, %t3; or.b32 %t2, %t2, %t4;
    setp.eq.u32 %p5, %t0, 0; @%p5 mov.u32 %t9, %t2; {STORE}"""
    for x, bits in ((np.zeros(32), 4), (np.ones(32), 7), (np.arange(32) % 3, 1)):
        out = np.zeros(32, np.uint32)
        run(entry(2, body), x.astype(np.uint32), out)
        assert out[0] == bits
        assert (out[1:] == sum(1 << i for i in range(32) if x[i])).all()


def test_exchange_between_lanes_that_are_apart_is_reported() -> None:
    body = f"""and.b32 %t1, %t0, 1; setp.eq.u32 %p1, %t1, 0; @%p1 bra EVEN; mov.u32 %t9, 1;
    shfl.sync.idx.b32 %t9, %t9, 1, 31, MASK; bra NEXT;
EVEN:
    mov.u32 %t9, 2;
NEXT:
    shfl.sync.bfly.b32 %t9, %t9, 2, 31, -1; {STORE}"""
    out = np.zeros(32, np.uint32)
    run(entry(2, body.replace("MASK", "0xAAAAAAAA")), out, out)
    assert out.tolist() == [2, 1] * 16
    with pytest.raises(PtxError, match=r"shfl.sync.idx.b32: not all lanes"):
        run(entry(2, body.replace("MASK", "-1")), out, out)


@pytest.mark.parametrize(
    "instruction",
    [
        "@%p1 bar.sync 0;",
        "bar.sync 16;",
        "bar.arrive 1;",
        "bar.red.popc.pred %p1, 0, %p2;",
    ],
)
def test_other_barriers_are_refused(instruction: str) -> None:
    with pytest.raises(PtxError, match="bar"):
        compiled(entry(1, instruction))


PRODUCER_AND_CONSUMER = """and.b32 %t2, %t0, 31; shl.b32 %t3, %t2, 2; mov.u32 %t1, %warpid;
    setp.eq.u32 %p1, %t1, 0; @%p1 bra PRODUCER;
CONSUMER:
    bar.sync 1, 64; ld.shared.b32 %t6, [%t3]; add.u32 %t9, %t9, %t6; bar.arrive 2, 64;
    add.u32 %t5, %t5, 1; setp.lt.u32 %p2, %t5, 4; @%p2 bra CONSUMER;
    bra END;
PRODUCER:
    mad.lo.u32 %t6, %t5, 100, %t2; st.shared.b32 [%t3], %t6; bar.arrive 1, 64; bar.sync 2, 64;
    add.u32 %t5, %t5, 1; setp.lt.u32 %p2, %t5, 4; @%p2 bra PRODUCER;
END:
    setp.gt.u32 %p3, %t0, 7;
    barrier.cta.red.popc.u32 %t7, 3, %p3; bar.red.and.pred %p4, 3, 64, !%p3;
    barrier.red.or.aligned.pred %p5, 4, %p3; mad.lo.u32 %t9, %t7, 10000, %t9;
    @%p4 add.u32 %t9, %t9, 1000; @%p5 add.u32 %t9, %t9, 2000; mov.u32 %t8, %ctaid.x;
    mad.lo.u32 %t8, %t8, 64, %t0; mul.wide.u32 %q20, %t8, 4; add.s64 %q20, %q20, %q0;
    st.global.b32 [%q20], %t9;"""
DIVERGENT = "setp.lt.u32 %p9, %t0, 3; @%p9 bra NEXT; add.u32 %t40, %t0, 1;\nNEXT:\n"


@pytest.mark.parametrize("before", ["", DIVERGENT], ids=["together", "masked"])
def test_named_barriers(before: str) -> None:
    out = np.zeros((5, 2, 32), np.uint32)
    run(entry(1, before + PRODUCER_AND_CONSUMER), out, block=64, grid=5, shared_bytes=4096)
    assert (out[:, 0] == 562000).all()
    assert (out[:, 1] == np.arange(32) * 4 + 600 + 562000).all()


def test_break_and_continue_per_lane() -> None:
    """Nested loops that lanes leave at different places, with a predicated body, then a barrier."""
    body = f"""{LOAD} mov.u32 %t9, 0; mov.u32 %t2, 0;
OUTER:
    add.u32 %t2, %t2, 1; setp.gt.u32 %p1, %t2, %t1; @%p1 bra DONE;
    and.b32 %t3, %t2, 3; setp.eq.u32 %p2, %t3, 2; @%p2 bra OUTER; mov.u32 %t4, 0;
INNER:
    add.u32 %t4, %t4, 1; setp.eq.u32 %p3, %t4, %t2; @%p3 add.u32 %t9, %t9, 100; @%p3 bra OUTER;
    xor.b32 %t5, %t4, %t0; and.b32 %t5, %t5, 7; setp.eq.u32 %p4, %t5, 5; @!%p4 add.u32 %t9, %t9, 1;
    @!%p4 bra INNER; setp.gt.u32 %p5, %t9, 900; @!%p5 bra OUTER;
DONE:
    shl.b32 %t6, %t0, 2; st.shared.b32 [%t6], %t9; bar.sync 0; xor.b32 %t6, %t6, 252;
    ld.shared.b32 %t7, [%t6]; mad.lo.u32 %t9, %t7, 3, %t9; {STORE}"""
    x, out = np.random.default_rng(1).integers(0, 40, 64).astype(np.uint32), np.zeros(64, np.uint32)
    run(entry(2, body), x, out, block=64, shared_bytes=256)

    def total(lane: int, most: int) -> int:
        result = 0
        for i in range(1, most + 1):
            if i & 3 == 2:
                continue
            for j in range(1, i + 1):
                if j == i:
                    result += 100
                    break
                if (j ^ lane) & 7 == 5:
                    break
                result += 1
            if j != i and result > 900:
                break
        return result

    sums = np.array([total(lane, most) for lane, most in enumerate(x.tolist())])
    assert out.tolist() == (sums[::-1] * 3 + sums).tolist()


def test_local_memory_is_of_each_lane() -> None:
    body = f""".local .align 8 .b8 depot[32]; .reg .b64 %sp; mov.b64 %sp, depot;
    cvta.local.u64 %q21, %sp; mov.u32 %t2, 5; st.local.b32 [%sp+8], %t0; st.b32 [%q21+12], %t2;
    and.b32 %t3, %t0, 1; shl.b32 %t3, %t3, 2; mov.b32 %t4, depot; add.u32 %t4, %t4, %t3;
    ld.local.b32 %t5, [%t4+8]; cvta.to.local.u64 %q22, %q21; ld.local.b32 %t6, [%q22+8];
    mad.lo.u32 %t9, %t5, 100, %t6; {STORE}"""
    out = np.zeros(64, np.uint32)
    run(entry(2, body), out, out, block=64)
    lanes = np.arange(64)
    assert out.tolist() == (np.where(lanes % 2, 5, lanes) * 100 + lanes).tolist()


def test_narrow_local_addresses_wrap() -> None:
    """libdevice's sine takes an index from the array's address, and adds the rest in [ ]."""
    body = f""".local .align 4 .b8 depot[32]; .reg .b64 %sp; mov.b64 %sp, depot;
    cvt.u32.u64 %t1, %sp; st.local.b32 [%t1+20], %t0; st.local.b32 [%t1+24], 7;
    and.b32 %t2, %t0, 1; shl.b32 %t2, %t2, 2; sub.s32 %t3, %t1, %t2; sub.s32 %t3, %t3, 4;
    ld.local.b32 %t9, [%t3+28]; {STORE}"""
    out = np.zeros(64, np.uint32)
    run(entry(2, body), out, out, block=64)
    lanes = np.arange(64)
    assert out.tolist() == np.where(lanes % 2, lanes, 7).tolist()


def test_trap() -> None:
    body = "setp.eq.u32 %p1, %t0, 40; @%p1 bra BAD; bra GOOD;\nBAD:\ntrap;\nGOOD:"
    run(entry(1, body), np.zeros(1), block=32)
    with pytest.raises(LaunchError, match=r"CTA \(0, 0, 0\), warp 1 came to a trap"):
        run(entry(1, body), np.zeros(1), block=64)


CHOICE = """{} LIST: .branchtargets ONE,
  TWO, ONE, LAST;
{} brx.idx %t2, LIST;
mov.b32 %t3, 77; bra END;
ONE: mov.b32 %t3, 11; bra END;
TWO: mov.b32 %t3, 22;
LAST: add.u32 %t3, %t3, 100;
END: mul.wide.u32 %q8, %t0, 4; add.s64 %q9, %q0, %q8; st.global.b32 [%q9], %t3;"""


@pytest.mark.parametrize("guard", ["", "@%p1", "@!%p1"])
def test_branches_by_an_index(guard: str) -> None:
    """Each lane chooses for itself."""
    out = np.zeros(32, np.uint32)
    before = "setp.lt.u32 %p1, %t0, 8; and.b32 %t2, %t0, 3; mov.b32 %t3, 0;"
    run(entry(1, CHOICE.format(before, guard)), out)
    chosen = np.tile(np.array([11, 122, 11, 100], np.uint32), 8)
    lanes = np.arange(32)
    takes = {"": lanes >= 0, "@%p1": lanes < 8, "@!%p1": lanes >= 8}[guard]
    assert out.tolist() == np.where(takes, chosen, 77).tolist()


def test_branches_by_an_index_that_is_uniform_or_beyond() -> None:
    out = np.zeros(32, np.uint32)
    run(entry(1, CHOICE.format("mov.b32 %t2, %ctaid.x; mov.b32 %t3, 0;", "")), out, grid=2)
    assert set(out.tolist()) == {122}
    with pytest.raises(LaunchError, match=r"(?s)came to a trap.*brx.idx %t2, LIST"):
        run(entry(1, CHOICE.format("mov.b32 %t2, %t0; mov.b32 %t3, 0;", "")), out)
    wrong = entry(1, CHOICE.format("", "").replace("%t2, LIST", "%t2, ONE"))
    with pytest.raises(PtxError, match=r"the label of a \.branchtargets list above"):
        run(wrong, out)
