"""Tensor maps by value: a kernel of Triton's with a host descriptor, on each device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.tensor_map import read_fields
from tests.cli.commands import run_json
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "tensor_map"
ROWS, COLUMNS, BOX = 128, 256, 64
SHARED = 8200


def launch(device: fe.Device, source: Any, made: fe.TensorMap | None = None) -> np.ndarray:
    """The whole tensor, copied box by box."""
    kernel = device.load_module(FOLDER / "copy_box.ptx", FOLDER / "copy_box.json").get_kernel()
    made = made or fe.TensorMap(source, (BOX, BOX), swizzle=128)
    out = device.empty((ROWS, COLUMNS), np.float16)
    config = fe.LaunchConfig((ROWS // BOX, COLUMNS // BOX), 128, SHARED)
    kernel.launch(config, made, ROWS, COLUMNS, COLUMNS, 1, out)
    device.synchronize()
    return np.asarray(device.to_host(out))


def tensor(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float16)


def on_hopper(device: fe.Device) -> fe.Device:
    if getattr(device, "capability", (9, 0)) != (9, 0):
        pytest.skip("its PTX is for sm_90a")
    return device


def test_a_copy(device: fe.Device) -> None:
    on_hopper(device)
    host = tensor(0)
    assert np.array_equal(launch(device, device.to_device(host)), host)


def test_outside_is_zero(device: fe.Device) -> None:
    on_hopper(device)
    host = tensor(1, 100, 200)
    expected = np.zeros((ROWS, COLUMNS), np.float16)
    expected[:100, :200] = host
    assert np.array_equal(launch(device, device.to_device(host)), expected)


def test_maps_in_turn(device: fe.Device) -> None:
    """A launch like the one before takes the new map; each keeps its array alive."""
    on_hopper(device)
    hosts = [tensor(seed) for seed in range(3)]
    maps = [fe.TensorMap(device.to_device(host), (BOX, BOX), swizzle=128) for host in hosts]
    for n in (0, 1, 2, 0, 0):
        assert np.array_equal(launch(device, None, maps[n]), hosts[n])


@pytest.mark.gpu
def test_a_thread_without_a_context(gpu: fe.Device) -> None:
    array = gpu.to_device(tensor(4))
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(fe.TensorMap, array, (BOX, BOX), swizzle=128).result()
    assert made.tobytes() == fe.TensorMap(array, (BOX, BOX), swizzle=128).tobytes()


def test_with_all_checks() -> None:
    checked = fe.open_device("cpu", checks=["memory", "init", "race", "order"])
    host = tensor(2)
    assert np.array_equal(launch(checked, host), host)


def test_its_facts(device: fe.Device) -> None:
    made = fe.TensorMap(device.to_device(tensor(3)), (8, 32), swizzle=64, l2=128)
    assert made.facts == {
        "shape": (ROWS, COLUMNS),
        "strides": (512, 2),
        "box": (8, 32),
        "dtype": "float16",
        "swizzle": 64,
        "fill": "zeros",
        "l2": 128,
        "device": device.name,
    }
    assert len(made.tobytes()) == 128
    assert repr(made) == (
        f"<TensorMap of float16 [{ROWS}, {COLUMNS}] on {device.name}, box [8, 32], swizzle 64>"
    )


def test_its_fields_are_read_back() -> None:
    """Of the CPU device's form; the driver's own is opaque."""
    x = np.zeros((5, 6, 64), np.int32)
    made = fe.TensorMap(x, (2, 3, 8), swizzle=32)
    assert read_fields(made.tobytes()) == {
        "address": x.ctypes.data,
        "shape": [5, 6, 64],
        "strides": [1536, 256],
        "box": [2, 3, 8],
        "dtype": "int32",
        "swizzle": 32,
    }
    assert read_fields(bytes(128)) is None
    assert read_fields(b"short") is None


def test_params_shows_it(tmp_path: Path) -> None:
    """Field by field, of a launch that was recorded."""
    with fe.record(tmp_path / "run.ferrum"):
        launch(fe.open_device("cpu"), tensor(5))
    code, found = run_json("params", tmp_path / "run.ferrum", "--launch", "0")
    assert code == 0, found
    fields = {field["name"]: field for field in found["fields"]}
    shown = fields["copy_box_param_0"]["tensor_map"]
    assert (shown["shape"], shown["box"], shown["swizzle"]) == ([ROWS, COLUMNS], [BOX, BOX], 128)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_dtypes_and_ranks(device: fe.Device, dtype: str, rank: int) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    array = device.to_device(np.zeros((*(3,) * (rank - 1), 64), kind))
    box = (*(2,) * (rank - 1), 16)
    assert len(fe.TensorMap(array, box).tobytes()) == 128


def test_what_no_map_can_describe() -> None:
    x = np.zeros((8, 64), np.float16)
    for array, box, options, message in (
        (x, 64, {}, "box: expected 2 numbers from 1 to 256, one a dimension, found"),
        (x, (8, 300), {}, "box: expected 2 numbers"),
        (x, (8, "4"), {}, "box: expected 2 numbers"),
        (x, (8, 4), {}, "box: expected rows of a multiple of 16 bytes, found 4 x 2 bytes"),
        (x, (8, 64), {"swizzle": 64}, "at most 64 with this swizzle, found 64 x 2 bytes"),
        (x, (8, 64), {"swizzle": 16}, "swizzle: expected None or 32 or 64 or 128, found 16"),
        (x, (8, 64), {"l2": 32}, "l2: expected None or 64 or 128 or 256, found 32"),
        (x, (8, 64), {"fill": "ones"}, "fill: expected 'zeros' or 'nan', found 'ones'"),
        (x, (8, 64), {"fill": "nan"}, "fill: expected 'zeros' on the CPU device"),
        (x[:, :60], (8, 32), {}, None),
        (np.zeros((8, 60), np.float16), (8, 32), {}, "rows without gaps, which begin multiples"),
        (x.T, (8, 8), {}, "rows without gaps"),
        (x.view(np.uint8)[:, 2:98], (8, 32), {}, "array: expected an address that 16 divides"),
        (x.astype(np.complex64), (8, 2), {}, "array: expected a dtype among uint8"),
        (np.zeros((2,) * 5 + (16,), np.float16), (1,) * 5 + (16,), {}, "1 to 5 dimensions"),
        (np.zeros((0, 16), np.float16), (1, 16), {}, "none of them empty"),
        ("x", (8, 8), {}, "array: expected a NumPy array"),
    ):
        if message is None:
            fe.TensorMap(array, box, **options)
            continue
        with pytest.raises(fe.AbiError, match=message):
            fe.TensorMap(array, box, **options)


@pytest.mark.gpu
def test_a_map_of_another_device(gpu: fe.Device) -> None:
    host = tensor(4)
    with pytest.raises(fe.AbiError, match="expected an array on cuda:0, found a NumPy array"):
        launch(on_hopper(gpu), None, fe.TensorMap(host, (BOX, BOX), swizzle=128))
    cpu = fe.open_device("cpu")
    with pytest.raises(fe.AbiError, match="a NumPy array on the CPU device, found a GPU array"):
        launch(cpu, None, fe.TensorMap(gpu.to_device(host), (BOX, BOX), swizzle=128))
