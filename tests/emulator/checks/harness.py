"""Small PTX kernels that do one thing wrong."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ferrum_numba.emulator import Job
from ferrum_numba.emulator.checks import CheckedProgram, Finding, LaunchArray
from tests.emulator.harness import entry

ALL = ("memory", "init", "race", "order")


@lru_cache(maxsize=64)
def compiled(text: str, checks: tuple[str, ...]) -> CheckedProgram:
    return CheckedProgram(text, "k", checks)


def described(name: str, array: np.ndarray, role: str = "") -> LaunchArray:
    reach = sum((n - 1) * step for n, step in zip(array.shape, array.strides, strict=True))
    return LaunchArray(
        name,
        array.ctypes.data,
        reach + array.itemsize,
        array.itemsize,
        role,
        True,
        array.shape,
        array.strides,
    )


def check(
    body: str,
    *arrays: LaunchArray,
    checks: tuple[str, ...] = ALL,
    grid: int = 1,
    block: int = 64,
    shared_bytes: int = 1024,
    threads: int = 1,
) -> list[Finding]:
    """Run a body as the entry `k`, whose pointers are the arrays in order."""
    addresses = np.array([a.address for a in arrays], np.uint64)
    job = Job(
        grid=(grid, 1, 1),
        block=(block, 1, 1),
        shared_bytes=shared_bytes,
        parameter_block=addresses.tobytes(),
        threads=threads,
    )
    return compiled(entry(len(arrays), body), checks).run(job, arrays)


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]
