"""Launch attributes: what a configuration may ask for beyond grid, block and shared memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices import tensor_map
from tests.devices import split
from tests.ptx import IOTA, ptx

# As IOTA, behind the launch ahead of it.
_MAKE_MAP = partial(tensor_map.encode, "cpu")
WAITING = IOTA.replace(
    "ld.param.u64 %rd1, [out];", "griddepcontrol.wait;\nld.param.u64 %rd1, [out];"
)
WAITING = WAITING.replace(".version 7.0\n.target sm_80", ".version 7.8\n.target sm_90")
# out[ctaid] = the CTA's rank in its cluster.
RANK = ptx(
    [".param .u64 .ptr .global .align 4 out"],
    """
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r2, %ctaid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
    """,
    target="sm_90",
    version="7.8",
    tail=".reqntid 32",
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": 3}, r"cluster: expected a divisor of the grid \(4, 1, 1\).*\(3, 1, 1\)"),
        ({"cluster": (2, 2)}, "cluster: expected a divisor"),
        ({"cluster": 0}, "cluster.x: expected 1 to 8, found 0"),
        ({"cluster": (4, 4)}, "cluster: expected at most 8 CTAs, found 16"),
        ({"cooperative": 1}, "cooperative: expected True or False, found 1"),
        ({"programmatic": None}, "programmatic: expected True or False"),
        ({"priority": 0.5}, "priority: expected an integer"),
    ],
)
def test_values_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.LaunchConfig(4, 32, **fields)


def test_a_grid_that_the_demanded_clusters_do_not_divide() -> None:
    signature = fe.Signature.from_ptx(
        RANK.replace(".reqntid 32", ".reqntid 32\n.reqnctapercluster 2")
    )
    assert signature.cluster == (2,)
    binder = fe.abi.Binder(signature, fe.Sidecar(), lambda name, value: value, _MAKE_MAP)
    for config, message in (
        (fe.LaunchConfig(3, 32), r"cluster: expected a divisor of the grid \(3, 1, 1\)"),
        (fe.LaunchConfig(4, 32, cluster=4), r"cluster: expected \(2, 1, 1\) \(the PTX's"),
    ):
        with pytest.raises(fe.AbiError, match=message):
            binder.bind(config, [0], {})


def test_a_change_to_a_grid_that_the_demanded_clusters_do_not_divide() -> None:
    signature = fe.Signature.from_ptx(IOTA.replace(".maxntid", ".reqnctapercluster 2\n.maxntid"))
    names = (("out", "*i32", "input"), ("n", "i32", "size"))
    params = [{"name": n, "type": t, "role": r} for n, t, r in names]
    sidecar = fe.Sidecar.read({"name": "k", "grid": ["n", "1", "1"], "params": params})
    array = fe.abi.ArrayReference(256, (8,), None, "int32", 4, 32, "cpu")
    binder = fe.abi.Binder(
        sidecar.declare(signature), sidecar, lambda name, value: array, _MAKE_MAP
    )
    bound = binder.bind(fe.LaunchConfig(4, 32), [object(), 4], {})
    assert binder.rebind(bound, {"n": 6}).config.grid == (6, 1, 1)
    with pytest.raises(fe.AbiError, match=r"cluster: expected a divisor of the grid \(3, 1, 1\)"):
        binder.rebind(bound, {"n": 3})


def test_another_entry_that_waits(device: fe.Device) -> None:
    """And a comment that speaks of it."""
    if getattr(device, "capability", (9, 0)) < (9, 0):
        pytest.skip("griddepcontrol needs sm_90")
    plain = IOTA.split(".address_size 64\n", 1)[1].replace(".entry k(", ".entry plain(")
    module = device.load_module(WAITING + plain + "// griddepcontrol.wait\n")
    config, out = fe.LaunchConfig(1, 32, programmatic=True), device.to_device(np.zeros(8, np.int32))
    with pytest.raises(fe.AbiError, match=r"programmatic: .*griddepcontrol\.wait"):
        module.get_kernel("plain").launch(config, out, 8)
    module.get_kernel("k").launch(config, out, 8)
    np.testing.assert_array_equal(device.to_host(out), np.arange(8))


def test_more_threads_than_the_kernel_takes(device: fe.Device) -> None:
    kernel, out = device.load_module(IOTA).get_kernel(), device.empty(8, np.int32)
    message = r"block: expected at most 128 threads \(the PTX's .maxntid\), found 256 \(32, 8, 1\)"
    with pytest.raises(fe.AbiError, match=message):
        kernel.launch(fe.LaunchConfig(1, (32, 8)), out, 8)
    kernel.launch(fe.LaunchConfig(1, (16, 8)), out, 8)


def test_a_programmatic_launch_of_a_kernel_that_does_not_wait(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    with pytest.raises(fe.AbiError, match=r"programmatic: .*griddepcontrol\.wait"):
        kernel.launch(fe.LaunchConfig(1, 32, programmatic=True), device.empty(8, np.int32), 8)


def test_a_kernel_whose_ctas_wait_for_each_other(device: fe.Device) -> None:
    sidecar = {"name": "k", "launch_cooperative_grid": True, "num_warps": 4, "shared": 0,
               "grid": ["1", "1", "1"]}  # fmt: skip
    kernel = device.load_module(IOTA, sidecar).get_kernel()
    out = device.to_device(np.zeros(8, np.int32))
    with pytest.raises(fe.AbiError, match=r"cooperative: expected True \(the sidecar's"):
        kernel.launch(fe.LaunchConfig(1, 128), out, 8)
    kernel.launch(kernels.launch_config(kernel.sidecar), out, 8)
    np.testing.assert_array_equal(device.to_host(out), np.arange(8))


def test_programmatic_launches(device: fe.Device) -> None:
    capability = getattr(device, "capability", (9, 0))
    if capability < (9, 0):
        pytest.skip("griddepcontrol needs sm_90")
    sidecar = {
        "name": "k",
        "launch_pdl": True,
        "num_warps": 4,
        "shared": 0,
        "grid": ["1", "1", "1"],
    }
    kernel = device.load_module(WAITING, sidecar).get_kernel()
    config = kernels.launch_config(kernel.sidecar)
    assert config.programmatic
    out, stream = device.to_device(np.zeros(8, np.int32)), device.create_stream()
    device.synchronize()
    for _ in range(3):
        kernel.launch(config, out, 8, stream=stream)
    with device.capture() as graph:
        for _ in range(3):
            kernel.launch(config, out, 8, stream=graph.stream)
    graph.launch(stream)
    np.testing.assert_array_equal(device.to_host(out), np.arange(8))


def test_priorities(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    out = device.to_device(np.zeros(8, np.int32))
    kernel.launch(fe.LaunchConfig(1, 32, priority=0), out, 8, stream=device.create_stream())
    np.testing.assert_array_equal(device.to_host(out), np.arange(8))


def test_what_the_cpu_cannot_do() -> None:
    device = fe.open_device("cpu")
    kernel = device.load_module(IOTA).get_kernel()
    out = np.zeros(64, np.int32)
    with pytest.raises(fe.DeviceError, match="cooperative: expected at most 4736 CTAs.*1000000"):
        kernel.launch(fe.LaunchConfig(10**6, 32, cooperative=True), out, 64)
    kernel.launch(fe.LaunchConfig(2, 32, cooperative=True, cluster=1), out, 64)
    np.testing.assert_array_equal(out, np.arange(64))
    fitting = device.load_module(split.TEXT, split.SIDECAR).get_kernel()
    fitting.prepare(fe.LaunchConfig((2, 1), 32, cooperative=True), out[:2], out[2:3], 1)()


def test_clusters(device: fe.Device) -> None:
    if getattr(device, "capability", (9, 0)) < (9, 0):
        pytest.skip("clusters need sm_90")
    kernel = device.load_module(RANK).get_kernel()
    out = device.to_device(np.full(8, -1, np.int32))
    kernel.launch(fe.LaunchConfig(8, 32, cluster=4), out)
    np.testing.assert_array_equal(device.to_host(out), [0, 1, 2, 3] * 2)
    kernel.launch(fe.LaunchConfig(8, 32), out)
    np.testing.assert_array_equal(device.to_host(out), [0] * 8)


@pytest.mark.gpu
def test_more_ctas_than_fit_at_once(gpu: fe.Device) -> None:
    kernel = gpu.load_module(IOTA).get_kernel()
    out = gpu.to_device(np.zeros(8, np.int32))
    kernel.launch(fe.LaunchConfig(8, 128, cooperative=True), out, 8)
    np.testing.assert_array_equal(gpu.to_host(out), np.arange(8))
    with pytest.raises(fe.LaunchError, match="COOPERATIVE_LAUNCH_TOO_LARGE.*grid .1000000,"):
        kernel.launch(fe.LaunchConfig(10**6, 128, cooperative=True), out, 8)


@pytest.mark.gpu
def test_a_priority_that_the_device_does_not_have(gpu: fe.Device) -> None:
    kernel = gpu.load_module(IOTA).get_kernel()
    with pytest.raises(fe.DeviceError, match=r"priority: expected -\d \(first\) to 0 .*found 7"):
        kernel.launch(fe.LaunchConfig(1, 32, priority=7), gpu.empty(8, np.int32), 8)
