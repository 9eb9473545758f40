"""Cost of the CPU device: compile time, and one layer beside NumPy's dequantise + matmul.

    python scripts/bench_cpu.py [--size 4096] [--m 1 64] [--threads 1 2]
                                [--checks] [--avx2]

The layer takes the build that is chosen for it, or with FERRUM_TRITON_INT4=1 the canonical one.
Prints the best of turns in milliseconds.  NumPy takes turns with it in the same process, on one
thread: it dequantises to float32 and multiplies.  --avx2: both as if the CPU had no AVX-512.
Triton's own interpreter, where Triton is installed, runs M = 64 at a smaller N and K, and beside it
the CPU device at the same size: at N = K = 4096 it takes more than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before NumPy loads its BLAS: the peer gets one thread, as the CPU device does.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"
if "--avx2" in sys.argv:
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"
    os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL AVX512_SPR"
ROOT = Path(__file__).resolve().parent.parent
import llvmlite.binding as llvm  # noqa: E402
import numpy as np  # noqa: E402

import ferrum_numba as fe  # noqa: E402
from ferrum_numba.emulator import host  # noqa: E402
from ferrum_numba.report.timing import host_seconds  # noqa: E402
from tests.campaigns.layers import random_tensors  # noqa: E402

_TURNS = 15
CHECKS = [("memory",), ("memory", "init", "race"), ("memory", "init", "race", "order")]


def without_avx512() -> None:
    """Make code for this CPU's like without AVX-512 from now on."""
    features = dict(llvm.get_host_cpu_features())
    features |= {name: False for name in features if name.startswith(("avx512", "avx10"))}
    its = host.Host.of(llvm.get_host_cpu_name(), features, llvm.get_process_triple())
    host._this = lambda: its  # type: ignore[assignment]


def best_of_turns(
    jobs: dict[str, Callable[[], object]], clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds that each job takes at best, by turns."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(_TURNS):
        for name, job in jobs.items():
            start = clock()
            job()
            best[name] = min(best[name], clock() - start)
    return best


def check_costs(tensors: fe.GptqTensors, x: np.ndarray) -> dict[str, float]:
    """Factor by which a layer takes longer with checks, on one thread, in CPU time.

    The runs take turns, and the best of each counts: other work on the machine slows all alike.
    """
    devices = {"unchecked": fe.open_device("cpu", threads=1)}
    devices |= {"+".join(c): fe.open_device("cpu", threads=1, checks=c) for c in CHECKS}
    out = np.empty((len(x), tensors.N), np.float16)
    layers = {name: fe.GptqLinear(tensors, device=device) for name, device in devices.items()}
    jobs = {name: partial(layer, x, out=out) for name, layer in layers.items()}
    best = best_of_turns(jobs, time.thread_time)
    return {name: best[name] / best["unchecked"] for name in jobs if name != "unchecked"}


_COMPILE = """
import json, time
from ferrum_numba import kernels
from ferrum_numba.emulator import Program
start = time.perf_counter()
program = Program.compile(kernels.W4A16_PTX, kernels.fn_name())
print(json.dumps([(time.perf_counter() - start) * 1e3, program.cached]))
"""


def compile_and_reload() -> tuple[float, float]:
    """Time from PTX text to code in two new processes: nothing cached, then cached; ms."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"FERRUM_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
        times = []
        for cached in (False, True):
            command = [sys.executable, "-c", _COMPILE]
            printed = subprocess.run(command, env=environment, capture_output=True, check=True)
            elapsed, was_cached = json.loads(printed.stdout)
            assert was_cached == cached
            times.append(elapsed)
    return times[0], times[1]


def beside_triton(size: int) -> dict[str, float] | None:
    """The CPU device on one thread and Triton's interpreter, M = 64, N = K = size."""
    script = ROOT / "scripts" / "interpret_triton.py"
    command = [sys.executable, str(script), "--size", str(size), "--m", "64"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"Triton's interpreter: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return None
    layer = fe.GptqLinear(
        random_tensors(size, size, 128, symmetric=True), device=fe.open_device("cpu", threads=1)
    )
    x, out = np.ones((64, size), np.float16), np.empty((64, size), np.float16)
    ours = host_seconds(lambda: layer(x, out=out)) * 1e3
    return {"M": 64, "N = K": size, "triton_ms": json.loads(done.stdout)["ms"], "cpu_ms": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="N and K")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--m", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--triton-size", type=int, default=512, help="N and K beside Triton")
    parser.add_argument("--checks", action="store_true", help="also what the checks cost")
    parser.add_argument("--avx2", action="store_true", help="as if there were no AVX-512")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.avx2:
        without_avx512()

    cold, reload = compile_and_reload()
    result: dict[str, object] = {"cold_compile_ms": cold, "cached_reload_ms": reload}
    tensors = random_tensors(arguments.size, arguments.size, arguments.group_size, symmetric=True)
    rows = []
    for m in arguments.m:
        x = np.random.default_rng(m).standard_normal((m, tensors.K)).astype(np.float16)
        x32 = x.astype(np.float32)
        jobs = {"numpy_ms": lambda x32=x32: x32 @ tensors.dequantize(np.float32)}
        out = np.empty((m, tensors.N), np.float16)
        for threads in arguments.threads:
            layer = fe.GptqLinear(tensors, device=fe.open_device("cpu", threads=threads))
            jobs[f"cpu_{threads}_threads_ms"] = partial(layer, x, out=out)
        # One thread's own time where there is one: other work on the machine does not count.
        clock = time.thread_time if arguments.threads == [1] else time.perf_counter
        row = {"M": m} | {name: 1e3 * s for name, s in best_of_turns(jobs, clock).items()}
        if arguments.checks:
            costs = check_costs(tensors, x)
            row |= {f"{name}_times": cost for name, cost in costs.items()}
        rows.append(row)
    result |= {"N": tensors.N, "K": tensors.K, "group_size": tensors.group_size, "rows": rows}
    result["triton"] = triton = beside_triton(arguments.triton_size)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"canonical kernel, new process: cold compile {cold:.0f} ms, cached {reload:.1f} ms")
    print(f"N = {tensors.N}, K = {tensors.K}, group_size = {tensors.group_size}; best of turns")
    for row in [*rows, *([triton] if triton else [])]:
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
