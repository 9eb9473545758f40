"""Clusters: CTAs that share their shared memory, and wait for each other."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from tests.emulator.harness import entry

CHECKS = (None, ("memory", "init", "race", "order"))


def launch(body: str, config: fe.LaunchConfig, *arrays: np.ndarray, checks: object = None) -> None:
    device = fe.open_device("cpu", checks=checks) if checks else fe.open_device("cpu", threads=2)
    device.load_module(entry(len(arrays), body)).get_kernel().launch(config, *arrays)


@pytest.mark.parametrize("checks", CHECKS)
def test_where_a_cta_is_in_its_cluster(checks: object) -> None:
    names = ("%cluster_ctaid.x", "%cluster_ctaid.y", "%cluster_nctaid.x", "%cluster_nctaid.y")
    names += ("%cluster_ctarank", "%cluster_nctarank", "%clusterid.x", "%clusterid.y")
    names += ("%nclusterid.x", "%nclusterid.y")
    body = """mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ctaid.y; mov.u32 %t3, %nctaid.x;
    mad.lo.u32 %t1, %t2, %t3, %t1; mul.wide.u32 %q8, %t1, 40; add.s64 %q8, %q8, %q0;
    setp.ne.u32 %p1, %t0, 0; @%p1 bra END;\n"""
    for i, name in enumerate(names):
        body += f"mov.u32 %t4, {name}; st.global.b32 [%q8+{4 * i}], %t4;\n"
    out = np.zeros((4, 6, 10), np.uint32)
    launch(f"{body}END:", fe.LaunchConfig((6, 4), 32, cluster=(3, 2)), out, checks=checks)
    for y in range(4):
        for x in range(6):
            rank = x % 3 + 3 * (y % 2)
            expected = [x % 3, y % 2, 3, 2, rank, 6, x // 3, y // 2, 2, 2]
            assert out[y, x].tolist() == expected


# Each CTA leaves a word for the next one of its cluster, in that one's own memory.
PASS_ON = """
mov.u32 %t1, %cluster_ctarank; mov.u32 %t2, %cluster_nctarank; add.u32 %t3, %t1, 1;
rem.u32 %t3, %t3, %t2; shl.b32 %t4, %t0, 2; mov.u32 %t5, tile; add.u32 %t4, %t4, %t5;
mov.u32 %t6, %ctaid.x; mad.lo.u32 %t7, %t6, 64, %t0; mov.u32 %t10, 0; st.shared.b32 [%t4], %t10;
barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
mapa.shared::cluster.u32 %t8, %t4, %t3;
{store}
{sync}
ld.shared.b32 %t9, [%t4]; mul.wide.u32 %q8, %t7, 4; add.s64 %q8, %q8, %q0;
st.global.b32 [%q8], %t9;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
"""
SYNC = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"


@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize(
    "store",
    [
        "st.shared::cluster.b32 [%t8], %t7;",
        "red.shared::cluster.add.u32 [%t8], %t7;",
        "cvt.u64.u32 %q9, %t4; cvta.shared.u64 %q9, %q9; mapa.u64 %q10, %q9, %t3;"
        " st.b32 [%q10], %t7;",
    ],
)
def test_stores_into_the_memory_of_the_next(store: str, checks: object) -> None:
    out = np.zeros(8 * 64, np.uint32)
    config = fe.LaunchConfig(8, 64, cluster=4, shared_bytes=256)
    launch(PASS_ON.format(store=store, sync=SYNC), config, out, checks=checks)
    before = np.arange(8 * 64).reshape(2, 4, 64)
    np.testing.assert_array_equal(out, np.roll(before, 1, axis=1).ravel())


def test_places_outside_of_the_cluster_are_found() -> None:
    store = "add.u32 %t3, %t3, 9; mapa.shared::cluster.u32 %t8, %t4, %t3;"
    store += " st.shared::cluster.b32 [%t8], %t7;"
    config = fe.LaunchConfig(8, 64, cluster=4, shared_bytes=256)
    out = np.zeros(8 * 64, np.uint32)
    with pytest.raises(fe.SanitizerError, match="out-of-bounds"):
        launch(PASS_ON.format(store=store, sync=SYNC), config, out, checks=("memory",))


@pytest.mark.parametrize("cluster", [2, 8])
def test_a_barrier_that_not_all_come_to(cluster: int) -> None:
    body = f"mov.u32 %t1, %cluster_ctarank; setp.eq.u32 %p1, %t1, 1; @%p1 bra END; {SYNC}\nEND:"
    with pytest.raises(fe.LaunchError, match=rf"{cluster - 1} CTAs? cannot end \(1 did\)"):
        launch(body, fe.LaunchConfig(cluster, 64, cluster=cluster), np.zeros(1))


def test_a_cluster_that_the_ptx_demands() -> None:
    body = "mov.u32 %t1, %cluster_nctarank; st.global.b32 [%q0], %t1;"
    text = entry(1, body).replace(")\n{", ")\n.reqnctapercluster 2\n{", 1)
    out = np.zeros(1, np.uint32)
    kernel = fe.open_device("cpu").load_module(text).get_kernel()
    kernel.launch(fe.LaunchConfig(4, 32), out)
    assert out[0] == 2
    with pytest.raises(fe.FerrumError, match="cluster"):
        kernel.launch(fe.LaunchConfig(3, 32), out)


def test_without_clusters_a_cta_is_one() -> None:
    out = np.zeros(64, np.uint32)
    config = fe.LaunchConfig(1, 64, shared_bytes=256)
    launch(PASS_ON.format(store="st.shared::cluster.b32 [%t8], %t7;", sync=SYNC), config, out)
    np.testing.assert_array_equal(out, np.arange(64))
