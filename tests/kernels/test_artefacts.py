"""Every shipped float16 GEMM computes what float64 does, at the edges of its constraints."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors
from tests.kernels.guarded import launch_guarded, relative_error

GEMMS = [  # of the canonical 19 arguments, and perhaps a bias of the result and of the zeros
    build.name
    for build in kernels.builds(dtype="float16")
    if "group_size" in [p.name for p in build.sidecar.params] and build.archive != "moe"
]
# M, K, N; the group size is the artefact's own, or all of K where it is -1.
SHAPES = [
    (1, 8, 8, -1),
    (1, 4096, 40, None),
    (3, 136, 72, None),  # K ends inside a group, and inside a step
    (7, 1000, 24, None),
    (8, 520, 328, -1),
    (9, 264, 8, None),
    (16, 2048, 64, None),
    (17, 392, 200, None),  # a second block of rows
    (40, 96, 136, -1),
]


TOLERANCE = {"float16": 1e-3, "bfloat16": 8e-3}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SMALLEST = [  # a build of each tuned kernel
    "w4a16_gptq_gemm_decode.m8n32w4.g32.sm_80",
    "w4a16_gptq_gemm_mma.m64n128w4.g32.sm_80",
    "w4a16_gptq_gemm_wgmma.m64n64.g32.sm_90a",
]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(DTYPES[kernels.artefact(name).dtype])


def case(
    name: str, k: int, n: int, group_size: int | None, zero_bias: int = 1
) -> tuple[kernels.Artefact, fe.GptqTensors]:
    """A build and a layer.  zero_bias: the layer's, where the build takes both."""
    artefact = kernels.artefact(name)
    zero_format = "v1" if artefact.fields.get("ZERO_BIAS", zero_bias) else "v2"
    group_size = group_size or artefact.fields.get("GROUP", 64)
    tensors = random_tensors(k, n, group_size, zero_format=zero_format, seed=k + n)
    return artefact, replace(tensors, scales=tensors.scales.astype(dtype_of(name)))


@pytest.mark.parametrize("name", GEMMS)
def test_against_float64(device: fe.Device, name: str) -> None:
    for i, (m, k, n, group_size) in enumerate(SHAPES):
        artefact, tensors = case(name, k, n, group_size, i % 2)
        a = np.random.default_rng(m).standard_normal((m, k)).astype(dtype_of(name))
        expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
        c = launch_guarded(device, artefact, tensors, a)
        assert relative_error(c, expected) <= TOLERANCE[a.dtype.name], (m, k, n, group_size)
        again = launch_guarded(device, artefact, tensors, a)
        np.testing.assert_array_equal(c, again, "another run gives other bits")


@pytest.mark.parametrize("name", GEMMS)
def test_several_groups_a_tile(device: fe.Device, name: str) -> None:
    smallest = kernels.artefact(name).fields.get("GROUP", 8)
    for factor in (1, 2, 3):
        artefact, tensors = case(name, 1320, 64, factor * smallest, factor % 2)
        a = np.random.default_rng(factor).standard_normal((5, 1320)).astype(dtype_of(name))
        expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
        assert (
            relative_error(launch_guarded(device, artefact, tensors, a), expected)
            <= TOLERANCE[a.dtype.name]
        )


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("size", [1e-4, 300.0])
def test_activations_of_one_sign(device: fe.Device, name: str, size: float) -> None:
    """With sum(a) large beside the result, the zero's share must be exact enough."""
    artefact, tensors = case(name, 4096, 64, None, int(size > 1))
    rng = np.random.default_rng(11)
    a = (rng.uniform(0.5, 1.5, (4, 4096)) * size).astype(dtype_of(name))
    expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    assert (
        relative_error(launch_guarded(device, artefact, tensors, a), expected)
        <= TOLERANCE[a.dtype.name]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", GEMMS)
def test_cpu_and_gpu_agree(gpu: fe.Device, name: str) -> None:
    artefact, tensors = case(name, 776, 72, None)
    a = np.random.default_rng(4).standard_normal((11, 776)).astype(dtype_of(name))
    on_gpu = launch_guarded(gpu, artefact, tensors, a).astype(np.float64)
    on_cpu = launch_guarded(fe.open_device("cpu"), artefact, tensors, a).astype(np.float64)
    scale = np.abs(on_cpu).max()
    rounding = 2.0**-10 if a.dtype == np.float16 else 2.0**-7
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=rounding, atol=rounding / 4 * scale)


def test_every_zero_there_is() -> None:
    """A stored nibble of 15 is 16 in v1, and of 0 is 0 in v2: neither wraps."""
    device = fe.open_device("cpu")
    a = np.ones((2, 64), np.float16)
    for name in SMALLEST:
        for zero_bias, zero_format in ((1, "v1"), (0, "v2")):
            plain = random_tensors(64, 64, 64, zero_format=zero_format, seed=7)
            stored = np.arange(8, dtype=np.uint32) * 0x11111111 * 2 + 0x11111111
            stored[0] = 0x76543210
            qzeros = stored.view(np.int32).reshape(1, 8)
            tensors = fe.GptqTensors(
                qweight=plain.qweight,
                qzeros=qzeros,
                scales=plain.scales,
                group_size=64,
                zero_format=zero_format,
            )
            assert tensors.zeros().max() == 15 + zero_bias
            expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
            found = launch_guarded(device, kernels.artefact(name), tensors, a)
            assert relative_error(found, expected) <= TOLERANCE["float16"], (name, zero_format)


@pytest.mark.parametrize("name", [name for name in GEMMS if "decode" in name])
def test_what_the_constraints_refuse(name: str) -> None:
    device = fe.open_device("cpu")
    artefact, tensors = case(name, 256, 64, 24)
    a = np.zeros((1, 256), dtype_of(name))
    with pytest.raises(fe.AbiError, match="expected group_size % .* or group_size >= K"):
        launch_guarded(device, artefact, tensors, a)
