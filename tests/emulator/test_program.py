"""Whole kernels: the canonical one, and builds of its signature by other compiler versions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.emulator import Program
from ferrum_numba.emulator.host import Host
from ferrum_numba.errors import LaunchError
from tests.layers import random_tensors

from .harness import PLAIN

ENTRY = "w4a16_gptq_gemm_typed"
SHIPPED = Path(__file__).parents[2] / "ptx"
DATA = Path(__file__).parent / "data"
GUARD = 4096  # elements on either side of the output


@dataclass(frozen=True)
class Build:
    """A PTX file and how it is launched. ones: the four strides that are 1 are built in."""

    path: Path
    warps: int = 4
    shared_bytes: int = 8192
    ones: bool = False


CANONICAL = Build(SHIPPED / "w4a16_gptq_gemm_typed.v1.sm_80.ptx")
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
    return Program.compile(build.path.read_text(), ENTRY, host)


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
    program.run(
        grid=(-(-M // 64), -(-N // 64), 1),
        block=(32 * build.warps, 1, 1),
        shared_bytes=build.shared_bytes,
        parameter_block=bytes(block),
        threads=threads,
    )
    exact = a.astype(np.float64) @ tensors.dequantize().astype(np.float64)
    error = np.linalg.norm(c.astype(np.float64) - exact) / np.linalg.norm(exact)
    assert error <= 1e-3, f"relative error {error} of {build.path.name} at {M, N, K, group_size}"
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


@pytest.mark.parametrize("cpu", ["haswell", "skylake-avx512"])
def test_other_cpus_compile(cpu: str) -> None:
    """Code for CPUs that this machine may not be; it is not run."""
    features = {"avx2": True, "f16c": True, "fma": True}
    program_of(CANONICAL, Host.of(cpu, features, "x86_64"))


def test_what_run_refuses() -> None:
    program = program_of(CANONICAL)
    arguments = {"grid": (1, 1, 1), "block": (128, 1, 1), "shared_bytes": 8192}
    with pytest.raises(LaunchError, match="expected 112 bytes"):
        program.run(**arguments, parameter_block=bytes(96))
    with pytest.raises(LaunchError, match="1024 threads"):
        program.run(**{**arguments, "block": (2048, 1, 1)}, parameter_block=bytes(112))
    with pytest.raises(LaunchError, match="128"):
        program.run(**{**arguments, "block": (64, 1, 1)}, parameter_block=bytes(112))


def test_what_a_program_knows() -> None:
    program = program_of(CANONICAL)
    assert program.entry == ENTRY
    assert program.signature.nbytes == 112
    assert program.compile_seconds > 0
