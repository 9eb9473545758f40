"""Memory over a long time: layers made and dropped, launches of sizes that change, a full GPU.

    python scripts/soak.py [--layers N] [--launches N] [--share] [--json]

--layers: so many layers of several sizes are made, launched and dropped.  --launches: so many
launches of one layer, whose rows change each time.  --share: two processes fill one GPU together;
what does not fit has to be an error, and nothing may hang.  Exits with 1 where memory grows, or
where a process does not come to its end.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ferrum_numba as fe
from tests.campaigns.layers import random_tensors

SHAPES = [(256, 512), (512, 256), (1024, 1024), (128, 2048)]  # N, K
ROWS = (1, 3, 8, 17, 40, 130)
MIB = 1 << 20
# Growth that is allowed: of caches, and of graphs that are to be given up; and one step of the
# driver's pool, which takes 32 MiB at a time.
GROWTH = {"in use": 16 * MIB, "reserved": 32 * MIB, "resident": 16 * MIB}
SAMPLES = 5
CHUNK, ROUNDS, PATIENCE = 2048 * MIB, 8, 90.0  # bytes, fillings, seconds


def layer_of(n: int, k: int, seed: int, device: fe.Device) -> fe.GptqLinear:
    tensors = random_tensors(k, n, 128, seed=seed, symmetric=True)
    return fe.GptqLinear(tensors, device=device)


def sample(device: fe.Device) -> dict[str, int]:
    """Bytes on the device and of this process."""
    device.synchronize()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    memory = device.memory
    return {"in use": memory.in_use, "reserved": memory.reserved, "resident": pages * 4096}


def watched(device: fe.Device, count: int, step: Callable[[int], object]) -> dict[str, Any]:
    """Do a step so many times; memory after each fifth of them."""
    samples, start = [], time.perf_counter()
    for number in range(count):
        step(number)
        if (number + 1) % max(count // SAMPLES, 1) == 0:
            samples.append(sample(device))
    grown = {
        name: samples[-1][name] - samples[0][name] for name in samples[0]
    }  # the first fifth fills pools and caches
    flat = all(grown[name] <= GROWTH[name] for name in grown)
    return {
        "steps": count,
        "seconds": time.perf_counter() - start,
        "samples": samples,
        "grown": grown,
        "flat": flat,
    }


def layers(device: fe.Device, count: int) -> dict[str, Any]:
    def step(number: int) -> None:
        n, k = SHAPES[number % len(SHAPES)]
        layer = layer_of(n, k, number, device)
        x = device.empty((ROWS[number % len(ROWS)], k), np.float16)
        y = layer(x)
        with device.capture() as graph:
            layer(x, out=y, stream=graph.stream)
        graph.launch()

    return watched(device, count, step)


def launches(device: fe.Device, count: int) -> dict[str, Any]:
    n, k = SHAPES[0]
    layer, stream = layer_of(n, k, 0, device), device.create_stream()
    inputs = [device.to_device(np.ones((m, k), np.float16)) for m in ROWS]

    def step(number: int) -> None:
        layer(inputs[number % len(inputs)], stream=stream)

    return watched(device, count, step)


def fill(device: fe.Device) -> dict[str, int]:
    """Take what the GPU has, again and again; errors and launches that were right."""
    n, k = SHAPES[2]
    layer, x = layer_of(n, k, 0, device), device.to_device(np.ones((4, k), np.float16))
    expected = device.to_host(layer(x))
    refused = right = most = 0
    for _ in range(ROUNDS):
        held: list[Any] = []
        try:
            while True:
                held.append(device.empty(CHUNK, np.uint8))
        except fe.DeviceError:
            refused += 1
        most = max(most, len(held))
        del held[: len(held) // 2]
        try:
            right += int(np.array_equal(device.to_host(layer(x)), expected))
        except fe.DeviceError:
            refused += 1
        held.clear()
        device.memory.trim()
    return {"refused": refused, "right": right, "most GiB": most * CHUNK >> 30}


def share() -> dict[str, Any]:
    """Two processes that fill the GPU at the same time."""
    command = [sys.executable, __file__, "--fill"]
    start = time.perf_counter()
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = []
    for process in both:
        try:
            left = max(PATIENCE - (time.perf_counter() - start), 1.0)
            said, error = process.communicate(timeout=left)
            ends.append(json.loads(said) if process.returncode == 0 else error[-400:])
        except subprocess.TimeoutExpired:
            process.kill()
            ends.append("it hangs")
    flat = all(isinstance(end, dict) and end["refused"] for end in ends)
    return {"seconds": time.perf_counter() - start, "processes": ends, "flat": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--launches", type=int, default=0)
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        print(json.dumps(fill(fe.open_device(options.device))))
        return
    found: dict[str, Any] = {}
    if options.layers:
        found["layers"] = layers(fe.open_device(options.device), options.layers)
    if options.launches:
        found["launches"] = launches(fe.open_device(options.device), options.launches)
    if options.share:
        found["share"] = share()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, part in found.items():
            shown = part.get("grown", part.get("processes"))
            steps = f"{part['steps']} in " if "steps" in part else ""
            print(f"{name}: {steps}{part['seconds']:.1f} s, {shown}: "
                  f"{'good' if part['flat'] else 'BAD'}")  # fmt: skip
    sys.exit(int(not all(part["flat"] for part in found.values())))


if __name__ == "__main__":
    main()
