"""mbarriers: phases, arrivals, bytes, states, and CTAs that wait for ever."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ferrum_numba.errors import LaunchError, PtxError

from .checks.harness import check, described
from .harness import entry, run

STORE = "mul.wide.u32 %q20, %t0, 4; add.s64 %q20, %q20, %q0; st.global.b32 [%q20], %t9;"
WAIT = """{{ .reg .pred complete;
AGAIN: mbarrier.try_wait.parity.shared.b64 complete, [{0}], {1}; @!complete bra.uni AGAIN; }}"""


def first_word(body: str, block: int = 32) -> np.ndarray:
    out = np.zeros(block, np.uint32)
    run(entry(1, f"{body}\n{STORE}"), out, block=block, shared_bytes=4096)
    return out


def test_arrivals_of_lanes_and_warps() -> None:
    """Two warps arrive lane by lane; the third sees no phase's end before the last arrival."""
    body = f"""mov.u32 %t1, %warpid; setp.eq.u32 %p1, %t0, 0; mov.u32 %t2, tile;
    @%p1 mbarrier.init.shared::cta.b64 [%t2], 64; bar.sync 0; setp.eq.u32 %p2, %t1, 0;
    shl.b32 %t3, %t0, 2; add.u32 %t3, %t3, %t2; @%p2 bra READ;
    st.shared.b32 [%t3], %t0; mbarrier.arrive.release.cta.shared::cta.b64 _, [%t2]; bra END;
READ:
    {WAIT.format("%t2", 0)}
    xor.b32 %t4, %t3, 128; ld.shared.b32 %t9, [%t4];
END:"""
    assert first_word(body, 96)[:32].tolist() == [*range(32, 64)]


def test_phases_and_parity() -> None:
    """Parity 1 is over before anything has come; each phase turns the parities round."""
    test = "mbarrier.test_wait.parity.shared.b64 %p{0}, [tile], {1}; @%p{0} add.u32 %t9, %t9, {2};"
    arrive = "@%p1 mbarrier.arrive.shared.b64 _, [tile], 3;"
    body = """setp.eq.u32 %p1, %t0, 5; mov.u32 %t9, 0;
    @%p1 mbarrier.init.shared.b64 [tile], 3;"""
    for i in range(3):
        body += test.format(2, 0, 10 ** (2 * i)) + test.format(3, 1, 2 * 10 ** (2 * i)) + arrive
    assert set(first_word(body).tolist()) == {20102}


def test_states_and_drops() -> None:
    body = """setp.eq.u32 %p1, %t0, 0; @%p1 mbarrier.init.shared.b64 [tile], 5; mov.u32 %t9, 0;
    setp.lt.u32 %p2, %t0, 2; @%p2 mbarrier.arrive.shared.b64 %q4, [tile];
    mbarrier.pending_count.b64 %t4, %q4;
    @%p1 mbarrier.test_wait.shared.b64 %p3, [tile], %q4;
    @%p1 mbarrier.arrive_drop.shared.b64 %q5, [tile], 3;
    @%p1 mbarrier.test_wait.shared.b64 %p4, [tile], %q4;
    @%p1 mbarrier.arrive.shared.b64 %q6, [tile];
    mbarrier.pending_count.b64 %t5, %q6; mad.lo.u32 %t9, %t4, 10, %t5;
    @%p3 add.u32 %t9, %t9, 1000; @%p4 add.u32 %t9, %t9, 2000;
    @%p1 mbarrier.inval.shared.b64 [tile];"""
    # Of five arrivals two come, then three that later phases do not expect.
    assert first_word(body)[:3].tolist() == [2052, 40, 0]


def test_bytes_that_are_still_to_come() -> None:
    test = "mbarrier.test_wait.parity.shared.b64 %p2, [tile], 0; @%p2 add.u32 %t9, %t9, {0};"
    body = f"""setp.eq.u32 %p1, %t0, 0; @%p1 mbarrier.init.shared.b64 [tile], 2; mov.u32 %t9, 0;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [tile], 100; {test.format(1)}
    @%p1 mbarrier.complete_tx.shared.b64 [tile], 60; {test.format(10)}
    @%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [tile], 8;
    @%p1 mbarrier.arrive.shared.b64 _, [tile]; {test.format(100)}
    @%p1 mbarrier.complete_tx.shared.b64 [tile], 48; {test.format(1000)}"""
    assert set(first_word(body).tolist()) == {1000}


@pytest.mark.parametrize("arrivals", [32, 0])
def test_copies_arrive(arrivals: int) -> None:
    """With .noinc the arrivals of copies are among those that the phase expects."""
    form = ".noinc" if arrivals else ""
    body = f"""setp.eq.u32 %p1, %t0, 0; mov.u32 %t2, tile;
    @%p1 mbarrier.init.shared.b64 [%t2+512], {arrivals + 1}; bar.sync 0; shl.b32 %t3, %t0, 2;
    add.u32 %t4, %t3, %t2; cvt.u64.u32 %q4, %t3; add.s64 %q4, %q4, %q0;
    cp.async.ca.shared.global [%t4], [%q4], 4;
    cp.async.mbarrier.arrive{form}.shared::cta.b64 [%t2+512];
    @%p1 mbarrier.arrive.shared.b64 _, [%t2+512]; {WAIT.format("%t2+512", 0)}
    xor.b32 %t4, %t4, 124; ld.shared.b32 %t9, [%t4]; {STORE}"""
    out = np.arange(32, dtype=np.uint32) * 7
    run(entry(1, body), out, shared_bytes=1024)
    assert out.tolist() == [7 * i for i in range(31, -1, -1)]


def test_a_generic_address() -> None:
    body = f"""mov.u64 %q4, tile; cvta.shared.u64 %q4, %q4; setp.eq.u32 %p1, %t0, 0;
    @%p1 mbarrier.init.b64 [%q4+16], 1; @%p1 mbarrier.arrive.b64 _, [%q4+16];
    {WAIT.replace(".shared", "").format("%q4+16", 0)} mov.u32 %t9, 3;"""
    assert set(first_word(body).tolist()) == {3}


def test_labels_belong_to_their_braces() -> None:
    loop = "{{ .reg .pred p; mov.u32 %t1, 0;\nHERE: add.u32 %t1, %t1, 1; add.u32 %t9, %t9, {}; "
    loop += "setp.lt.u32 p, %t1, 5; @p bra HERE; }}"
    assert set(first_word(f"mov.u32 %t9, 0; {loop.format(1)} {loop.format(100)}").tolist()) == {505}


def test_a_cta_that_waits_for_ever() -> None:
    """Both warps wait, for different things; which they are is said at once."""
    body = f"""setp.eq.u32 %p1, %t0, 0; mov.u32 %t1, %warpid; setp.eq.u32 %p2, %t1, 1;
    @%p1 mbarrier.init.shared.b64 [tile+8], 3; bar.sync 0;
    @%p1 mbarrier.arrive.shared.b64 _, [tile+8];
    @%p2 bra OTHER;
    {WAIT.format("tile+8", 0)}
OTHER: bar.sync 2, 96;"""
    with pytest.raises(LaunchError) as caught:
        first_word(body, 64)
    text = str(caught.value)
    assert re.search(r"warp 0: PTX line \d+: mbarrier.try_wait.*parity 0.* shared byte 8", text)
    assert "lacks 2 arrivals and 0 bytes" in text
    assert re.search(r"warp 1: PTX line \d+: bar.sync 2, 96", text)


def test_more_arrivals_than_a_phase_expects() -> None:
    body = """setp.eq.u32 %p1, %t0, 0; @%p1 mbarrier.init.shared.b64 [tile], 33;
    mbarrier.arrive.shared.b64 _, [tile], 2;"""
    with pytest.raises(PtxError, match=r"mbarrier\.arrive.*more arrivals"):
        first_word(body)


def test_a_broadcast_is_the_same_in_all_lanes() -> None:
    """So a warp that takes its way by it takes it as a whole, and may do what whole warps must."""
    body = """shr.u32 %t1, %t0, 5; shfl.sync.idx.b32 %t2, %t1, 0, 31, -1; setp.eq.u32 %p1, %t2, 1;
    mov.u32 %t9, 7; @%p1 bra SKIP; bar.sync 1, 32; mov.u32 %t9, 5;
SKIP:"""
    assert first_word(body, 64).tolist() == [5] * 32 + [7] * 32


# Lane 0 fetches 1024 bytes; all turn them round, and lane 0 brings them to p1.
BULK = """mov.u32 %t2, tile; setp.eq.u32 %p1, %t0, 0; @%p1 mbarrier.init.shared.b64 [%t2+1024], 1;
    bar.sync 0; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%t2+1024], 1024;
    @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%t2], [%q0], 1024,
        [%t2+1024]; {wait}
    mad.lo.u32 %t3, %t0, 4, %t2; ld.shared.b32 %t4, [%t3]; not.b32 %t4, %t4;
    st.shared.b32 [%t3], %t4; {fence} bar.sync 0;
    @%p1 cp.async.bulk.global.shared::cta.bulk_group [%q1], [%t2], 1024;
    @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group.read 0; {after}"""
RIGHT = {"wait": WAIT.format("%t2+1024", 0), "fence": "fence.proxy.async.shared::cta;", "after": ""}


def test_bulk_copies() -> None:
    x, out = np.arange(256, dtype=np.uint32), np.zeros(256, np.uint32)
    run(entry(2, BULK.format(**RIGHT)), x, out, block=256, shared_bytes=2048)
    assert (out == ~x).all()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"wait": ""}, "race"),
        ({"fence": ""}, "missing-fence"),
        ({"after": "mov.u32 %t9, 1; st.shared.b32 [%t3], %t9;"}, "pending-bulk"),
    ],
)
def test_what_bulk_copies_need(changes: dict[str, str], kind: str | None) -> None:
    x, out = np.arange(256, dtype=np.uint32), np.zeros(256, np.uint32)
    arrays = (described("x", x, "input"), described("out", out))
    body = BULK.format(**(RIGHT | changes))
    found = check(body, *arrays, checks=("memory", "init", "race"), block=256, shared_bytes=2048)
    assert kind in {finding.kind for finding in found} if kind else not found
