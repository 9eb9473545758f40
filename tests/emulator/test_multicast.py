"""Copies to the shared memory of several CTAs of a cluster, and what CTAs do there unordered."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from tests.emulator.harness import entry

ALL = ("memory", "init", "race", "order")
CTAS, WORDS = 4, 64  # of a cluster; of what each CTA brings in

# Each CTA brings in its part of p0 for the whole cluster; all add up the parts of all.
BEGIN = """mov.u32 %t1, tile; setp.eq.u32 %p1, %t0, 0; mov.u32 %t2, %cluster_ctarank;
@%p1 mbarrier.init.shared::cta.b64 [%t1], 1; @%p1 fence.mbarrier_init.release.cluster;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t1], 1024;
"""
SYNC = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n"
COPY = """mul.lo.u32 %t3, %t2, 256; add.u32 %t4, %t1, 128; add.u32 %t4, %t4, %t3;
cvt.u64.u32 %q8, %t3; add.s64 %q8, %q8, %q0; mov.u32 %t5, 256; mov.b16 %h1, {mask};
@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
    [%t4], [%q8], %t5, [%t1], %h1;
"""
WAIT = """{ .reg .pred c;
AGAIN: mbarrier.try_wait.parity.shared::cta.b64 c, [%t1], 0; @!c bra AGAIN; }
"""
ADD = """shl.b32 %t6, %t0, 2; add.u32 %t7, %t1, %t6; ld.shared.b32 %t8, [%t7+128];
ld.shared.b32 %t9, [%t7+384]; add.u32 %t8, %t8, %t9; ld.shared.b32 %t9, [%t7+640];
add.u32 %t8, %t8, %t9; ld.shared.b32 %t9, [%t7+896]; add.u32 %t8, %t8, %t9;
mov.u32 %t9, %ctaid.x; mad.lo.u32 %t9, %t9, 64, %t0; mul.wide.u32 %q9, %t9, 4;
add.s64 %q9, %q9, %q1; st.global.b32 [%q9], %t8;
"""


def launch(
    body: str, checks: tuple[str, ...] | None, mask: int = 15, on: fe.Device | None = None
) -> np.ndarray:
    device = on or fe.open_device("cpu", checks=checks or (), threads=None if checks else 2)
    parts = device.to_device(np.arange(CTAS * WORDS, dtype=np.uint32))
    out = device.to_device(np.zeros((2 * CTAS, WORDS), np.uint32))
    text = entry(2, body.replace("{mask}", str(mask)), target="sm_90")
    kernel = device.load_module(text).get_kernel()
    kernel.launch(fe.LaunchConfig(2 * CTAS, WORDS, 2048, cluster=CTAS), parts, out)
    device.synchronize()
    return np.asarray(device.to_host(out))


@pytest.mark.parametrize("checks", [None, ALL])
def test_a_copy_to_all_ctas(checks: tuple[str, ...] | None) -> None:
    check_copy(launch(BEGIN + SYNC + COPY + WAIT + ADD + SYNC, checks))


@pytest.mark.gpu
def test_a_copy_to_all_ctas_on_a_gpu() -> None:
    check_copy(launch(BEGIN + SYNC + COPY + WAIT + ADD + SYNC, None, on=fe.open_device("cuda")))


def check_copy(out: np.ndarray) -> None:
    expected = np.arange(CTAS * WORDS).reshape(CTAS, WORDS).sum(0)
    np.testing.assert_array_equal(out, np.broadcast_to(expected, out.shape))


def test_a_cta_that_the_cluster_does_not_have() -> None:
    with pytest.raises(fe.PtxError, match="mask of CTAs names some that the cluster does not have"):
        launch(BEGIN + SYNC + COPY + WAIT + ADD + SYNC, None, mask=31)


def test_ctas_that_are_left_out_wait_for_ever() -> None:
    with pytest.raises(fe.LaunchError, match="deadlock"):
        launch(BEGIN + SYNC + COPY + WAIT + ADD + SYNC, None, mask=7)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BEGIN + COPY + WAIT + ADD + SYNC, "absent-cta"),  # others may not have begun
        (BEGIN + SYNC + COPY + ADD + SYNC, "cluster-race"),  # reads what others bring in
        (BEGIN + SYNC + COPY + WAIT + ADD + COPY + SYNC, "cluster-race"),  # others still read it
    ],
)
def test_what_is_missing_is_found(body: str, kind: str) -> None:
    with pytest.raises(fe.FerrumError) as caught:
        launch(body, ("race",))
    assert kind in str(caught.value)


# Each CTA stores into the memory of the next, which loads it.
NEXT = """mov.u32 %t1, tile; mov.u32 %t2, %cluster_ctarank; add.u32 %t3, %t2, 1;
and.b32 %t3, %t3, 3;
shl.b32 %t6, %t0, 2; add.u32 %t7, %t1, %t6; {first}
mapa.shared::cluster.u32 %t8, %t7, %t3; {store} {between}
ld.shared.b32 %t9, [%t7]; mov.u32 %t10, %ctaid.x; mad.lo.u32 %t10, %t10, 64, %t0;
mul.wide.u32 %q9, %t10, 4; add.s64 %q9, %q9, %q1; st.global.b32 [%q9], %t9; {last}"""
STORE = "mad.lo.u32 %t11, %t2, 64, %t0; st.shared::cluster.b32 [%t8], %t11;"
GENERIC = """mad.lo.u32 %t11, %t2, 64, %t0; cvt.u64.u32 %q10, %t7; cvta.shared.u64 %q10, %q10;
mapa.u64 %q11, %q10, %t3; st.b32 [%q11], %t11;"""


@pytest.mark.parametrize("store", [STORE, GENERIC])
@pytest.mark.parametrize(
    ("first", "between", "last", "kind"),
    [
        (SYNC, SYNC, "", None),  # what another CTA has written is not uninitialised
        ("", SYNC, "", "absent-cta"),
        (SYNC, "", SYNC, "cluster-race"),
        (SYNC, "bar.sync 0;", SYNC, "cluster-race"),  # which orders the CTA's own warps only
        (SYNC, SYNC.replace("release", "relaxed"), SYNC, "cluster-race"),
    ],
)
def test_stores_to_another_cta(
    store: str, first: str, between: str, last: str, kind: str | None
) -> None:
    body = NEXT.format(first=first, store=store, between=between, last=last)
    if kind is None:
        out = launch(body, ALL)
        expected = np.roll(np.arange(CTAS * WORDS).reshape(CTAS, WORDS), 1, axis=0)
        np.testing.assert_array_equal(out, np.tile(expected, (2, 1)))
        return
    with pytest.raises(fe.SanitizerError) as caught:
        launch(body, ("race",))
    assert kind in {finding.kind for finding in caught.value.findings}


def test_a_cta_that_ends_while_others_use_its_memory() -> None:
    load = "ld.shared::cluster.b32 %t9, [%t8];"
    body = NEXT.format(
        first=SYNC, store=STORE, between=f"{SYNC} add.u32 %t12, %t2, 2; and.b32 %t12, %t12, 3;"
        f" setp.ne.u32 %p2, %t2, 3; @%p2 bra OWN; {load}\nOWN:", last="{last}",
    )  # fmt: skip
    for last, kinds in ((SYNC, set()), ("", {"absent-cta"})):
        device = fe.open_device("cpu", checks=("race",))
        kernel = device.load_module(entry(2, body.replace("{last}", last))).get_kernel()
        out = np.zeros((2 * CTAS, WORDS), np.uint32)
        with device.collect() as found:
            kernel.launch(fe.LaunchConfig(2 * CTAS, WORDS, 2048, cluster=CTAS), out, out)
        assert {finding.kind for finding in found} == kinds


def test_an_mbarrier_of_another_cta_orders() -> None:
    """The leader loads what the others have stored in its memory, once they have arrived there."""
    body = """mov.u32 %t1, tile; mov.u32 %t2, %cluster_ctarank; setp.eq.u32 %p1, %t0, 0;
    setp.ne.u32 %p2, %t2, 0; @%p1 mbarrier.init.shared::cta.b64 [%t1], 256;
    shl.b32 %t3, %t0, 2; mad.lo.u32 %t3, %t2, 256, %t3; add.u32 %t3, %t3, %t1;
    {sync} mapa.shared::cluster.u32 %t4, %t3, 0; mapa.shared::cluster.u32 %t5, %t1, 0;
    st.shared::cluster.b32 [%t4+128], %t0;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%t5]; @%p2 bra END;
    {wait} ld.shared.b32 %t6, [%t3+384]; mov.u32 %t7, %ctaid.x; mad.lo.u32 %t7, %t7, 64, %t0;
    mul.wide.u32 %q9, %t7, 4; add.s64 %q9, %q9, %q1; st.global.b32 [%q9], %t6;
END: {sync}"""
    out = launch(body.format(sync=SYNC, wait=WAIT), ALL)
    np.testing.assert_array_equal(out[0], np.arange(WORDS))
    with pytest.raises(fe.SanitizerError, match="cluster-race"):
        launch(body.format(sync=SYNC, wait=""), ("race",))


# Each CTA fills 256 bytes, and copies them to the next CTA, whose mbarrier counts them.
PASS_ON = """mov.u32 %t1, tile; setp.eq.u32 %p1, %t0, 0; mov.u32 %t2, %cluster_ctarank;
@%p1 mbarrier.init.shared::cta.b64 [%t1], 1; @%p1 fence.mbarrier_init.release.cluster;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%t1], 256;
shl.b32 %t6, %t0, 2; add.u32 %t7, %t1, %t6; mad.lo.u32 %t11, %t2, 64, %t0;
st.shared.b32 [%t7+256], %t11; {fence} {begun}
add.u32 %t3, %t2, 1; and.b32 %t3, %t3, 3; mapa.shared::cluster.u32 %t8, %t1, %t3;
add.u32 %t4, %t8, 1024; add.u32 %t5, %t1, 256;
@%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes
    [%t4], [%t5], 256, [%t8];
{wait} ld.shared.b32 %t9, [%t7+1024];
mov.u32 %t10, %ctaid.x; mad.lo.u32 %t10, %t10, 64, %t0;
mul.wide.u32 %q9, %t10, 4; add.s64 %q9, %q9, %q1; st.global.b32 [%q9], %t9; {last}"""
FENCE = "fence.proxy.async.shared::cta;"
PASSED = {"fence": FENCE, "begun": SYNC, "wait": WAIT, "last": SYNC}
ROLLED = np.tile(np.roll(np.arange(CTAS * WORDS).reshape(CTAS, WORDS), 1, axis=0), (2, 1))


@pytest.mark.parametrize("checks", [None, ALL])
def test_a_copy_to_the_memory_of_another_cta(checks: tuple[str, ...] | None) -> None:
    np.testing.assert_array_equal(launch(PASS_ON.format(**PASSED), checks), ROLLED)


@pytest.mark.gpu
def test_a_copy_to_the_memory_of_another_cta_on_a_gpu() -> None:
    out = launch(PASS_ON.format(**PASSED), None, on=fe.open_device("cuda"))
    np.testing.assert_array_equal(out, ROLLED)


@pytest.mark.parametrize(
    ("missing", "kind"),
    [("begun", "absent-cta"), ("wait", "race"), ("fence", "missing-fence")],
)
def test_what_such_a_copy_needs(missing: str, kind: str) -> None:
    changes = {missing: "bar.sync 0;" if missing == "begun" else ""}
    with pytest.raises(fe.FerrumError) as caught:
        launch(PASS_ON.format(**PASSED | changes), ("race",))
    assert kind in str(caught.value)
