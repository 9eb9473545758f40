"""Kernels of others' kinds on the CPU device, with all checks, beside NumPy: a table.

    python scripts/sweep_public.py [NAME …]       needs triton 3.6 and nvcc; no GPU

A row each: whether the result is right, what the checks find (nothing is right: these kernels are),
how long the launch took without checks and with them, and what it took to make ready.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import ferrum_numba as fe

HERE = Path(__file__).parent / "public_kernels"
CHECKS = ("memory", "init", "race", "order")


def built_by_triton(case: Any) -> tuple[str, dict[str, Any]]:
    """PTX, and what the launch needs."""
    import triton
    from triton.backends.compiler import GPUTarget

    function = case.function
    places = {(function.arg_names.index(n),): value for n, value in case.constants.items()}
    source = triton.compiler.ASTSource(fn=function, signature=case.signature, constexprs=places)
    target = GPUTarget("cuda", case.capability, 32)
    kernel = triton.compile(source, target=target, options=case.options)
    meta = kernel.metadata
    return kernel.asm["ptx"], {"block": 32 * meta.num_warps, "shared_bytes": meta.shared}


def built_by_nvcc(folder: Path) -> str:
    out = folder / "kernels.ptx"
    source = str(HERE / "kernels.cu")
    subprocess.run(["nvcc", "-ptx", "-arch=sm_80", "-lineinfo", source, "-o", str(out)], check=True)
    return out.read_text()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||."""
    if found.dtype == ml_dtypes.bfloat16 or expected.dtype == ml_dtypes.bfloat16:
        found = found.astype(np.float32)
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def launch(device: Any, text: str, entry: str | None, config: dict, values: list) -> tuple:
    """The arrays that the launch left, and how long making ready and the launch took."""
    start = time.perf_counter()
    kernel = device.load_module(text).get_kernel(entry)
    ready = time.perf_counter() - start
    there = [device.to_device(v) if isinstance(v, np.ndarray) else v for v in values]
    start = time.perf_counter()
    kernel.launch(fe.LaunchConfig(**config), *there)
    took = time.perf_counter() - start
    return [device.to_host(v) if isinstance(v, np.ndarray) else v for v in there], ready, took


def row(
    name: str,
    text: str,
    entry: str | None,
    config: dict,
    values: list,
    expect: dict,
    tolerance: float,
) -> dict[str, Any]:
    found: dict[str, Any] = {"kernel": name, "lines": text.count("\n")}
    try:
        device = fe.open_device("cpu")
        left, found["ready"], found["plain"] = launch(device, text, entry, config, values)
        error = max(distance(left[place], value) for place, value in expect.items())
        found["error"], found["right"] = error, error <= tolerance
        checked = fe.open_device("cpu", checks=CHECKS)
        with checked.collect() as findings:
            left, found["ready_checked"], found["checked"] = launch(
                checked, text, entry, config, values
            )
        found["findings"] = [f"{f.kind}: {f.message}"[:200] for f in findings]
        error = max(distance(left[place], value) for place, value in expect.items())
        found["right"] = found["right"] and error <= tolerance
    except fe.FerrumError as error:
        found["failed"] = f"{type(error).__name__}: {error}"[:300]
    return found


def rows(names: list[str], folder: Path) -> Any:
    from public_kernels.cuda_cases import CASES as CUDA
    from public_kernels.triton_kernels import CASES as TRITON

    for case in TRITON:
        name = f"{case.name} sm_{case.capability}"
        if names and case.name not in names:
            continue
        text, needs = built_by_triton(case)
        keys = [k for k in case.function.arg_names if k in case.arguments]
        expect = {keys.index(k): v for k, v in case.expect.items()}
        values = [case.arguments[k] for k in keys]
        config = {"grid": case.grid, **needs}
        yield row(name, text, None, config, values, expect, case.tolerance)
    wanted = [case for case in CUDA if not names or case.name in names]
    text = built_by_nvcc(folder) if wanted else ""
    for case in wanted:
        config = {"grid": case.grid, "block": case.block, "shared_bytes": case.shared}
        config["cooperative"] = case.cooperative
        yield row(
            f"{case.name} nvcc",
            text,
            case.name,
            config,
            case.arguments,
            case.expect,
            case.tolerance,
        )


def main() -> None:
    bad = count = 0
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'kernel':28}{'lines':>6}{'ready':>8}{'plain':>9}{'checks':>9}  result")
        for found in rows(sys.argv[1:], Path(folder)):
            count += 1
            state = found.get("failed") or (
                "right" if found["right"] else f"WRONG {found['error']:.2g}"
            )
            if found.get("findings"):
                state += "; FINDINGS " + " | ".join(found["findings"])
            bad += "failed" in found or not found["right"] or bool(found["findings"])
            times = [found.get(k, float("nan")) for k in ("ready", "plain", "checked")]
            print(
                f"{found['kernel']:28}{found['lines']:6}{times[0]:7.2f}s{times[1] * 1e3:7.1f}ms"
                f"{times[2] * 1e3:7.1f}ms  {state}",
                flush=True,
            )
    print(f"{count} kernels, {bad} of them not right or with findings")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
