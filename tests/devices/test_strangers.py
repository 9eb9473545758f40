"""Kernels that are not ours: any PTX entry, with scratch, shared memory and no sidecar."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16

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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_pipes_are_no_files(device: fe.Device, tmp_path: Path) -> None:
    """Nobody writes to them, so whoever reads would wait for ever."""
    pipe = tmp_path / "a.ptx"
    os.mkfifo(pipe)
    with pytest.raises(fe.PtxError, match="expected a regular file, found a device or pipe"):
        device.load_module(pipe)
    with pytest.raises(fe.AbiError, match="expected a regular file, found a device or pipe"):
        device.load_module(IOTA, pipe)


def test_pointers_and_integers_are_not_mixed_up(device: fe.Device) -> None:
    kernel = device.load_module(IOTA).get_kernel()
    out = device.empty(8, np.int32)
    config = fe.LaunchConfig(1, 32)
    with pytest.raises(fe.AbiError, match="k: .*none for n"):
        kernel.launch(config, out)
    with pytest.raises(fe.AbiError, match="out: expected (an array|a NumPy array)"):
        kernel.launch(config, 12345, 8)
    with pytest.raises(fe.AbiError, match="n: expected an integer"):
        kernel.launch(config, out, out)
    with pytest.raises(fe.AbiError, match="n: expected -2147483648 to 4294967295"):
        kernel.launch(config, out, 2**32)
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
    with pytest.raises(fe.AbiError, match="expected one of k, twin, which the PTX declares"):
        module.get_kernel()
    with pytest.raises(fe.PtxError, match="entry: .*, found 'triplet'"):
        module.get_kernel("triplet")


def test_a_sidecar_of_another_build(device: fe.Device) -> None:
    with pytest.raises(fe.AbiError, match="num_warps: expected .*, found 8"):
        device.load_module(SHARED, {"name": "k", "num_warps": 8})
    with pytest.raises(
        fe.AbiError, match="name: expected one of the PTX's k, found other in the sidecar;"
    ):
        device.load_module(SHARED, {"name": "other"})
    with pytest.raises(fe.AbiError, match="ptx_sha256"):
        device.load_module(SHARED, {"name": "k", "ptx_sha256": "0" * 64})


def test_files_that_are_not_there(device: fe.Device, tmp_path: Path) -> None:
    with pytest.raises(fe.PtxError, match="nowhere.ptx: cannot be read"):
        device.load_module(tmp_path / "nowhere.ptx")
    with pytest.raises(fe.AbiError, match="nowhere.json: cannot be read"):
        device.load_module(IOTA, tmp_path / "nowhere.json")
    with pytest.raises(fe.PtxError, match="code: expected a cubin or a fatbin, found bytes"):
        device.load_module(b"")  # type: ignore[arg-type]


SCALARS = Path(__file__).parents[1] / "emulator" / "data" / "kernels" / "scalars.sm_80.ptx"


def test_scalars_as_a_launcher_is_given_them(device: fe.Device) -> None:
    """Triton's own JSON states no types: halves are two bytes, integers have no sign."""
    kernel = device.load_module(SCALARS, {"num_warps": 4, "shared": 0}).get_kernel()
    values = [np.float16(1.5), bfloat16(2), 0.25, 0.125, True, -3, 200, -300, -5]
    config = fe.LaunchConfig(1, 128)
    for half, flag in ((np.float16(1.5), True), (np.float16(-0.5), np.False_)):
        out = device.to_device(np.zeros(9))
        values[0], values[4] = half, flag
        kernel.launch(config, out, *values, None, None)
        device.synchronize()
        assert device.to_host(out).tolist() == [float(v) for v in values]
    # The instructions say which half each is, so any number will do.
    kernel.launch(config, out, 1.5, np.float16(-3), *values[2:], None, None)
    device.synchronize()
    assert device.to_host(out)[:2].tolist() == [1.5, -3]
    with pytest.raises(fe.AbiError, match="param_8: expected -32768 to 65535"):
        kernel.launch(config, out, *values[:7], -40000, -5, None, None)


class Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int32), ("b", ctypes.c_float))


# out[0] = the first word, out[1] = the second one, of a structure.
PAIR = ptx(
    [".param .u64 out", ".param .align 4 .b8 pair[8]"],
    """
    ld.param.u64 %rd1, [out];
    ld.param.b32 %r1, [pair];
    ld.param.b32 %r2, [pair+4];
    st.global.b32 [%rd1], %r1;
    st.global.b32 [%rd1+4], %r2;
    ret;
    """,
    tail=".reqntid 1",
)


def test_a_structure_is_anything_with_its_bytes(device: fe.Device) -> None:
    kernel, out = device.load_module(PAIR).get_kernel(), device.empty(2, np.int32)
    record = np.zeros((), "i4,f4")[()]
    words = np.zeros(2, np.int32)
    pair = Pair(7, 1.0)
    for number in (-1, 7):  # the same objects, changed in place: their bytes are read each time
        record["f0"], record["f1"], words[:], pair.a = number, 1.0, (number, 0x3F800000), number
        for value in (record, pair, words, bytes(pair), bytearray(pair), memoryview(pair)):
            kernel.launch(fe.LaunchConfig(1, 1), out, value)
            device.synchronize()
            assert device.to_host(out).tolist() == [number, 0x3F800000]
    prepared = kernel.prepare(fe.LaunchConfig(1, 1), out=out, pair=words)
    for words[0] in (3, 4):
        prepared.update(out=out, pair=words)(None)
        prepared.launch(out=out, pair=words)
        device.synchronize()
        assert device.to_host(out)[0] == words[0]
    with pytest.raises(fe.AbiError, match="pair: expected 8 bytes, found 4; pass bytes"):
        kernel.launch(fe.LaunchConfig(1, 1), out, np.float32(1))
    with pytest.raises(fe.AbiError, match=r"pair: expected 8 bytes .* found 5 \(int\); pass bytes"):
        kernel.launch(fe.LaunchConfig(1, 1), out, 5)


def test_broken_ptx(device: fe.Device) -> None:
    text = ptx([".param .u32 n"], "add.u32 %r1, %r2;\nret;")
    with pytest.raises(fe.PtxError, match=r"add\.u32|line 1[0-9]"):
        device.load_module(text).get_kernel()
