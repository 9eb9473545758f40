"""ptxas, and how many CTAs an SM holds."""

from __future__ import annotations

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import Signature
from ferrum_numba.devices.assembler import assemble, find_assemblers
from ferrum_numba.devices.resources import Resources
from ferrum_numba.errors import DeviceError
from ferrum_numba.machine_code import Cubin
from ferrum_numba.report.builds.occupancy import find_sm, resident_ctas
from ferrum_numba.report.builds.ptxas_log import assembled_resources, read_log
from tests.corpus import corpus_text

LOG = """ptxas info    : 4 bytes gmem, 16 bytes cmem[3], 16 bytes cmem[4]
ptxas info    : Compiling entry function 'block_sum' for 'sm_80'
ptxas info    : Function properties for block_sum
    48 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes \
smem, 376 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Function properties for curve
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'nothing' for 'sm_80'
ptxas info    : Function properties for nothing
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers, 352 bytes cmem[0]
"""


def test_what_ptxas_writes():
    found = read_log(LOG, "ptxas 13.0")
    assert found == {
        "block_sum": Resources("ptxas 13.0", 24, 1024, 48, 8, 12, 8),
        "nothing": Resources("ptxas 13.0", 4, 0, 0, 0, 0, 0),
    }


def test_without_a_ptxas(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr("ferrum_numba.devices.assembler.find_spec", lambda name: None)
    monkeypatch.setattr("ferrum_numba.devices.nvidia_packages.files", lambda *patterns: iter(()))
    with pytest.raises(DeviceError, match=r"ptxas: expected one on PATH, in .* triton, found none"):
        assemble(fe.W4A16_PTX, "sm_80")


@pytest.mark.skipif(not list(find_assemblers()), reason="no ptxas here")
def test_the_ptxas_that_is_installed():
    found = assembled_resources(
        corpus_text("cuda.nvcc-13.0.sm_80").replace(".version 9.0", ".version 8.0"), "sm_80"
    )
    assert set(found) == {"_Z4axpyIdEvPT_PKS0_S0_4Pairi", "block_sum", "nothing"}
    assert found["block_sum"].shared_bytes == 1024
    assert found["block_sum"].registers > 8
    with pytest.raises(DeviceError, match=r"ptxas [\d.]+ refuses it: line 5"):
        assemble(
            corpus_text("reverse.llvm-14.sm_70").replace(".version 7.0", ".version 99.0"), "sm_80"
        )
    with pytest.raises(DeviceError, match=r"ptxas [\d.]+, whose code the driver does not take"):
        assemble(fe.W4A16_PTX, "sm_80", newest=(11, 0))


@pytest.mark.skipif(not list(find_assemblers()), reason="no ptxas here")
def test_machine_code():
    found = assemble(fe.W4A16_PTX, "sm_80", newest=(99, 0))
    assert list(Cubin(found.cubin).entries) == list(Signature.entries(fe.W4A16_PTX))


@pytest.mark.parametrize(
    ("target", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 128, 144, 8192, 3),  # registers: 144 * 32 = 4608 of a quarter's 16384
        ("sm_80", 1024, 32, 0, 2),  # warps
        ("sm_80", 32, 16, 0, 32),  # CTAs
        ("sm_80", 128, 16, 82 << 10, 1),  # shared memory: 1 KiB more is reserved
        ("sm_90a", 128, 16, 112 << 10, 2),
        ("sm_90a", 128, 16, 114 << 10, 1),
        ("sm_90a", 1024, 128, 0, 0),  # not even one
        ("sm_89", 256, 40, 0, 6),
        ("sm_75", 256, 64, 0, 4),
        ("sm_80", 1, 1, 0, 32),
    ],
)
def test_resident_ctas(target, threads, registers, shared, expected):
    assert resident_ctas(find_sm(target), threads, registers, shared) == expected


def test_an_sm_that_is_not_known():
    assert find_sm("sm_60") is None
    assert find_sm("compute_80") is None


@pytest.mark.gpu
def test_the_driver_is_the_second_opinion(gpu):
    sm = find_sm("sm_{}{}".format(*gpu.capability))
    for name in kernels.names()[::20]:
        kernel = kernels.artefact(name).kernel(gpu)
        own = kernel.attributes
        for threads in (t for t in (32, 96, 128, 256) if t <= own.max_threads):
            for shared in (0, 1000, 16384, 70000):
                by_driver = kernel.occupancy(fe.LaunchConfig(1, threads, shared)).ctas_per_sm
                taken = own.shared_bytes + shared
                assert by_driver == resident_ctas(sm, threads, own.registers, taken), name
