"""The canonical kernel computes what the reference does, on every device."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors
from tests.kernels.guarded import launch_guarded, relative_error

CLASSIC = [(32, 256, 64, 64), (10, 2048, 2560, 128)]
EDGES = [
    (1, 8, 8, 8),
    (1, 136, 72, 64),  # short last group, K and N of no tile
    (5, 40, 200, 32),
    (64, 64, 64, -1),
    (65, 264, 136, 128),
    (129, 96, 8, 16),
    (3, 1000, 24, 40),  # several groups meet in one K tile
    (200, 512, 328, 32),
]


def random_cases(count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(20261122)
    return [
        (
            int(rng.integers(1, 201)),
            int(rng.integers(1, 80)) * 8,
            int(rng.integers(1, 60)) * 8,
            int(rng.choice([32, 64, 128, -1])),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("zero_format", "zero_bias"), [("v1", 1), ("v2", 0)])
@pytest.mark.parametrize(("m", "k", "n", "group_size"), CLASSIC + EDGES)
def test_against_float64(
    device: fe.Device, m: int, k: int, n: int, group_size: int, zero_format: str, zero_bias: int
) -> None:
    check_against_float64(device, m, k, n, group_size, zero_format, zero_bias)


@pytest.mark.parametrize(("m", "k", "n", "group_size"), random_cases(24))
def test_random_shapes(device: fe.Device, m: int, k: int, n: int, group_size: int) -> None:
    check_against_float64(device, m, k, n, group_size, "v1", 1)


def check_against_float64(
    device: fe.Device, m: int, k: int, n: int, group_size: int, zero_format: str, zero_bias: int
) -> None:
    tensors = random_tensors(k, n, group_size, zero_format=zero_format, seed=m * k + n)
    a = np.random.default_rng(m).standard_normal((m, k)).astype(np.float16)
    c = launch_guarded(device, kernels.canonical(zero_bias), tensors, a)
    assert np.isfinite(c).all(), "poison or NaN left in c"
    expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    assert relative_error(c.astype(np.float64), expected) <= 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize(("m", "k", "n", "group_size"), CLASSIC + EDGES[:5])
def test_cpu_and_gpu_agree(gpu: fe.Device, m: int, k: int, n: int, group_size: int) -> None:
    """The order of summation differs, so results agree to the rounding of float16, not to bits."""
    tensors = random_tensors(k, n, group_size, seed=3)
    a = np.random.default_rng(4).standard_normal((m, k)).astype(np.float16)
    shipped = kernels.canonical(1)
    on_gpu = launch_guarded(gpu, shipped, tensors, a).astype(np.float64)
    on_cpu = launch_guarded(fe.open_device("cpu"), shipped, tensors, a).astype(np.float64)
    scale = np.abs(on_cpu).max()
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=2.0**-10, atol=2.0**-12 * scale)


@pytest.mark.gpu
def test_offsets_beyond_32_bits(gpu: fe.Device) -> None:
    """M * K passes 2^31 elements: the last rows are right."""
    m, k, n = 2**19 + 65, 4096, 64
    tensors = random_tensors(k, n, 128, seed=1)
    tail = np.random.default_rng(2).standard_normal((65, k)).astype(np.float16)
    a = gpu.empty((m, k), np.float16)
    a[m - 65 :].copy_to_device(tail)
    layer = fe.GptqLinear(tensors, device=gpu)
    c = gpu.to_host(layer(a)[m - 65 :])
    expected = tail.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    assert relative_error(c.astype(np.float64), expected) <= 1e-3


def test_bias_is_added(device: fe.Device) -> None:
    tensors = random_tensors(128, 1032, 64, bias=True, seed=8)
    x = np.random.default_rng(9).standard_normal((2, 3, 128)).astype(np.float16)
    y = device.to_host(fe.GptqLinear(tensors, device=device)(device.to_device(x)))
    weight = tensors.dequantize().astype(np.float64)
    expected = x.astype(np.float64) @ weight + tensors.bias.astype(np.float64)
    assert y.shape == (2, 3, 1032)
    assert relative_error(y.astype(np.float64), expected) <= 1e-3
