"""Machine code on a GPU: launches say what those of the PTX say on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cuda.compiled import VARIABLE, CompiledCode
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "machine_code"
CONFIG = fe.LaunchConfig(1, 128)
WEIGHTS = np.arange(33, dtype=np.int32)


def sums(device: fe.Device, code: Any) -> np.ndarray:
    kernel = device.load_module(code).get_kernel("sum_up")
    out, q = device.empty(128, np.float32), device.to_device(np.array([1000], np.int32))
    kernel.launch(CONFIG, out, 34, 0.25, -7, WEIGHTS, q)
    device.synchronize()
    return np.asarray(device.to_host(out))


EXPECTED = 34 + 0.25 - 7 + 7 + 1000 + np.arange(128, dtype=np.float32)


def test_the_ptx_on_each_device(device: fe.Device) -> None:
    assert np.array_equal(sums(device, FOLDER / "sum_up.ptx"), EXPECTED)


def here(gpu: Any) -> str:
    return "sum_up_sm80.cubin" if gpu.capability[0] == 8 else "sum_up_sm90a.cubin"


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["path", "text", "bytes", "fatbin", "packed"])
def test_machine_code(gpu: Any, how: str) -> None:
    path = FOLDER / here(gpu)
    given: Any = {"path": path, "text": str(path), "bytes": path.read_bytes()}.get(how)
    if given is None:
        given = FOLDER / ("sum_up_none.fatbin" if how == "fatbin" else "sum_up_speed.fatbin")
    assert np.array_equal(sums(gpu, given), EXPECTED)


@pytest.mark.parametrize("target", ["sm80", "sm90"])
def test_a_folder_of_tritons_cache(device: fe.Device, target: str) -> None:
    """It opens as one thing, wherever its code runs."""
    capability = getattr(device, "capability", (9, 0))
    if capability[0] < int(target[2]):
        pytest.skip("its PTX is for later GPUs")
    kernel = device.load_module(FOLDER / f"triton_{target}").get_kernel()
    x = device.to_device(np.arange(300, dtype=np.float16))
    out = device.empty(300, np.float16)
    kernel.launch(fe.LaunchConfig(2, 128), x, x, out, 0.5, 300)
    device.synchronize()
    assert np.array_equal(device.to_host(out), (np.arange(300) * 1.5).astype(np.float16))


def test_a_folder_whose_parts_disagree(tmp_path: Path) -> None:
    cpu = fe.open_device("cpu")
    for path in (FOLDER / "triton_sm80").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "add_scaled.cubin").write_bytes((FOLDER / "sum_up_sm80.cubin").read_bytes())
    with pytest.raises(fe.AbiError, match="the PTX declares add_scaled, the cubin has .*sum_up"):
        cpu.load_module(tmp_path)
    (tmp_path / "add_scaled.cubin").write_bytes(
        (FOLDER / "triton_sm90" / "add_scaled.cubin").read_bytes()
    )
    with pytest.raises(fe.AbiError, match="target: the PTX says sm_80, the cubin sm_90"):
        cpu.load_module(tmp_path)
    (tmp_path / "add_scaled.cubin").unlink()
    assert cpu.load_module(tmp_path).get_kernel().signature.entry == "add_scaled"
    (tmp_path / "add_scaled.json").unlink()
    with pytest.raises(fe.AbiError, match="a folder of Triton's cache"):
        cpu.load_module(tmp_path)


@pytest.mark.gpu
def test_bits_of_a_number(gpu: Any) -> None:
    """A cubin has no types: a number that is no integer is a float of the parameter's size."""
    kernel = gpu.load_module(FOLDER / here(gpu)).get_kernel("scale")
    x = gpu.to_device(np.arange(256, dtype=np.float32))
    out = gpu.empty(256, np.float32)
    kernel.launch(fe.LaunchConfig(2, 128), out, x, 0.5, 256)
    gpu.synchronize()
    assert np.array_equal(gpu.to_host(out), np.arange(256) / 2)


@pytest.mark.gpu
def test_of_another_gpu(gpu: Any) -> None:
    other = "sum_up_sm100.cubin" if gpu.capability[0] != 10 else "sum_up_sm80.cubin"
    target = "sm_" + other[9:-6]
    with pytest.raises(
        fe.DeviceError, match=f"cubin: expected machine code for sm_.*, found for {target}"
    ):
        gpu.load_module(FOLDER / other)
    cut = (FOLDER / here(gpu)).read_bytes()
    damaged = cut.replace(b"sum_up", b"sum_pu")  # a table that names nothing
    with pytest.raises(fe.FerrumError):
        gpu.load_module(damaged).get_kernel("sum_up")


@pytest.mark.gpu
def test_code_that_is_carried_along(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded in place of the PTX; what is damaged is said, and the PTX compiled."""
    text = (FOLDER / "sum_up.ptx").read_text()
    carried = CompiledCode(tmp_path, gpu.capability, gpu.cuda_version)
    monkeypatch.setattr(gpu, "compiled", carried)
    path = carried.store(text, gpu.compile(text))
    assert path.read_bytes()[:4] == b"\x7fELF"
    compiled = []
    monkeypatch.setattr(
        "ferrum_numba.devices.cuda.modules.compile_ptx", lambda text: compiled.append(text)
    )
    assert np.array_equal(sums(gpu, text), EXPECTED)
    other = text + "\n// another digest\n"
    carried.path(other).write_bytes(b"\x7fELF and then nothing")
    with pytest.warns(UserWarning, match="the PTX is compiled instead"):
        assert np.array_equal(sums(gpu, other), EXPECTED)


def test_the_folder_of_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert CompiledCode.named((9, 0), (13, 0)) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    found = CompiledCode.named((9, 0), (13, 0))
    assert found is not None
    assert found.find("text") is None
    path = found.store("text", b"a cubin")
    assert path.name.endswith(".sm_90.cuda13.0.cubin")
    assert found.find("text") == b"a cubin"
    assert found.find("another text") is None
    later = CompiledCode.named((9, 0), (13, 1))
    assert later is not None
    assert later.find("text") is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(fe.DeviceError, match="FERRUM_COMPILED: expected a folder"):
        CompiledCode.named((9, 0), (13, 0))
