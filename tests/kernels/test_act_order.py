"""GEMMs for layers in activation order: any g_idx, at the edges of their tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.gptq.zeros import ZeroFormat
from tests.campaigns.layers import random_tensors
from tests.conftest import FIXTURES
from tests.kernels.guarded import GUARD, guarded, relative_error
from tests.kernels.test_artefacts import TOLERANCE, dtype_of

CPU = fe.open_device("cpu")
TUNED = [build.name for build in kernels.builds(kernel="w4a16_gptq_gemm_act_order_mma")]
ON_CPU = ["m8n32w8.cap256", "m16n32w8.cap1024", "m64n32w4.cap256.sym"]  # bfloat16: test_linear
# M, K, N, group size, how the rows name their groups.
CASES = [
    (1, 8, 8, 8, "any"),
    (1, 1032, 40, 128, "permuted"),  # K ends inside a group, and inside a step
    (5, 512, 72, 64, "few"),
    (9, 400, 264, 48, "any"),
    (17, 136, 24, 136, "any"),
    (40, 1320, 136, 32, "sorted"),
    (70, 264, 72, 24, "any"),  # a second block of rows
]


def order(kind: str, k: int, group_size: int, seed: int) -> NDArray[np.int32]:
    """g_idx of each kind; of "few", some groups have no row at all."""
    random = np.random.default_rng(seed)
    groups = -(-k // group_size)
    if kind == "permuted":
        return random.permutation(k).astype(np.int32) // np.int32(group_size)
    g_idx = random.integers(0, groups, k, np.int32)
    if kind == "few":
        g_idx = random.choice(g_idx[: max(1, groups // 3)], k)
    return np.sort(g_idx) if kind == "sorted" else g_idx


def layer_of(name: str, k: int, n: int, group_size: int, kind: str) -> fe.GptqTensors:
    zeros: ZeroFormat = "v1" if k // 8 % 2 else "v2"
    symmetric = bool(kernels.artefact(name).fields["SYMMETRIC"])
    plain = random_tensors(k, n, group_size, zero_format=zeros, seed=k + n, symmetric=symmetric)
    scales = plain.scales.astype(dtype_of(name))
    return replace(plain, scales=scales, g_idx=order(kind, k, group_size, n))


def launch(
    device: fe.Device, name: str, tensors: fe.GptqTensors, a: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """c[M, N] of one launch among NaN, after checking that nothing around it was written."""
    m = len(a)
    poison = np.full((m, tensors.N), np.nan).astype(a.dtype)
    around, c = guarded(device, poison)
    parts = (tensors.qweight, tensors.scales, tensors.qzeros, tensors.g_idx, a)
    qweight, scales, qzeros, g_idx, x = (guarded(device, part)[1] for part in parts)
    sizes = (tensors.K, tensors.N, tensors.group_size, tensors.zero_bias)
    artefact = kernels.artefact(name)
    symmetric = bool(artefact.fields["SYMMETRIC"])
    weight = fe.W4A16Weight(qweight, scales, qzeros, *sizes, symmetric=symmetric)
    kernel = artefact.kernel(device)
    added = None if bias is None else device.to_device(bias)
    kernels.prepare_act_order(kernel, x, weight, g_idx, c, m, bias=added)(None)
    device.synchronize()
    result = device.to_host(around)
    assert np.isnan(result[:GUARD]).all(), "written before c"
    assert np.isnan(result[-GUARD:]).all(), "written past c"
    return result[GUARD:-GUARD].reshape(poison.shape)


@pytest.mark.parametrize("build", ON_CPU)
def test_against_float64(build: str) -> None:
    check_cases(CPU, f"w4a16_gptq_gemm_act_order_mma.{build}.sm_80")


@pytest.mark.gpu
@pytest.mark.parametrize("name", TUNED)
def test_against_float64_on_a_gpu(gpu: fe.Device, name: str) -> None:
    check_cases(gpu, name)


def check_cases(device: fe.Device, name: str) -> None:
    for m, k, n, group_size, kind in CASES:
        tensors = layer_of(name, k, n, group_size, kind)
        random = np.random.default_rng(m)
        a = random.standard_normal((m, k)).astype(dtype_of(name))
        bias = random.standard_normal(n).astype(a.dtype) if m % 2 else None
        expected = a.astype(np.float64) @ tensors.dequantize("float32").astype(np.float64)
        expected += 0 if bias is None else bias.astype(np.float64)
        c = launch(device, name, tensors, a, bias)
        assert relative_error(c, expected) <= TOLERANCE[a.dtype.name], (m, k, n, kind)
        again = launch(device, name, tensors, a, bias)
        np.testing.assert_array_equal(c, again, "another run gives other bits")


@pytest.mark.gpu
@pytest.mark.parametrize("name", TUNED)
def test_long_k(gpu: fe.Device, name: str) -> None:
    """Activations of one sign: sum(a) is large beside the result."""
    tensors = layer_of(name, 14336, 200, 128, "permuted")
    a = np.random.default_rng(1).uniform(0.5, 1.5, (33, 14336)).astype(dtype_of(name))
    expected = a.astype(np.float64) @ tensors.dequantize("float32").astype(np.float64)
    c = launch(gpu, name, tensors, a, None)
    assert relative_error(c, expected) <= TOLERANCE[a.dtype.name]
    np.testing.assert_array_equal(c, launch(gpu, name, tensors, a, None))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zero_bias", [0, 1])
def test_choose(zero_bias: int, dtype: str) -> None:
    bounds = kernels.ACT_ORDER_BOUNDS
    for groups, expected in ((256, "cap256.sm"), (257, "cap1024.sm"), (1025, "gemm_act_order.")):
        assert expected in kernels.choose_act_order(CPU, 1, 64, 8192, groups, zero_bias).name
    for m, bound in zip((1, 9, 1000), bounds, strict=True):
        chosen = kernels.choose_act_order(CPU, m, 4096, 4096, 32, zero_bias, dtype)
        assert "act_order_mma" in chosen.name
        assert chosen == kernels.choose_act_order(CPU, bound, 4096, 4096, 32, zero_bias, dtype)
    with pytest.raises(fe.AbiError, match="dtype: expected float16 .*found float32"):
        kernels.choose_act_order(CPU, 1, 64, 64, 2, 1, "float32")


def test_a_layer_chooses_for_each_m(device: fe.Device) -> None:
    tensors = replace(random_tensors(520, 136, 64), g_idx=order("any", 520, 64, 3))
    weight = tensors.dequantize("float32").astype(np.float64)
    layer = fe.GptqLinear(tensors, device=device)
    for m in (1, 8, 9, 40):
        x = np.random.default_rng(m).standard_normal((m, 520)).astype(np.float16)
        y = device.to_host(layer(device.to_device(x)))
        assert relative_error(y, x.astype(np.float64) @ weight) <= 1e-3
    assert len({layer.artefact(m).name for m in (1, 8, 9, 40)}) == len(kernels.ACT_ORDER_BOUNDS)


def test_a_stated_order_that_is_the_plain_one() -> None:
    tensors = random_tensors(256, 64, 64)
    stated = replace(tensors, g_idx=np.arange(256, dtype=np.int32) // np.int32(64))
    assert fe.GptqLinear(stated).artefact(1) == fe.GptqLinear(tensors).artefact(1)


def test_the_canonical_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and by the environment; what begins at an odd place is copied, and keeps its own."""
    tensors = replace(random_tensors(256, 64, 64), g_idx=order("any", 256, 64, 1))
    name = kernels.act_order(1).name
    assert fe.GptqLinear(tensors, device=CPU, kernel=name).artefact(1).name == name
    spare = np.zeros(tensors.K + 1, np.int32)
    spare[1:] = tensors.g_idx
    assert fe.GptqLinear(replace(tensors, g_idx=spare[1:]), device=CPU).artefact(1).name != name
    monkeypatch.setenv("FERRUM_TRITON_INT4", "1")
    assert fe.GptqLinear(tensors, device=CPU).artefact(1).name == name


def test_symmetric_layers_look_no_zeros_up() -> None:
    for symmetric in (True, False):
        tensors = random_tensors(256, 64, 64, symmetric=symmetric)
        layer = fe.GptqLinear(replace(tensors, g_idx=order("any", 256, 64, 1)), device=CPU)
        assert layer.artefact(1).fields["SYMMETRIC"] == symmetric
    name = kernels.choose_act_order(CPU, 1, 64, 256, 4, 1, symmetric=True).name
    layer = fe.GptqLinear(replace(tensors, g_idx=order("any", 256, 64, 1)), device=CPU, kernel=name)
    with pytest.raises(fe.AbiError, match="qzeros: this kernel takes every zero as 8"):
        layer(np.ones((1, 256), np.float16))


def test_what_does_not_fit() -> None:
    tensors = fe.Checkpoint.open(FIXTURES / "gm_v1_sym_g64_actorder_bias").load(
        "model.layers.0.self_attn.q_proj"
    )
    x = np.ones((2, tensors.K), np.float16)
    layer = fe.GptqLinear(tensors, device=CPU, kernel=kernels.act_order(0).name)
    with pytest.raises(fe.AbiError, match="zero_bias: expected .*, found nibble . 1"):
        layer(x)
    layer = fe.GptqLinear(tensors, device=CPU)
    kernel = kernels.act_order(1).kernel(CPU)
    out = CPU.empty((2, tensors.N), np.float16)
    with pytest.raises(fe.AbiError, match="bias: .* adds none"):
        kernels.prepare_act_order(
            kernel, x, layer.weight, tensors.g_idx, out, 2, bias=np.ones(tensors.N, np.float16)
        )
