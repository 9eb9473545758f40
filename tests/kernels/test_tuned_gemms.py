"""Tests of the tuned GEMMs alone: bfloat16 builds, a fused bias, and K split over CTAs."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors
from tests.kernels.guarded import relative_error
from tests.kernels.test_artefacts import TOLERANCE, case, dtype_of

# One set for all tests of shipped GEMMs, here and in tests/devices: a build is compiled once.
CHECKS = ("memory", "init", "race", "order")
TUNED = [
    build.name for build in kernels.builds() if build.archive != "moe" and "GROUP" in build.fields
]
SPLIT = [
    build.name
    for kernel in ("w4a16_gptq_gemm_mma", "w4a16_gptq_gemm_wgmma")
    for build in kernels.builds(kernel=kernel)
]
SMALL = [
    build.name
    for kernel, columns, dtype in (
        ("mma", 128, "float16"),
        ("wgmma", 64, "float16"),
        ("wgmma", 128, "bfloat16"),
    )
    for build in kernels.builds(
        kernel=f"w4a16_gptq_gemm_{kernel}", BLOCK_M=64, BLOCK_N=columns, dtype=dtype
    )
]


def launch(
    device: fe.Device,
    name: str,
    m: int,
    k: int,
    n: int,
    bias: bool = True,
    programs: int = 0,
    waits: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """c[M, N] of one launch, and what float64 makes of it.

    programs: launch so many, as on a GPU of so many processors.  waits: whether those that have
    parts of one tile wait for each other.
    """
    artefact, tensors = case(name, k, n, None, m % 2)
    kernel = artefact.kernel(device)
    if programs:
        fields = artefact.sidecar.to_mapping()
        for parameter in fields["params"]:
            if "value" in parameter:
                parameter["value"] = parameter["value"].replace("132", str(programs))
        text = artefact.text
        if not waits:  # the loops that wait count up to zero
            text, loops = re.subn(r"(mov\.b32 \t%r\d+), -255;", r"\1, 0;", text)
            assert loops
        fields.pop("ptx_sha256", None)
        kernel = device.load_module(text, fe.Sidecar.read(fields)).get_kernel()
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
        *(tensors.zero_bias, None, 0),
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
    device = fe.open_device("cpu", checks=CHECKS)
    c, expected = launch(device, name, 9, 2056, 72)
    assert relative_error(c, expected) <= TOLERANCE[c.dtype.name]


@pytest.mark.parametrize(
    ("build", "programs"),
    [("m64n64.g128", 3), ("m128n128.g64", 3), ("m96n64.g128", 5), ("m192n128.g64", 5)],
)
def test_tiles_that_are_shared_out_by_steps(build: str, programs: int) -> None:
    """Four tiles of twenty steps: programs have parts of two of them."""
    check_programs(build, rows_more=3, columns_more=8, programs=programs)


@pytest.mark.parametrize(
    ("build", "programs"),
    [("m32n64.g128", 2), ("m128n128.g64", 4), ("m96n128.g128", 5), ("m256n128.g32", 3)],
)
def test_a_tile_in_equal_parts(build: str, programs: int) -> None:
    """All programs have a part of the one tile, and from three on each sums a share of them."""
    check_programs(build, rows_more=-3, columns_more=-8, programs=programs)


@pytest.mark.parametrize(
    ("build", "rows_more", "columns_more", "programs"),
    [("m64n64.g128", 3, 8, 3), ("m192n128.g64", 3, 8, 5), ("m96n128.g128", -3, -8, 5)],
)
def test_programs_that_give_up_waiting(
    build: str, rows_more: int, columns_more: int, programs: int
) -> None:
    """Parts that they leave are summed by the one that comes last: none depends on others."""
    check_programs(build, rows_more, columns_more, programs, waits=False)


def check_programs(
    build: str, rows_more: int, columns_more: int, programs: int, waits: bool = True
) -> None:
    """A result of little more than a tile, or less, by so many programs."""
    name = f"w4a16_gptq_gemm_wgmma.{build}.sm_90a"
    tile = kernels.artefact(name).fields
    sizes = {"m": tile["BLOCK_M"] + rows_more, "k": 2560, "n": tile["BLOCK_N"] + columns_more}
    device = fe.open_device("cpu", checks=CHECKS)
    c, expected = launch(device, name, **sizes, programs=programs, waits=waits)
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


WIDE = [
    *("decode.m8n32w4.g32.sm_80", "decode.bf16.m16n32w8.g128.sm_80", "mma.m32n128w4.g32.sm_80"),
    *("mma.bf16.m64n128w4.g32.sm_80", "wgmma.m128n128.g64.sm_90a", "wgmma.m64n64.g128.sm_90a"),
    *("wgmma.bf16.m96n64.g128.sm_90a", "wgmma.m192n128.g64.sm_90a"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", WIDE)
def test_sums_in_float32(device: str, name: str) -> None:
    """Set, and added to what was there; split along K or not."""
    there = fe.open_device(device, checks=CHECKS) if device == "cpu" else None
    there = there or fe.open_device(device)
    shipped = kernels.artefact(f"w4a16_gptq_gemm_{name}")
    random = np.random.default_rng(3)
    for m, n, k in ((3, 72, 1032), (19, 264, 4096)):
        tensors = random_tensors(k, n, 128)
        a = random.standard_normal((m, k)).astype(dtype_of(shipped.name))
        layer = fe.GptqLinear(tensors, device=there, dtype=a.dtype)
        before = random.standard_normal((m, n)).astype(np.float32)
        product = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
        for adds in (False, True):
            wide = there.to_device(before.copy())
            kernels.launch_w4a16_gptq(
                *(None, shipped.kernel(there), there.to_device(a), layer.weight, None, m),
                wide=wide,
                adds=adds,
            )
            expected = product + (before if adds else 0)
            error = relative_error(there.to_host(wide), expected)
            assert error <= TOLERANCE[a.dtype.name]


def test_a_result_goes_somewhere() -> None:
    device = fe.open_device("cpu")
    tensors = random_tensors(128, 64, 128)
    layer = fe.GptqLinear(tensors, device=device)
    kernel = kernels.artefact("w4a16_gptq_gemm_decode.m8n32w4.g32.sm_80").kernel(device)
    x = np.ones((1, 128), np.float16)
    with pytest.raises(fe.AbiError, match="expected c != 0 or wide != 0, found c = 0, wide = 0"):
        kernels.launch_w4a16_gptq(None, kernel, x, layer.weight, None, 1)
    with pytest.raises(fe.AbiError, match="wide: w4a16_gptq_gemm_typed rounds its result"):
        kernels.launch_w4a16_gptq(
            *(None, kernels.canonical(1).kernel(device), x, layer.weight, None, 1),
            wide=np.empty((1, 64), np.float32),
        )
