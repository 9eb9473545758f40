"""Kernels that are not ours: any PTX entry, with scratch, shared memory and no sidecar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from tests.ptx import IOTA, SCRATCH, SHARED, ptx


def test_by_position_without_a_sidecar(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    out = device.to_device(np.full(300, -1, np.int32))
    kernel.launch(fe.LaunchConfig(3, 96), out, 250)
    device.synchronize()
    host = device.to_host(out)
    np.testing.assert_array_equal(host[:250], np.arange(250))
    assert (host[250:] == -1).all()


def test_pointers_and_integers_are_not_mixed_up(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    out = device.empty(8, np.int32)
    config = fe.LaunchConfig(1, 32)
    with pytest.raises(fe.AbiError, match="k: missing n"):
        kernel.launch(config, out)
    with pytest.raises(fe.AbiError, match="out: expected (an array|a NumPy array)"):
        kernel.launch(config, 12345, 8)
    with pytest.raises(fe.AbiError, match="n: expected an integer"):
        kernel.launch(config, out, out)
    with pytest.raises(fe.AbiError, match="n: expected 0 to 4294967295"):
        kernel.launch(config, out, -1)
    with pytest.raises(fe.AbiError, match="out: expected a C-contiguous array"):
        kernel.launch(config, device.empty((8, 8), np.int32)[:, ::2], 8)


def test_scratch_is_allocated_as_the_sidecar_demands(device: fe.Device) -> None:
    sidecar = {"num_warps": 1, "shared": 0, "global_scratch_size": 64,
               "global_scratch_align": 512, "profile_scratch_size": 0}  # fmt: skip
    kernel = device.load_module(SCRATCH, sidecar).get_kernel("k")
    assert [p.name for p in kernel.signature.arguments] == ["out"]
    out = device.to_device(np.zeros(4, np.uint64))
    kernel.launch(fe.LaunchConfig(4, 32), out)
    device.synchronize()
    addresses = device.to_host(out)
    assert addresses[0] != 0
    assert (addresses % 512 == 0).all()
    assert (addresses == addresses[0]).all()


def test_scratch_of_size_zero_is_null(device: fe.Device) -> None:
    kernel = device.load_module(
        SCRATCH.replace("st.global.u64 [%rd6+56], %rd5;", ""),
        {"global_scratch_size": 0, "profile_scratch_size": 0},
    ).get_kernel()
    out = device.to_device(np.ones(1, np.uint64))
    kernel.launch(fe.LaunchConfig(1, 32), out)
    device.synchronize()
    assert device.to_host(out)[0] == 0


@pytest.mark.parametrize("nbytes", [128, 48 * 1024, 100_000, 160 * 1024])
def test_dynamic_shared_memory(device: fe.Device, nbytes: int) -> None:
    kernel = device.load_module(SHARED).get_kernel()
    out = device.to_device(np.zeros(32, np.uint32))
    kernel.launch(fe.LaunchConfig(1, 32, nbytes), out, nbytes - 128)
    device.synchronize()
    np.testing.assert_array_equal(device.to_host(out), np.arange(32) + nbytes - 128)


def test_more_shared_memory_than_there_is(device: fe.Device) -> None:
    kernel = device.load_module(SHARED).get_kernel()
    with pytest.raises(fe.DeviceError, match="shared_bytes: .*at most.* found 1048576"):
        kernel.launch(fe.LaunchConfig(1, 32, 2**20), device.empty(32, np.uint32), 0)


def test_modules_and_kernels_are_cached(device: fe.Device) -> None:
    module = device.load_module(IOTA)
    assert device.load_module(IOTA) is module
    assert module.get_kernel("k") is module.get_kernel()
    assert device.load_module(IOTA, {"num_warps": 2}) is not module
    assert fe.open_device(device.name) is device


def test_a_module_with_two_entries(device: fe.Device) -> None:
    second = IOTA.replace(".entry k(", ".entry twin(").split("64\n", 1)[1]
    module = device.load_module(IOTA + second)
    assert module.get_kernel("twin").signature.entry == "twin"
    with pytest.raises(fe.AbiError, match="declares k, twin; name one"):
        module.get_kernel()
    with pytest.raises(fe.PtxError, match="'triplet': not in the PTX"):
        module.get_kernel("triplet")


def test_a_sidecar_of_another_build(device: fe.Device) -> None:
    with pytest.raises(fe.AbiError, match="num_warps: the sidecar says 8"):
        device.load_module(SHARED, {"name": "k", "num_warps": 8})
    with pytest.raises(fe.AbiError, match="name: the sidecar says other, the PTX declares k;"):
        device.load_module(SHARED, {"name": "other"})
    with pytest.raises(fe.AbiError, match="ptx_sha256"):
        device.load_module(SHARED, {"name": "k", "ptx_sha256": "0" * 64})


def test_files_that_are_not_there(device: fe.Device, tmp_path: Path) -> None:
    with pytest.raises(fe.PtxError, match="nowhere.ptx: cannot be read"):
        device.load_module(tmp_path / "nowhere.ptx")
    with pytest.raises(fe.AbiError, match="nowhere.json: cannot be read"):
        device.load_module(IOTA, tmp_path / "nowhere.json")
    with pytest.raises(fe.PtxError, match="expected a path or text, found bytes"):
        device.load_module(b"")  # type: ignore[arg-type]


def test_broken_ptx(device: fe.Device) -> None:
    text = ptx([".param .u32 n"], "add.u32 %r1, %r2;\nret;")
    with pytest.raises(fe.PtxError, match=r"add\.u32|line 1[0-9]"):
        device.load_module(text).get_kernel()
