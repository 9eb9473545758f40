"""Time that a fresh process takes to load the kernels of a Llama-3.1-8B, the driver's cache off.

    python scripts/bench_cold.py [--json]

Each way in a process of its own: one build after the other, side by side, and side by side from a
folder as `ferrum-numba warm` writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices.cuda.compiled import VARIABLE, CompiledCode
from ferrum_numba.gptq.recipe import MODELS, Recipe
from ferrum_numba.models.config import ModelConfig
from ferrum_numba.models.operations import Operations

LIKE, GROUP_SIZE = "llama-3.1-8b", 128
ROWS = (1, 2048)  # a step, and a prompt's chunk
WAYS = ("one by one", "side by side", "carried along")


def builds_of(device: fe.Device) -> list[kernels.Artefact]:
    """Builds that a first text needs."""
    shape = MODELS[LIKE]
    with tempfile.TemporaryDirectory() as folder:
        configuration = Recipe(like=LIKE).model_configuration()
        (Path(folder) / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
        operations = Operations(ModelConfig.load(folder), device)
    found = {*operations.builds(), operations.dense_build(1, wide=True)}
    hidden, inner = shape.hidden_size, shape.intermediate_size
    both = shape.num_attention_heads + 2 * shape.num_key_value_heads
    for n, k in ((both * shape.head_dim, hidden), (hidden, hidden), (2 * inner, hidden),
                 (hidden, inner)):  # fmt: skip
        for m in ROWS:
            found.add(kernels.choose(device, m, n, k, GROUP_SIZE, 1, "float16", wide=True))
    return sorted(found, key=lambda build: build.name)


def load(way: str) -> dict[str, Any]:
    """Load them in this process."""
    start = time.perf_counter()
    device: Any = fe.open_device("cuda")
    opened = time.perf_counter() - start
    builds = builds_of(device)
    texts = [build.text for build in builds]  # unpacked
    start = time.perf_counter()
    if way == "one by one":
        for build in builds:
            build.kernel(device)
    else:
        kernels.load_together(builds, device)
    seconds = time.perf_counter() - start
    return {"way": way, "kernels": len(texts), "seconds": seconds, "device opened": opened}


def compile_into(folder: str) -> None:
    """Write the compiled code of all of them."""
    device: Any = fe.open_device("cuda")
    compiled = CompiledCode(Path(folder), device.capability, device.cuda_version)
    kernels.load_together(
        builds_of(device),
        device,
        lambda build: compiled.store(build.text, device.compile(build.text)),
    )


def fresh(*arguments: str, **variables: str) -> str:
    """Output of this script in a process of its own, in which nothing is cached."""
    variables = {**os.environ, "CUDA_CACHE_DISABLE": "1", **variables}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--load", choices=WAYS, help="in this process")
    parser.add_argument("--compile", metavar="FOLDER", help="in this process")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load)))
        return
    if options.compile:
        compile_into(options.compile)
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh("--compile", folder)
        found = [
            json.loads(
                fresh("--load", way, **({VARIABLE: folder} if way == "carried along" else {}))
            )
            for way in WAYS
        ]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found[0]['kernels']} kernels of {LIKE}, {os.cpu_count()} processors")
    for row in found:
        print(f"{row['way']:<16}{row['seconds']:>8.2f} s, device opened in "
              f"{row['device opened']:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
