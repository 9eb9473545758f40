"""GptqLinear(x, out=...): launches that are prepared once and changed in place."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.campaigns.layers import random_tensors
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere

K, N, G = 256, 136, 64
PLAIN = random_tensors(K, N, G, seed=1)
BIASED = random_tensors(K, N, G, seed=2, bias=True)


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


def x_of(m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, K)).astype(np.float16)


def expected(tensors: fe.GptqTensors, x: np.ndarray) -> np.ndarray:
    y = x.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    return y if tensors.bias is None else y + tensors.bias.astype(np.float64)


def check(device: fe.Device, out: Any, tensors: fe.GptqTensors, x: np.ndarray) -> None:
    device.synchronize()
    wanted = expected(tensors, x)
    found = device.to_host(out).astype(np.float64).reshape(wanted.shape)
    assert np.linalg.norm(found - wanted) <= 2e-3 * np.linalg.norm(wanted)


def blank(device: fe.Device, *shape: int) -> Any:
    return device.to_device(np.full(shape, np.nan, np.float16))


@pytest.mark.parametrize("tensors", [PLAIN, BIASED], ids=["plain", "biased"])
def test_shapes_and_places_that_change(device: fe.Device, tensors: fe.GptqTensors) -> None:
    layer = fe.GptqLinear(tensors, device=device)
    for m in (1, 3, 1, 17, 4, 64, 1):
        x, out = device.to_device(x_of(m, m)), blank(device, m, N)
        for _ in range(2):
            assert layer(x, out=out) is out
        check(device, out, tensors, x_of(m, m))
    x, out = x_of(6), blank(device, 2, 3, N)
    layer(device.to_device(x.reshape(2, 3, K)), out=out)
    check(device, out, tensors, x)


def test_more_numbers_of_rows_than_have_launches_of_their_own(device: fe.Device) -> None:
    layer = fe.GptqLinear(BIASED, device=device)
    for m in [*range(1, 21), 20, 3, 19, 18, 1, 20]:
        out = blank(device, m, N)
        layer(device.to_device(x_of(m, m)), out=out)
        check(device, out, BIASED, x_of(m, m))


def test_what_does_not_fit_is_refused_each_time(device: fe.Device) -> None:
    layer = fe.GptqLinear(PLAIN, device=device)
    x, out = device.to_device(x_of(4)), blank(device, 4, N)
    flat = device.to_device(np.zeros(4 * K + 1, np.float16))
    layer(x, out=out)
    for _ in range(2):
        for bad_x, bad_out, message in (
            (x, blank(device, 4, N + 8), r"out: expected shape \(4, 136\) for x \(4, 256\)"),
            (x.view(np.int16), out, "x, the kernel's a: expected dtype float16"),
            (x, out.view(np.int16), "out, the kernel's c: expected dtype float16"),
            (
                flat[1:].reshape(4, K),
                out,
                "x, the kernel's a: expected an address aligned to 16 bytes",
            ),
            (
                blank(device, 4, 2 * K)[:, ::2],
                out,
                "x, the kernel's a: expected a C-contiguous array",
            ),
            (blank(device, 4, K + 8), out, r"x: expected shape \(..., 256\), found \(4, 264\)"),
            ([1.0], out, r"x: expected an array \(..., 256\), found list"),
        ):
            with pytest.raises(fe.AbiError, match=message):
                layer(bad_x, out=bad_out)
        layer(x, out=out)
        check(device, out, PLAIN, x_of(4))


ORDERED = replace(BIASED, g_idx=np.random.default_rng(3).permutation(K).astype(np.int32) // G)


@pytest.mark.parametrize("tensors", [PLAIN, ORDERED], ids=["plain", "ordered"])
@pytest.mark.parametrize("m", [2, 40])
def test_columns_of_another_array(device: fe.Device, tensors: fe.GptqTensors, m: int) -> None:
    """The canonical kernel reads rows that tuned ones cannot; nothing is copied."""
    layer = fe.GptqLinear(tensors, device=device)
    plain, out = device.to_device(x_of(m, 7)), blank(device, m, N)
    for columns, first in ((2 * K, 0), (K + 8, 8), (K + 8, 4), (K + 3, 1), (2 * K, 0)):
        wide = np.full((m, columns), np.nan, np.float16)
        wide[:, first : first + K] = x_of(m, columns)
        x = device.to_device(wide)[:, first : first + K]
        for _ in range(2):
            out = blank(device, m, N)
            assert layer(x, out=out) is out
            check(device, out, tensors, x_of(m, columns))
            layer(plain, out=out)
            check(device, out, tensors, x_of(m, 7))


def test_columns_of_a_batch(device: fe.Device) -> None:
    layer = fe.GptqLinear(BIASED, device=device)
    wide = x_of(12, 4).reshape(2, 3, 2 * K)
    x, out = device.to_device(wide)[:, :, K:], blank(device, 2, 3, N)
    layer(x, out=out)
    check(device, out, BIASED, np.ascontiguousarray(wide[:, :, K:]).reshape(6, K))
    apart = device.to_device(x_of(12, 4).reshape(2, 6, K))[:, :3]
    with pytest.raises(fe.AbiError, match="x, the kernel's a: expected a C-contiguous.*copy it"):
        layer(apart, out=out)


def test_rows_that_the_wanted_kernel_cannot_read(device: fe.Device) -> None:
    name = fe.GptqLinear(PLAIN, device=device).artefact(2).name
    layer = fe.GptqLinear(PLAIN, device=device, kernel=name)
    x = device.to_device(np.ones((2, K + 4), np.float16))[:, :K]
    with pytest.raises(
        fe.AbiError, match="x: expected rows 16 bytes .*, found rows 520 bytes apart; copy it first"
    ):
        layer(x, out=blank(device, 2, N))


def test_nothing_is_held_for_longer_than_a_launch(device: fe.Device) -> None:
    layer = fe.GptqLinear(BIASED, device=device)
    x, out = device.to_device(x_of(3)), blank(device, 3, N)
    for _ in range(2):
        layer(x, out=out)
    alive = [weakref.ref(x), weakref.ref(out)]
    del x, out
    device.synchronize()
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_many_threads_on_many_streams(device: fe.Device) -> None:
    layer = fe.GptqLinear(BIASED, device=device)

    def run(seed: int) -> None:
        stream = device.create_stream()
        for m in (1, 2 + seed, 1):
            x, out = device.to_device(x_of(m, seed)), blank(device, m, N)
            device.synchronize()
            layer(x, out=out, stream=stream)
            stream.synchronize()
            check(device, out, BIASED, x_of(m, seed))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))


@pytest.mark.parametrize("tensors", [PLAIN, BIASED], ids=["plain", "biased"])
@pytest.mark.parametrize("kernel", [None, kernels.canonical(1).name], ids=["chosen", "canonical"])
def test_calls_are_captured_as_they_are(
    device: fe.Device, tensors: fe.GptqTensors, kernel: str | None
) -> None:
    """A bias is added by the GEMM itself, or by a launch after it."""
    layer = fe.GptqLinear(tensors, device=device, kernel=kernel)
    x, out = device.to_device(x_of(2)), blank(device, 2, N)
    with device.capture() as graph:
        layer(x, out=out, stream=graph.stream)
    with device.record_plan() as plan:
        layer(x, out=out)
    apart = tensors.bias is not None and not kernels.takes_bias(layer.artefact(2).kernel(device))
    assert len(plan) == len(graph) == 1 + apart
    assert np.isnan(device.to_host(out)).all()
    for issue in (graph.launch, plan, graph.launch):
        issue()
        check(device, out, tensors, x_of(2))
    other = device.to_device(x_of(2, 5))
    for recorded, issue in ((plan, plan), (graph, graph.launch)):
        assert recorded.replace(x, other) == 1
        issue()
        check(device, out, tensors, x_of(2, 5))
    layer(x, out=out)
    check(device, out, tensors, x_of(2))


@pytest.mark.gpu
def test_arrays_of_other_libraries(gpu: fe.Device) -> None:
    """Their arrays may lie elsewhere each time, and their streams have to be waited for."""
    torch, cupy = pytest.importorskip("torch"), pytest.importorskip("cupy")
    layer = fe.GptqLinear(PLAIN, device=gpu)
    stream = gpu.create_stream()
    for seed in range(3):
        x = x_of(4, seed)
        tensor = torch.from_numpy(x).cuda()
        torch.cuda.synchronize()
        out = torch.empty(4, N, dtype=torch.float16, device="cuda")
        layer(tensor, out=out, stream=stream)
        stream.synchronize()
        check(gpu, gpu.to_device(out.cpu().numpy()), PLAIN, x)
        with cupy.cuda.Stream(non_blocking=True):
            array = cupy.zeros((4096, 4096)) @ cupy.zeros((4096, 4096))  # keeps it busy
            array = cupy.asarray(x) + array[:4, :K].astype(cupy.float16)
            result = cupy.empty((4, N), cupy.float16)
            layer(array, out=result, stream=stream)
        stream.synchronize()
        check(gpu, gpu.to_device(result.get()), PLAIN, x)
