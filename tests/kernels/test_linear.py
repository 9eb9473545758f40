"""GptqLinear: real layers, bias, shapes of x, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import ferrum_numba as fe
from tests.campaigns.layers import random_tensors
from tests.conftest import FIXTURES

CHECKPOINTS = sorted(p.parent.name for p in FIXTURES.glob("*/oracle.safetensors"))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_layer_of_real_checkpoints(device: fe.Device, name: str) -> None:
    checkpoint = fe.Checkpoint.open(FIXTURES / name)
    oracle = load_file(FIXTURES / name / "oracle.safetensors")
    modules = json.loads((FIXTURES / name / "manifest.json").read_text())["modules"]
    assert set(modules) <= set(checkpoint.layers)
    compared = 0
    for layer_name in checkpoint.layers:
        tensors = checkpoint.load(layer_name)
        layer = fe.GptqLinear(tensors, device=device)
        x = oracle[f"x_{layer.K}"] if f"x_{layer.K}" in oracle else _x(layer.K)
        y = device.to_host(layer(device.to_device(x))).astype(np.float64)
        weight = tensors.dequantize().astype(np.float64)
        expected = x.astype(np.float64) @ weight
        if tensors.bias is not None:
            expected += tensors.bias.astype(np.float64)
        assert np.linalg.norm(y - expected) <= 1e-3 * np.linalg.norm(expected), layer_name
        if f"{layer_name}.y_f32" in oracle:
            producer = oracle[f"{layer_name}.y_f32"]
            assert np.linalg.norm(y - producer) <= 1e-3 * np.linalg.norm(producer), layer_name
            compared += 1
    assert compared or name.startswith("ag_"), "the AutoGPTQ oracle is bfloat16 only"


def _x(k: int) -> np.ndarray:
    return np.random.default_rng(k).standard_normal((5, k)).astype(np.float16)


def test_load_by_path(device: fe.Device) -> None:
    layer = fe.GptqLinear.load(
        FIXTURES / "gm_v2_sym_g128", "model.layers.0.self_attn.q_proj", device=device
    )
    assert (layer.K, layer.N, layer.group_size) == (256, 384, 128)
    assert layer.weight.zero_bias == 0
    chosen = fe.kernels.choose(device, 1, 384, 256, 128, 0)
    assert f"by {chosen.name}>" in repr(layer)


def test_act_order_has_a_kernel_of_its_own(device: fe.Device) -> None:
    path = FIXTURES / "gm_v1_sym_g64_actorder_bias"
    layer = fe.GptqLinear.load(path, "model.layers.0.self_attn.q_proj", device=device)
    assert "act_order" in repr(layer)
    with pytest.raises(fe.AbiError, match="kernel: .* g_idx .*act_order.*found 'add_bias.sm_80'"):
        fe.GptqLinear.load(
            path, "model.layers.0.self_attn.q_proj", device=device, kernel="add_bias.sm_80"
        )


@pytest.mark.parametrize(
    ("m", "k", "n", "group_size", "zero_format"),
    [
        (1, 64, 8, 16, "v1"),
        (70, 136, 72, 64, "v2"),
        (3, 1000, 136, 40, "v1"),
        (5, 256, 264, -1, "v2"),
    ],
)
def test_any_order_of_rows(
    device: fe.Device, m: int, k: int, n: int, group_size: int, zero_format: Any
) -> None:
    plain = random_tensors(k, n, group_size, zero_format=zero_format, seed=m, bias=True)
    rng = np.random.default_rng(k)
    tensors = replace(plain, g_idx=rng.integers(0, plain.groups, k, dtype=np.int32))
    x = rng.standard_normal((m, k)).astype(np.float16)
    out = device.to_device(np.full((m, n), np.nan, np.float16))
    fe.GptqLinear(tensors, device=device)(device.to_device(x), out=out)
    device.synchronize()
    expected = x.astype(np.float64) @ tensors.dequantize() + tensors.bias.astype(np.float64)
    found = device.to_host(out).astype(np.float64)
    assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)


def test_act_order_is_not_read_by_other_kernels() -> None:
    device = fe.open_device("cpu")
    tensors = fe.Checkpoint.open(FIXTURES / "gm_v1_sym_g64_actorder_bias").load(
        "model.layers.0.self_attn.q_proj"
    )
    kernel = device.load_module(fe.W4A16_PTX).get_kernel()
    with pytest.raises(fe.AbiError, match="g_idx: .*activation order"):
        fe.launch_w4a16_gptq(None, kernel, _x(256), tensors, device.empty((5, 256), np.float16), 5)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 0), (2, 3, 4)])
def test_leading_dimensions(device: fe.Device, lead: tuple[int, ...]) -> None:
    tensors = random_tensors(64, 72, 32, bias=True, seed=1)
    layer = fe.GptqLinear(tensors, device=device)
    x = np.random.default_rng(2).standard_normal((*lead, 64)).astype(np.float16)
    y = device.to_host(layer(device.to_device(x)))
    assert y.shape == (*lead, 72)
    expected = x.astype(np.float64) @ tensors.dequantize() + tensors.bias.astype(np.float64)
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=2e-3, atol=4e-3)


def test_out_is_written_and_returned(device: fe.Device) -> None:
    layer = fe.GptqLinear(random_tensors(64, 72, 32), device=device)
    x = device.to_device(np.ones((2, 64), np.float16))
    out = device.empty((2, 72), np.float16)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(device.to_host(out), device.to_host(layer(x)))


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (np.ones((2, 56), np.float16), None, r"x: expected shape \(..., 64\), found \(2, 56\)"),
        (np.float16(1), None, r"x: expected shape \(..., 64\), found \(\)"),
        ([1.0] * 64, None, "x: expected an array"),
        (np.ones((2, 64), np.float32), None, "x, the kernel's a: expected dtype float16"),
        (np.ones((2, 64), np.float16), (3, 72), r"out: expected shape \(2, 72\)"),
        (np.ones((2, 64), np.float16), (2, 64), r"out: expected shape \(2, 72\)"),
    ],
)
def test_wrong_x_or_out(device: fe.Device, x: Any, out: Any, message: str) -> None:
    layer = fe.GptqLinear(random_tensors(64, 72, 32), device=device)
    out = None if out is None else device.empty(out, np.float16)
    x = device.to_device(x) if isinstance(x, np.ndarray) else x
    with pytest.raises(fe.AbiError, match=message):
        layer(x, out=out)


def test_wrong_tensors_or_device() -> None:
    tensors: Any = random_tensors(64, 72, 32)
    with pytest.raises(fe.DeviceError, match=r"found 'cpu'; pass open_device\('cpu'\)"):
        fe.GptqLinear(tensors, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(fe.AbiError, match="tensors: expected GptqTensors, .* found tuple"):
        fe.GptqLinear((tensors.qweight, tensors.scales))  # type: ignore[arg-type]


def test_bfloat16_scales_that_float16_cannot_hold() -> None:
    good = random_tensors(64, 8, 32)
    for magnitude in (1e6, 1e-12):
        scales = np.full(good.scales.shape, magnitude, ml_dtypes.bfloat16)
        tensors = fe.GptqTensors(
            qweight=good.qweight, qzeros=good.qzeros, scales=scales, group_size=32
        )
        with pytest.raises(
            fe.CheckpointError, match="scales: expected bfloat16 values that float16"
        ):
            fe.GptqLinear(tensors, device=fe.open_device("cpu"))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("m", "k", "n", "group_size"), [(1, 256, 72, 64), (70, 136, 264, 32)])
def test_bfloat16(
    device: fe.Device, m: int, k: int, n: int, group_size: int, act_order: bool
) -> None:
    tensors = random_tensors(k, n, group_size, seed=m, bias=True)
    if act_order:
        order = np.random.default_rng(1).permutation(k).astype(np.int32) // group_size
        tensors = replace(tensors, g_idx=order)
    layer = fe.GptqLinear(tensors, device=device, dtype=ml_dtypes.bfloat16)
    x = np.random.default_rng(k).standard_normal((m, k)).astype(ml_dtypes.bfloat16)
    there = device.to_device(x)
    np.testing.assert_array_equal(device.to_host(there), x)
    y = device.to_host(layer(there))
    assert y.dtype == ml_dtypes.bfloat16
    expected = x.astype(np.float64) @ tensors.dequantize() + tensors.bias.astype(np.float64)
    found = y.astype(np.float64)
    assert np.linalg.norm(found - expected) <= 8e-3 * np.linalg.norm(expected)
    with pytest.raises(fe.AbiError, match="x, the kernel's a: expected dtype bfloat16"):
        layer(device.to_device(x.astype(np.float16)))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(fe.AbiError, match="dtype: expected float16 or bfloat16, found float32"):
        fe.GptqLinear(random_tensors(64, 8, 32), device=fe.open_device("cpu"), dtype=np.float32)


def test_ferrum_triton_int4(monkeypatch: pytest.MonkeyPatch) -> None:
    device = fe.open_device("cpu")
    tensors = random_tensors(64, 8, 32)
    monkeypatch.setenv("FERRUM_TRITON_INT4", "1")
    assert (
        fe.GptqLinear(tensors, device=device).artefact(1).name.startswith("w4a16_gptq_gemm_typed")
    )
    monkeypatch.setenv("FERRUM_TRITON_INT4", "yes")
    with pytest.raises(fe.AbiError, match="FERRUM_TRITON_INT4: expected 1 .* found 'yes'"):
        fe.GptqLinear(tensors, device=device)


def test_tensors_are_a_weight_on_the_cpu() -> None:
    """NumPy arrays are the CPU device's own, so a loaded layer launches as it is."""
    device = fe.open_device("cpu")
    tensors = fe.Checkpoint.open(FIXTURES / "gm_v1_sym_g128").load("model.layers.0.mlp.down_proj")
    x = _x(tensors.K)
    out = device.empty((5, tensors.N), np.float16)
    kernel = device.load_module(fe.W4A16_PTX).get_kernel(fe.fn_name())
    fe.launch_w4a16_gptq(None, kernel, x, tensors, out, 5)
    expected = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    assert np.linalg.norm(out - expected) <= 1e-3 * np.linalg.norm(expected)
    for rows in (0, -1, 2.0, None):
        with pytest.raises(fe.AbiError, match=f"M: expected an integer from 1 on, found {rows}"):
            fe.launch_w4a16_gptq(None, kernel, x, tensors, out, rows)
    borrowed = fe.Checkpoint.open(FIXTURES / "gm_v1_asym_g32_zp0").load(
        "model.layers.0.self_attn.q_proj"
    )
    with pytest.raises(fe.CheckpointError, match="qzeros: v1_gptqmodel words with a zero of 0"):
        fe.launch_w4a16_gptq(None, kernel, x, borrowed, out, 5)
