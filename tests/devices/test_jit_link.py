"""nvJitLink: found by its version, and compiling what the driver would."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import ptx_digest
from ferrum_numba.devices.cuda import jit_link
from ferrum_numba.devices.cuda.jit_link import JitLink
from ferrum_numba.machine_code import Cubin
from tests.conftest import FIXTURES
from tests.devices.test_machine_code import EXPECTED, sums

PTX = (FIXTURES / "machine_code" / "sum_up.ptx").read_text()


def installed() -> JitLink:
    for major in (13, 12):
        for name in jit_link._names(major):
            try:
                return JitLink(ctypes.CDLL(name))
            except (OSError, AttributeError):
                continue
    pytest.skip("nvJitLink is not installed")


def test_what_it_makes() -> None:
    linker = installed()
    assert jit_link.find(linker.version) is not None
    found = Cubin(linker.compile(PTX, "sm_90"))
    assert found.target.startswith("sm_90")
    assert set(found.entries) == {"sum_up", "scale"}
    with pytest.raises(fe.PtxError, match="nvJitLink refused it"):
        linker.compile(PTX.replace("st.global.f32", "st.nowhere.f32"), "sm_90")


def test_another_version() -> None:
    assert jit_link.find((1, 0)) is None


@pytest.mark.gpu
def test_code_that_is_compiled_ahead(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes it; and without the library the driver compiles."""
    text = PTX + f"// of this test, {id(monkeypatch)}\n"
    gpu.compile_ahead(text)
    if jit_link.find(gpu.cuda_version) is not None and gpu.compiled is None:
        assert ptx_digest(text) in gpu.ahead
    assert sums(gpu, text).tolist() == EXPECTED.tolist()
    assert ptx_digest(text) not in gpu.ahead
    monkeypatch.setattr(jit_link, "find", lambda version: None)
    gpu.compile_ahead(text + "//")
    assert sums(gpu, text + "//").tolist() == EXPECTED.tolist()


@pytest.mark.gpu
def test_the_driver_compiles_what_sets_its_registers(gpu: Any) -> None:
    text = PTX + f"// setmaxnreg, {id(gpu)}\n"
    gpu.compile_ahead(text)
    assert ptx_digest(text) not in gpu.ahead


@pytest.mark.gpu
def test_builds_together(gpu: Any) -> None:
    builds = [build for build in kernels.builds(kernel="silu_mul") if build.runs_on(gpu)]
    kernels.load_together(builds, gpu)
    assert all(build.kernel(gpu).signature.entry == "silu_mul" for build in builds)
