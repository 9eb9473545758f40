"""Launches with arrays that lie elsewhere each time, and are otherwise alike."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda import arrays
from tests.devices import canonical
from tests.devices.emulated_gpu import EVERYWHERE, EmulatedGpu, open_anywhere
from tests.devices.foreign import on_gpu, to_numpy

M, N, K = canonical.M, canonical.N, canonical.K


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


def inputs(device: fe.Device, count: int) -> tuple[list[Any], list[np.ndarray]]:
    """Different x on the device, and the results that belong to them."""
    rolled = [np.roll(canonical.A, n, axis=0) for n in range(count)]
    return [device.to_device(a) for a in rolled], [
        np.roll(canonical.EXPECTED, n, axis=0) for n in range(count)
    ]


def check(device: fe.Device, found: Any, expected: np.ndarray) -> None:
    device.synchronize()
    found = device.to_host(found).astype(np.float64)
    assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)


def test_a_layer(device: fe.Device) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=device)
    xs, expected = inputs(device, 4)
    outs = [device.empty((M, N), np.float16) for _ in range(3)]
    for n in range(24):
        check(device, layer(xs[n % 4], out=outs[n % 3]), expected[n % 4])
        check(device, layer(xs[n % 4]), expected[n % 4])


def test_kernel_launch(device: fe.Device) -> None:
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    xs, expected = inputs(device, 3)
    for n in range(9):
        out = device.empty((M, N), np.float16)
        kernel.launch(canonical.CONFIG, **arguments | {"a": xs[n % 3], "c": out})
        check(device, out, expected[n % 3])


def test_updates(device: fe.Device) -> None:
    """They hold the new arrays, and let go of those before."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call = kernel.prepare(canonical.CONFIG, **arguments)
    xs, expected = inputs(device, 4)
    for n in (0, 1, 2, 3, 0):
        call.update(a=xs[n], M=M)
        call()
        check(device, arguments["c"], expected[n])
        assert call.invocation.arguments["a"] is xs[n]
        assert call.invocation.bound.arrays["a"] == device.describe("a", xs[n])
    alive = weakref.ref(xs[3])
    del xs
    call.update(a=arguments["a"])
    device.synchronize()
    gc.collect()
    assert alive() is None


def test_what_is_said_of_a_launch(device: fe.Device) -> None:
    """Its invocation, and a plan made of it, have the array that it was given last."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call, (xs, expected) = kernel.prepare(canonical.CONFIG, **arguments), inputs(device, 3)
    for x in xs:
        call.launch(a=x)
    assert call.invocation.bound.arrays["a"] == device.describe("a", xs[2])
    assert call.invocation.bound.values["a"] == device.describe("a", xs[2]).address
    with device.record_plan() as plan:
        call.launch(a=xs[1])
    call.launch(a=xs[2])
    plan()
    check(device, arguments["c"], expected[1])


def test_an_update_between_launches(device: fe.Device) -> None:
    """The array that launches were given before lies where it was updated to."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call, (xs, expected) = kernel.prepare(canonical.CONFIG, **arguments), inputs(device, 4)
    outs = [device.empty((M, N), np.float16) for _ in range(3)]
    call.update(c=outs[0])
    for n in (0, 1, 2):
        call.launch(a=xs[n])
    call.update(a=xs[3])
    for out in outs[1:]:
        call.update(c=out)
        call()
        check(device, out, expected[3])
        bound = call.invocation.bound
        assert bound.arrays["a"] == device.describe("a", xs[3])
        assert bound.arrays["c"] == device.describe("c", out)
    whole = device.empty(M * K + M * N, np.float16)
    call.update(a=whole[: M * K].reshape(M, K))
    with pytest.raises(fe.AbiError, match="c: shares memory with a"):
        call.update(c=whole[M * K - 8 : M * K - 8 + M * N].reshape(M, N))
    for n in (1, 0, 1):
        call.launch(a=xs[n])
        check(device, outs[2], expected[n])


def test_a_borrowed_array_that_is_left_out(device: fe.Device) -> None:
    """Nobody knows whether it is still there."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call, (xs, expected) = kernel.prepare(canonical.CONFIG, **arguments), inputs(device, 3)
    for x in xs[:2]:
        call.launch(a=x)
    for changes in ({}, {"c": arguments["c"]}, {"M": M}):
        with pytest.raises(fe.LaunchError, match="a.*: given to `launch` for one launch only"):
            call.launch(**changes)
    call.launch(a=xs[2], c=arguments["c"])
    check(device, arguments["c"], expected[2])
    call.update(a=xs[1])
    call.launch(c=arguments["c"])
    check(device, arguments["c"], expected[1])


@pytest.mark.parametrize("how", ["launch", "update", "kernel"])
def test_what_is_checked(device: fe.Device, how: str) -> None:
    """No less than at first; and what is refused changes nothing."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call, (xs, expected) = kernel.prepare(canonical.CONFIG, **arguments), inputs(device, 3)

    def give(**changes: Any) -> None:
        if how == "launch":
            call.launch(**changes)
        elif how == "update":
            call.update(**changes)()
        else:
            kernel.launch(canonical.CONFIG, **arguments | changes)

    whole = device.empty(2 * M * K + 2, np.uint8)
    misaligned = whole[1 : 2 * M * K + 1].view(np.float16).reshape(M, K)
    wide = device.empty((M, K), np.float32)
    long = device.empty(M * K + M * N, np.float16)
    inside = long[M * K - 8 * N : M * K - 8 * N + M * N].reshape(M, N)
    for x, result in zip(xs, expected, strict=True):
        give(a=x, c=arguments["c"])
        for wrong, message in (
            ({"a": misaligned}, "a: expected an address aligned to"),
            ({"a": wide}, "a: expected dtype float16"),
            ({"a": wide[:, : K // 2]}, "a: expected"),
            ({"a": long[: M * K].reshape(M, K), "c": inside}, "c: shares memory with a"),
            ({"c": xs[0][:, :N]}, "c: "),
        ):
            with pytest.raises(fe.AbiError, match=message):
                give(**wrong)
        give(a=x, c=arguments["c"])
        check(device, arguments["c"], result)


def test_an_output_that_moves_into_an_input(device: fe.Device) -> None:
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call = kernel.prepare(canonical.CONFIG, **arguments)
    both = device.empty(M * K + M * N, np.float16)
    outs = [both[M * K :].reshape(M, N), both[M * K - 8 : M * K + M * N - 8].reshape(M, N)]
    x = both[: M * K].reshape(M, K)
    call.launch(a=x, c=outs[0])
    call.launch(a=x, c=outs[0])
    with pytest.raises(fe.AbiError, match="c: shares memory with a"):
        call.launch(a=x, c=outs[1])
    call.launch(a=x, c=outs[0])


def test_numpy_that_may_not_be_written() -> None:
    cpu = fe.open_device("cpu")
    layer = fe.GptqLinear(canonical.TENSORS, device=cpu)
    outs = [np.empty((M, N), np.float16) for _ in range(2)]
    outs[1].flags.writeable = False
    for _ in range(2):
        layer(canonical.A, out=outs[0])
        with pytest.raises(fe.AbiError, match="out.*expected a writable array"):
            layer(canonical.A, out=outs[1])


def test_memory_that_is_not_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for each address."""
    gpu = open_anywhere("emulated", monkeypatch)
    assert isinstance(gpu, EmulatedGpu)
    layer, (xs, _) = fe.GptqLinear(canonical.TENSORS, device=gpu), inputs(gpu, 3)
    out = gpu.empty((M, N), np.float16)
    addresses = [gpu.describe("x", x).address for x in xs]
    described: list[str] = []
    asked: list[int] = []
    describe = arrays.describe
    layer(xs[0], out=out)
    monkeypatch.setattr(gpu, "holds", lambda address: asked.append(address) or len(asked) < 3)
    monkeypatch.setattr(arrays, "describe", lambda *a: described.append(a[0]) or describe(*a))
    for x in (xs[1], xs[1], xs[2]):
        layer(x, out=out)
    assert (asked, described) == (addresses[1:], [])
    layer(xs[0], out=out)
    assert (asked[2:], described) == (addresses[:1], ["a"]), "it may say why it is none of its own"


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy", "jax"])
def test_arrays_of_other_libraries(gpu: fe.Device, library: str) -> None:
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)
    rolled = [np.roll(canonical.A, n, axis=0) for n in range(4)]
    xs = [on_gpu(library, a) for a in rolled]
    outs = [gpu.empty((M, N), np.float16) for _ in range(2)]
    if library != "jax":  # whose arrays are never written
        outs += [on_gpu(library, np.zeros((M, N), np.float16)) for _ in range(2)]
    for n in range(24):
        out = outs[n % len(outs)]
        layer(xs[n % 4], out=out)
        gpu.synchronize()
        found = to_numpy(out).astype(np.float64)
        expected = np.roll(canonical.EXPECTED, n % 4, axis=0)
        assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.gpu
def test_a_torch_tensor_that_was_freed(gpu: fe.Device) -> None:
    torch = pytest.importorskip("torch")
    layer = fe.GptqLinear(canonical.TENSORS, device=gpu)
    out = gpu.empty((M, N), np.float16)
    xs = [on_gpu("torch", canonical.A) for _ in range(3)]
    for x in xs:
        layer(x, out=out)
    xs[1].untyped_storage().resize_(0)
    with pytest.raises(fe.AbiError, match="was it freed"):
        layer(xs[1], out=out)
    with pytest.raises(fe.AbiError, match="x"):
        layer(xs[0].to(torch.float32), out=out)
    with pytest.raises(fe.AbiError, match="x"):
        layer(xs[0].clone().requires_grad_(), out=out)
    layer(xs[2], out=out)
    canonical.check(gpu, out)


def test_what_kernels_write_stays_on_the_device(device: fe.Device) -> None:
    """The caller's own array is not written, on either device, unless it is shared."""
    mine = np.arange(8, dtype=np.int32)
    there = device.to_device(mine)
    device.write(there, np.zeros(8, np.int32))
    np.testing.assert_array_equal(mine, np.arange(8))
    back = device.to_host(there)
    device.write(there, np.ones(8, np.int32))
    np.testing.assert_array_equal(back, np.zeros(8))


def test_sharing_where_it_is_asked_for() -> None:
    device, mine = fe.open_device("cpu"), np.arange(8, dtype=np.int32)
    shared = device.to_device(mine, copy=False)
    assert np.shares_memory(shared, mine)
    assert np.shares_memory(device.to_host(shared, copy=False), mine)
    turned = np.zeros((3, 4)).T
    assert not np.shares_memory(device.to_device(turned, copy=False), turned)
