"""Choice of an artefact for a shape, and how it is overridden."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels.cost import tuned
from tests.campaigns.layers import random_tensors
from tests.kernels.guarded import relative_error

CPU = fe.open_device("cpu")


def test_an_older_driver() -> None:
    """A build whose PTX the driver cannot read is passed over, for one that it can."""
    name = kernels.choose(gpu(cuda_version=(12, 8)), 4096, 4096, 4096, 128, 1).name
    assert name.endswith(".sm_90a")
    older = kernels.choose(gpu(cuda_version=(12, 2)), 4096, 4096, 4096, 128, 1)
    assert older.name.startswith("w4a16_gptq_gemm_mma.")
    assert older.name.endswith(".sm_80")
    assert kernels.choose(gpu(cuda_version=(12, 2)), 1, 4096, 4096, 128, 1).name.endswith(".sm_90")
    assert kernels.choose(gpu(cuda_version=(11, 8)), 1, 4096, 4096, 128, 1).name.endswith(".sm_80")


class Described(NamedTuple):
    name: str
    product: str
    capability: tuple[int, int]
    cuda_version: tuple[int, int]


def gpu(cuda_version: tuple[int, int]) -> fe.Device:
    """The properties of an H200 that the catalogue looks at."""
    return Described("cuda:0", "NVIDIA H200", (9, 0), cuda_version)  # type: ignore[return-value]


def test_the_model_and_the_builds_fit() -> None:
    """Every tuned build that is shipped can be chosen on some device, in both dtypes."""
    content = json.loads((kernels.folder() / "w4a16_tuning.json").read_text())
    listed = {name for its in content.values() for name in its["builds"]}
    canonical = {kernels.canonical(1).name}
    wanted = {
        kernels.of_dtype(kernels.artefact(build), dtype)
        for build in listed - canonical
        for dtype in ("float16", "bfloat16")
    }
    assert wanted == {*tuned(), *tuned("bfloat16")}


@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 384])
@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_of_builds_of_a_tile_that_of_the_largest_groups(rows: int, group_size: int) -> None:
    """One for smaller groups looks up more scales, and was not timed on these layers."""
    names = ("kernel", "target", "num_warps", "BLOCK_M", "BLOCK_N")
    chosen = {}
    for candidate in kernels.candidates(gpu((13, 0)), rows, 4096, 384 * 8, group_size, 1):
        build = candidate.build
        tile = tuple(build.fields[name] for name in names)
        assert tile not in chosen
        chosen[tile] = build.fields["GROUP"]
    for build in tuned():
        if tile_group := chosen.get(tuple(build.fields[name] for name in names)):
            assert build.fields["GROUP"] <= tile_group or group_size % build.fields["GROUP"]


@pytest.mark.parametrize("rows", [1, 64, 3000])
def test_bfloat16_on_the_cpu_device(rows: int) -> None:
    chosen = kernels.choose(CPU, rows, 256, 512, 64, 1, "bfloat16")
    assert chosen.fields["kernel"] == "w4a16_gptq_gemm_decode"


def test_one_choice_for_a_class_of_rows() -> None:
    assert [kernels.m_class(m) for m in (1, 8, 9, 256, 257, 1000, 1024, 1025)] == [
        *(8, 8, 16, 256, 320, 1024, 1024, 1280),
    ]
    device = gpu(cuda_version=(13, 0))
    for m in (1, 17, 100, 300, 3000):
        last = kernels.m_class(m)
        assert kernels.choose(device, m, 4096, 4096, 128, 1) is kernels.choose(
            device, last, 4096, 4096, 128, 1
        )


@pytest.mark.parametrize(
    ("shape", "zero_bias", "expected"),
    [
        ((1, 4096, 4096, 128), 1, "decode.m8n64.*g128.sm"),
        ((8, 4096, 4096, 128), 0, "decode.m8n64.*g128.sm"),
        ((16, 4096, 4096, 256), 1, "g128.sm"),
        ((1, 4096, 4096, 64), 1, "decode.m8n32.*g32.sm"),
        ((1, 4096, 4096, -1), 1, "decode.*g128.sm"),
        ((1, 72, 40, 40), 1, "decode.*g128.sm"),
        ((1, 4096, 4096, 8), 1, "gemm_typed.v1"),
        ((1, 4096, 4096, 48), 0, "gemm_typed.v2"),
    ],
)
def test_choose(shape: tuple[int, int, int, int], zero_bias: int, expected: str) -> None:
    name = kernels.choose(CPU, *shape, zero_bias).name
    assert re.search(expected, name), name


@pytest.mark.parametrize("m", [1, 64, 4096])
def test_a_result_in_float32_has_a_build_for_any_rows(m: int) -> None:
    assert kernels.choose(CPU, m, 4096, 4096, 128, 1, wide=True).takes_wide


def test_what_nothing_is_shipped_for() -> None:
    with pytest.raises(fe.AbiError, match="dtype: expected float16 .*found float32"):
        kernels.choose(CPU, 1, 64, 64, 32, 1, "float32")
    with pytest.raises(fe.AbiError, match="zero_bias: expected 1"):
        kernels.choose(CPU, 1, 64, 64, 32, 2)


def test_a_layer_chooses_for_each_m(device: fe.Device) -> None:
    tensors = random_tensors(512, 64, 128, seed=2)
    layer = fe.GptqLinear(tensors, device=device)
    weight = tensors.dequantize().astype(np.float64)
    for m in (1, 8, 9, 16, 70):
        x = np.random.default_rng(m).standard_normal((m, 512)).astype(np.float16)
        y = device.to_host(layer(device.to_device(x)))
        assert relative_error(y, x.astype(np.float64) @ weight) <= 1e-3
    assert layer.artefact(1).name != layer.artefact(70).name


def test_a_kernel_by_name(device: fe.Device) -> None:
    tensors = random_tensors(256, 64, 128, seed=3)
    name = "w4a16_gptq_gemm_decode.m16n32w8.g128.sm_80"
    layer = fe.GptqLinear(tensors, device=device, kernel=name)
    assert layer.artefact(1).name == layer.artefact(100).name == name
    x = device.to_device(np.ones((2, 256), np.float16))
    expected = np.ones((2, 256)) @ tensors.dequantize().astype(np.float64)
    assert relative_error(device.to_host(layer(x)), expected) <= 1e-3
    with pytest.raises(
        fe.AbiError, match="kernel: expected the name of a shipped one, found 'fastest'"
    ):
        fe.GptqLinear(tensors, device=device, kernel="fastest")


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("add_bias.sm_80", r"c \*fp16;"),
        ("w4a16_gptq_gemm_typed.bf16.v1.sm_80", r"a \*bf16, qweight \*i32, scales \*bf16, "),
        ("w4a16_gptq_gemm_act_order.v1.sm_80", r"a \*fp16, .*qzeros \*i32, g_idx \*i32, c "),
    ],
)
def test_a_kernel_of_other_arrays(name: str, takes: str) -> None:
    """A layer says so when it is made, not when it is called."""
    message = rf"kernel: expected one that takes a \*fp16, .*found '{name}', which takes {takes}"
    with pytest.raises(fe.AbiError, match=message):
        fe.GptqLinear(random_tensors(256, 64, 128), device=CPU, kernel=name)


def test_a_kernel_of_the_other_zero_format() -> None:
    layer = fe.GptqLinear(
        random_tensors(256, 64, 128), device=CPU, kernel=kernels.canonical(0).name
    )
    with pytest.raises(fe.AbiError, match="zero_bias: expected .*, found nibble . 1"):
        layer(np.ones((2, 256), np.float16))


def test_arrays_where_a_wide_load_cannot_read(device: fe.Device) -> None:
    """x as part of another array is refused; a layer by the canonical kernel takes it.

    Weights that lie so, as in a file, are copied to where every kernel reads them.
    """
    tensors = random_tensors(256, 64, 128, seed=5)
    x = np.random.default_rng(6).standard_normal((2, 256)).astype(np.float16)
    expected = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    odd = device.to_device(np.concatenate([np.zeros(1, np.float16), x.ravel()]))
    message = "x, the kernel's a: expected an address aligned to 16 .*pass a copy"
    with pytest.raises(fe.AbiError, match=message):
        fe.GptqLinear(tensors, device=device)(odd[1:].reshape(2, 256))
    layer = fe.GptqLinear(tensors, device=device, kernel=kernels.canonical(1).name)
    assert relative_error(device.to_host(layer(odd[1:].reshape(2, 256))), expected) <= 1e-3
    if device.name == "cpu":
        spare = np.zeros(tensors.qweight.size + 1, np.int32)
        shifted = spare[1:].reshape(tensors.qweight.shape)
        shifted[:] = tensors.qweight
        moved = fe.GptqTensors(
            qweight=shifted, qzeros=tensors.qzeros, scales=tensors.scales, group_size=128
        )
        layer = fe.GptqLinear(moved, device=device)
        assert "typed" not in layer.artefact(1).name
        assert relative_error(layer(x), expected) <= 1e-3
