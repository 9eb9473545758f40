"""Every shipped float16 GEMM computes what float64 does, at the edges of its constraints."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.kernels.guarded import launch_guarded, relative_error
from tests.layers import random_tensors

GEMMS = [  # of the canonical 19 arguments
    name
    for name in kernels.names()
    if name.startswith("w4a16_gptq_gemm_")
    and "act_order" not in name
    and kernels.artefact(name).sidecar.params[0].type == "*fp16"
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


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if ".bf16." in name else np.float16)


def case(
    name: str, k: int, n: int, group_size: int | None
) -> tuple[kernels.Artefact, fe.GptqTensors]:
    artefact = kernels.artefact(name)
    constants = artefact.sidecar.constants or {}
    zero_format = "v1" if constants["ZERO_BIAS"] else "v2"
    group_size = group_size or constants.get("GROUP", 64)
    tensors = random_tensors(k, n, group_size, zero_format=zero_format, seed=k + n)
    return artefact, replace(tensors, scales=tensors.scales.astype(dtype_of(name)))


@pytest.mark.parametrize("name", GEMMS)
def test_against_float64(device: fe.Device, name: str) -> None:
    for m, k, n, group_size in SHAPES:
        artefact, tensors = case(name, k, n, group_size)
        a = np.random.default_rng(m).standard_normal((m, k)).astype(dtype_of(name))
        expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
        c = launch_guarded(device, artefact, tensors, a)
        assert relative_error(c, expected) <= TOLERANCE[a.dtype.name], (m, k, n, group_size)
        again = launch_guarded(device, artefact, tensors, a)
        np.testing.assert_array_equal(c, again, "another run gives other bits")


@pytest.mark.parametrize("name", GEMMS)
def test_several_groups_a_tile(device: fe.Device, name: str) -> None:
    constants = kernels.artefact(name).sidecar.constants or {}
    for factor in (1, 2, 3):
        artefact, tensors = case(name, 1320, 64, factor * constants.get("GROUP", 8))
        a = np.random.default_rng(factor).standard_normal((5, 1320)).astype(dtype_of(name))
        expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
        assert (
            relative_error(launch_guarded(device, artefact, tensors, a), expected)
            <= TOLERANCE[a.dtype.name]
        )


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("size", [1e-4, 300.0])
def test_activations_of_one_sign(device: fe.Device, name: str, size: float) -> None:
    """Where sum(a) is large beside the result, what the zero takes off must be exact enough."""
    artefact, tensors = case(name, 4096, 64, None)
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


@pytest.mark.parametrize("name", [name for name in GEMMS if "decode" in name])
def test_what_the_constraints_refuse(name: str) -> None:
    device = fe.open_device("cpu")
    artefact, tensors = case(name, 256, 64, 24)
    a = np.zeros((1, 256), dtype_of(name))
    with pytest.raises(fe.AbiError, match="expected group_size % .* or group_size >= K"):
        launch_guarded(device, artefact, tensors, a)
