"""Whole kernels: the canonical one, and builds of its signature by other compiler versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from ferrum_numba.abi import Signature
from ferrum_numba.emulator import Job, Program
from ferrum_numba.emulator.host import Host
from ferrum_numba.emulator.native import Code, Needs, closure
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.translate import Module
from ferrum_numba.errors import LaunchError
from ferrum_numba.kernels import W4A16_PTX
from tests.campaigns.layers import random_tensors

from .harness import PLAIN, entry

ENTRY = "w4a16_gptq_gemm_typed"
DATA = Path(__file__).parent / "data"
GUARD = 4096  # elements on either side of the output


@dataclass(frozen=True)
class Build:
    """A PTX text and how it is launched. ones: the four strides that are 1 are built in.

    path: of the text, or None for the shipped one.
    """

    path: Path | None = None
    warps: int = 4
    shared_bytes: int = 8192
    ones: bool = False

    @property
    def text(self) -> str:
        return self.path.read_text() if self.path else W4A16_PTX


CANONICAL = Build()
# s: software pipeline stages, w: warps; "naive" gathers a weight's word for each of its nibbles.
STRANGERS = [
    Build(DATA / "triton_3.2.0_typed_s1_w4.ptx", 4, 8192),
    Build(DATA / "triton_3.3.1_naive_s3_w8_ones.ptx", 8, 40960, ones=True),
    Build(DATA / "triton_3.4.0_typed_s4_w2_ones.ptx", 2, 14336, ones=True),
    Build(DATA / "triton_3.5.1_typed_s3_w4.ptx", 4, 12288),
    Build(DATA / "triton_3.6.0_naive_s2_w8.ptx", 8, 24576),
    Build(DATA / "triton_3.7.1_typed_s2_w4_ones.ptx", 4, 10240, ones=True),
]


@lru_cache
def program_of(build: Build, host: Host | None = None) -> Program:
    return Program.compile(build.text, ENTRY, host)


def multiply(
    build: Build,
    M: int,
    N: int,
    K: int,
    group_size: int,
    *,
    threads: int = 1,
    host: Host | None = None,
) -> np.ndarray:
    """Run a build on random input and check the result against float64; return it."""
    program = program_of(build, host)
    tensors = random_tensors(K, N, group_size, seed=M + N + K)
    a = np.random.default_rng(M).standard_normal((M, K)).astype(np.float16)
    poison = np.uint16(0x7E5A)
    memory = np.full(M * N + 2 * GUARD, poison)
    c = memory[GUARD:-GUARD].view(np.float16).reshape(M, N)
    arrays = [a, tensors.qweight, tensors.scales, tensors.qzeros, c]
    units = [] if build.ones else [1]
    values = [x.ctypes.data for x in arrays] + [M, N, K, group_size if group_size > 0 else K]
    values += [K, *units, N, *units, N, *units, N // 8, 1, N, *units]
    values += [0] * (len(program.signature.params) - len(values))  # scratch of newer versions
    block = bytearray(program.signature.nbytes)
    for parameter, value in zip(program.signature.params, values, strict=True):
        end = parameter.offset + parameter.size
        block[parameter.offset : end] = value.to_bytes(parameter.size, "little")
    job = Job(
        grid=(-(-M // 64), -(-N // 64), 1),
        block=(32 * build.warps, 1, 1),
        shared_bytes=build.shared_bytes,
        parameter_block=bytes(block),
        threads=threads,
    )
    program.run(job)
    exact = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    error = np.linalg.norm(c.astype(np.float64) - exact) / np.linalg.norm(exact)
    assert error <= 1e-3, f"relative error {error} of {build.path} at {M, N, K, group_size}"
    assert not (c.view(np.uint16) == poison).any()
    assert (memory[:GUARD] == poison).all()
    assert (memory[-GUARD:] == poison).all()
    return c


SHAPES = [
    (32, 64, 256, 64),
    (10, 2560, 2048, 128),
    (1, 8, 8, 32),
    (7, 72, 40, 32),
    (65, 136, 72, 32),
    (127, 200, 104, -1),
    (64, 64, 4096, 128),
    (200, 64, 96, 64),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_canonical_kernel(shape: tuple[int, int, int, int]) -> None:
    multiply(CANONICAL, *shape)


def test_threads_change_nothing() -> None:
    results = [multiply(CANONICAL, 65, 264, 256, 64, threads=threads) for threads in (1, 2, 5)]
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


@pytest.mark.parametrize("build", STRANGERS, ids=lambda build: build.path.stem)
def test_other_compilers(build: Build) -> None:
    # Some are built for 16-byte alignment of all rows: K, N multiples of 16 and 64.
    for shape in ((32, 64, 256, 64), (65, 192, 80, 32), (1, 64, 208, -1)):
        multiply(build, *shape)


def test_a_cpu_without_extensions() -> None:
    for shape in ((10, 72, 104, 32), (64, 64, 256, 64)):
        multiply(CANONICAL, *shape, host=PLAIN)


@pytest.mark.parametrize(
    ("cpu", "needed"),
    [
        ("haswell", {"avx2", "f16c", "fma"}),
        ("skylake-avx512", {"avx2", "f16c", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    ],
)
def test_other_cpus(cpu: str, needed: set[str]) -> None:
    """AVX2 alone, and AVX-512 without its half arithmetic."""
    if not needed <= {name for name, on in llvm.get_host_cpu_features().items() if on}:
        pytest.skip(f"this machine cannot run code for {cpu}")
    host = Host.of(cpu, dict.fromkeys(sorted(needed), True), Host.this().triple)
    for shape in ((10, 72, 104, 32), (64, 64, 256, 64)):
        multiply(CANONICAL, *shape, host=host)


@pytest.mark.parametrize("features", [{}, {"fullfp16": True}])
def test_arm64_compiles(features: dict[str, bool]) -> None:
    """All that the lowering does differently there; the code is not run."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM has no such target")
    text = entry(
        1,
        """ld.global.v4.b32 {%t1, %t2, %t3, %t4}, [%q0]; ld.shared.b16 %h1, [%t0];
        ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%t5, %t6, %t7, %t8}, [%t0];
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
            {%t9, %t10, %t11, %t12}, {%t5, %t6, %t7, %t8}, {%t1, %t2}, {%t9, %t10, %t11, %t12};
        cvt.rn.f16.f32 %h2, %t9; fma.rn.f16x2 %t1, %t1, %t2, %t3; add.f16 %h1, %h1, %h2;
        cp.async.ca.shared.global [%t0], [%q0], 8; cp.async.wait_all; bar.sync 0;
        setp.lt.u32 %p1, %t0, 7; @%p1 st.global.b32 [%q0], %t1; @%p1 bra END;
        shfl.sync.bfly.b32 %t2, %t1, 1, 31, -1; st.global.b16 [%q0], %h1;
        END: st.shared.v4.b32 [%t0], {%t9, %t10, %t11, %t12};""",
    )
    host = Host.of("generic", features, "aarch64-unknown-linux-gnu")
    for masked in (False, True):
        module = Module(parse_entry(text, "k"), Signature.from_ptx(text), host, masked)
        functions = list(module.library.used)
        needs = Needs(0, 0, 0, masked, functions)
        code = Code.compile(module.text, needs, host, module.length, checked=False)
        for content in (code.object, *closure(functions, host, cache=None)):
            assert content.startswith(b"\x7fELF")


def test_what_run_refuses() -> None:
    program = program_of(CANONICAL)
    block, parameters = (128, 1, 1), bytes(112)
    job = Job(grid=(1, 1, 1), block=block, shared_bytes=8192, parameter_block=parameters)
    with pytest.raises(LaunchError, match="expected 112 bytes"):
        program.run(replace(job, parameter_block=bytes(96)))
    with pytest.raises(LaunchError, match="1024 threads"):
        program.run(replace(job, block=(2048, 1, 1)))
    with pytest.raises(LaunchError, match="128"):
        program.run(replace(job, block=(64, 1, 1)))


def test_what_a_program_knows() -> None:
    program = program_of(CANONICAL)
    assert program.entry == ENTRY
    assert program.signature.nbytes == 112
