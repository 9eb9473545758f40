"""What the CPU device costs: compile time, and one layer beside NumPy's dequantise + matmul.

    python scripts/bench_cpu.py [--size 4096] [--group-size 128] [--m 1 64] [--threads 1 2]

Prints medians in milliseconds.  NumPy runs in the same process and on one thread, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before NumPy loads its BLAS: the peer gets one thread, as the CPU device does.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

import ferrum_numba as fe  # noqa: E402
from ferrum_numba import kernels  # noqa: E402
from tests.layers import random_tensors  # noqa: E402


def milliseconds(job: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call, after one call to warm up."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def cold_compile() -> float:
    """From PTX text to a kernel that can be launched, nothing cached, in milliseconds."""
    text = kernels.W4A16_PTX + "// not loaded before\n"
    start = time.perf_counter()
    fe.open_device("cpu").load_module(text).get_kernel()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="N and K")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--m", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    result: dict[str, object] = {"cold_compile_ms": cold_compile()}
    tensors = random_tensors(arguments.size, arguments.size, arguments.group_size, symmetric=True)
    rows = []
    for m in arguments.m:
        x = np.random.default_rng(m).standard_normal((m, tensors.K)).astype(np.float16)
        x32 = x.astype(np.float32)
        row: dict[str, object] = {
            "M": m,
            "numpy_ms": milliseconds(
                lambda x32=x32: x32 @ tensors.dequantize().astype(np.float32), arguments.repeats
            ),
        }
        out = np.empty((m, tensors.N), np.float16)
        for threads in arguments.threads:
            layer = fe.GptqLinear(tensors, device=fe.open_device("cpu", threads=threads))
            row[f"cpu_{threads}_threads_ms"] = milliseconds(
                lambda layer=layer, x=x, out=out: layer(x, out=out), arguments.repeats
            )
        rows.append(row)
    result |= {"N": tensors.N, "K": tensors.K, "group_size": tensors.group_size, "rows": rows}
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"cold compile of the canonical kernel: {result['cold_compile_ms']:.0f} ms")
    print(f"N = {tensors.N}, K = {tensors.K}, group_size = {tensors.group_size}; medians in ms")
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
