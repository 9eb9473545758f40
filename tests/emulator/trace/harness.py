"""Small PTX kernels, traced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ferrum_numba.emulator import Job
from ferrum_numba.emulator.checks import LaunchArray
from ferrum_numba.emulator.trace import Event, Selection, TracedLaunch, TracedProgram
from ferrum_numba.errors import FerrumError
from tests.emulator.harness import entry


def described(name: str, array: np.ndarray) -> LaunchArray:
    return LaunchArray(
        name,
        array.ctypes.data,
        array.nbytes,
        array.itemsize,
        shape=array.shape,
        strides=array.strides,
    )


def run(
    body: str,
    *arrays: np.ndarray,
    cta: Sequence[int] | None = (0, 0, 0),
    warp: int | None = None,
    lines: Sequence[int] = (),
    registers: Sequence[str] = (),
    limit: int = 10_000,
    grid: int = 1,
    block: int = 32,
    shared_bytes: int = 0,
    threads: int = 1,
    checks: Sequence[str] = (),
    head: str = "",
) -> tuple[TracedLaunch, FerrumError | None]:
    """Run a body as the entry `k` on arrays a0, a1, …; their addresses are in %q0, %q1, …."""
    selection = Selection.of(cta, warp, range(32), lines, registers, limit)
    program = TracedProgram(entry(len(arrays), body, head), "k", selection, checks)
    job = Job(
        grid=(grid, 1, 1),
        block=(block, 1, 1),
        shared_bytes=shared_bytes,
        parameter_block=np.array([a.ctypes.data for a in arrays], np.uint64).tobytes(),
        threads=threads,
    )
    return program.run(job, [described(f"a{i}", array) for i, array in enumerate(arrays)])


def trace(body: str, *arrays: np.ndarray, **options: object) -> TracedLaunch:
    """`run`, where nothing may go wrong."""
    launch, error = run(body, *arrays, **options)  # type: ignore[arg-type]
    assert error is None
    assert not launch.findings
    return launch


def of_opcode(launch: TracedLaunch, opcode: str) -> list[Event]:
    return [event for event in launch if event.opcode == opcode]
