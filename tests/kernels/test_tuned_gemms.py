"""What only the tuned GEMMs have: bfloat16 builds, a fused bias, and K split over CTAs."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.kernels.guarded import relative_error
from tests.kernels.test_artefacts import TOLERANCE, case, dtype_of

TUNED = [build.name for build in kernels.builds() if "GROUP" in build.fields]
SPLIT = [
    build.name
    for kernel in ("w4a16_gptq_gemm_mma", "w4a16_gptq_gemm_wgmma")
    for build in kernels.builds(kernel=kernel)
]
SMALL = [
    build.name
    for kernel, columns in (("w4a16_gptq_gemm_mma", 64), ("w4a16_gptq_gemm_wgmma", 128))
    for build in kernels.builds(kernel=kernel, BLOCK_M=64, BLOCK_N=columns)
]


def launch(
    device: fe.Device, name: str, m: int, k: int, n: int, bias: bool = True, programs: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """c[M, N] of one launch, and what float64 makes of it.

    programs: launch so many, as on a GPU of so many processors.
    """
    artefact, tensors = case(name, k, n, None, m % 2)
    kernel = artefact.kernel(device)
    if programs:
        fields = artefact.sidecar.to_mapping()
        fields["grid"] = [rule.replace("132", str(programs)) for rule in fields["grid"]]
        kernel = device.load_module(artefact.text, fe.Sidecar.read(fields)).get_kernel()
    random = np.random.default_rng(m + k)
    a = random.standard_normal((m, k)).astype(dtype_of(name))
    added = random.standard_normal(n).astype(a.dtype)
    sizes = kernels.contiguous_sizes(m, n, k, tensors.group_size)
    c = device.to_device(np.full((m, n), np.nan).astype(a.dtype))
    arrays = (a, tensors.qweight, tensors.scales, tensors.qzeros)
    kernel.launch(
        kernels.launch_config(kernel.sidecar, **sizes),
        *map(device.to_device, arrays),
        c,
        *sizes.values(),
        device.to_device(added) if bias else None,
        tensors.zero_bias,
    )
    device.synchronize()
    expected = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    return device.to_host(c), expected + (added.astype(np.float64) if bias else 0)


def check_bias(device: fe.Device, name: str) -> None:
    for bias in (True, False):
        c, expected = launch(device, name, 19, 264, 72, bias)
        assert relative_error(c, expected) <= TOLERANCE[c.dtype.name]


@pytest.mark.parametrize("build", ["decode.m8n32w4.g32", "decode.bf16.m8n32w4.g32"])
def test_bias(build: str) -> None:
    check_bias(fe.open_device("cpu"), f"w4a16_gptq_gemm_{build}.sm_80")


@pytest.mark.parametrize("name", SMALL)
def test_split_along_k_races_with_nobody(name: str) -> None:
    """The last CTA of a block reads what the others wrote: only after they arrived."""
    device = fe.open_device("cpu", checks=("memory", "init", "race"))
    c, expected = launch(device, name, 9, 2056, 72)
    assert relative_error(c, expected) <= TOLERANCE[c.dtype.name]


def test_tiles_that_are_shared_out_by_steps() -> None:
    """Three programs for four tiles of twenty steps: each has parts of two of them."""
    name, sizes = "w4a16_gptq_gemm_wgmma.m64n128.g64.sm_90a", {"m": 67, "k": 2560, "n": 136}
    device = fe.open_device("cpu", checks=("memory", "init", "race"))
    c, expected = launch(device, name, **sizes, programs=3)
    assert relative_error(c, expected) <= TOLERANCE[c.dtype.name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", TUNED)
def test_bias_on_a_gpu(gpu: fe.Device, name: str) -> None:
    check_bias(gpu, name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SPLIT)
def test_split_along_k_gives_the_same_bits(gpu: fe.Device, name: str) -> None:
    for m, k, n in [(40, 4096, 1032), (100, 2056, 3000), (1, 14336, 72)]:
        c, expected = launch(gpu, name, m, k, n)
        assert relative_error(c, expected) <= TOLERANCE[c.dtype.name]
        for _ in range(10):
            np.testing.assert_array_equal(launch(gpu, name, m, k, n)[0], c)
