"""One canonical launch, spelt out argument by argument, for tests to spoil."""

from __future__ import annotations

from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors

M, K, N, G = 5, 256, 136, 64
CONFIG = fe.LaunchConfig(grid=(1, 3), block=128, shared_bytes=8192)
TENSORS = random_tensors(K, N, G, seed=5)
A = np.random.default_rng(6).standard_normal((M, K)).astype(np.float16)
EXPECTED = A.astype(np.float64) @ TENSORS.dequantize().astype(np.float64)
SIZES = {"M": M, "N": N, "K": K, "group_size": G}
STRIDES = {
    "stride_am": K, "stride_ak": 1,
    "stride_qwk": N, "stride_qwn": 1,
    "stride_sk": N, "stride_sn": 1,
    "stride_qzk": N // 8, "stride_qzn": 1,
    "stride_cm": N, "stride_cn": 1,
}  # fmt: skip


def kernel(device: fe.Device) -> fe.Kernel:
    return kernels.canonical(1).kernel(device)


def arguments(device: fe.Device) -> dict[str, Any]:
    """All 19 arguments by name, c poisoned."""
    return {
        "a": device.to_device(A),
        "qweight": device.to_device(TENSORS.qweight),
        "scales": device.to_device(TENSORS.scales),
        "qzeros": device.to_device(TENSORS.qzeros),
        "c": device.to_device(np.full((M, N), np.nan, np.float16)),
        **SIZES,
        **STRIDES,
    }


def check(device: fe.Device, c: Any) -> None:
    device.synchronize()
    found = device.to_host(c).astype(np.float64)
    assert np.linalg.norm(found - EXPECTED) <= 1e-3 * np.linalg.norm(EXPECTED)
