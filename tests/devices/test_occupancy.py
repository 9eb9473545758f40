"""Attributes and occupancy of kernels, by the driver."""

from __future__ import annotations

from typing import Any

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.devices import canonical
from tests.ptx import IOTA


def test_the_cpu_device_has_none() -> None:
    kernel = canonical.kernel(fe.open_device("cpu"))
    with pytest.raises(fe.DeviceError, match="attributes: expected a kernel of a GPU.*one on cpu"):
        _ = kernel.attributes
    with pytest.raises(fe.DeviceError, match="occupancy: expected a kernel of a GPU"):
        kernel.occupancy(canonical.CONFIG)


@pytest.mark.gpu
def test_attributes(gpu: Any) -> None:
    found = canonical.kernel(gpu).attributes
    assert 16 < (found.registers or 0) <= 255
    assert (found.max_threads or 0) >= 128
    assert "the driver, on cuda:0" in found.source


@pytest.mark.gpu
def test_occupancy(gpu: Any) -> None:
    """Of a tiny kernel the block decides; of shared memory there is so much."""
    kernel = gpu.load_module(IOTA).get_kernel()
    for threads in (128, 512):
        found = kernel.occupancy(fe.LaunchConfig(1, threads))
        assert found.warps_per_sm == found.ctas_per_sm * threads // 32
        assert found.share == 1.0
        assert found.clusters is None
    assert found.sms > 1
    half = gpu.max_shared_bytes // 2 + 1
    assert kernel.occupancy(fe.LaunchConfig(1, 128, half)).ctas_per_sm == 1
    with pytest.raises(fe.DeviceError, match="shared_bytes"):
        kernel.occupancy(fe.LaunchConfig(1, 128, gpu.max_shared_bytes + 1))


@pytest.mark.gpu
def test_clusters(gpu: Any) -> None:
    if gpu.capability < (9, 0):
        pytest.skip("clusters are Hopper's")
    kernel = gpu.load_module(IOTA).get_kernel()
    one, eight = (
        kernel.occupancy(fe.LaunchConfig(8, 128, cluster=size)).clusters for size in (1, 8)
    )
    assert one >= 8 * eight > 0


@pytest.mark.gpu
def test_of_shipped_kernels(gpu: Any) -> None:
    """The launcher asks for no more than fits."""
    build = kernels.choose(gpu, 16, 4096, 4096, 128, 1)
    sizes = kernels.contiguous_sizes(16, 4096, 4096, 128)
    config = kernels.launch_config(build.sidecar, **sizes)
    assert build.kernel(gpu).occupancy(config).ctas_per_sm >= 1
