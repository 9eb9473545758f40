"""Cost of a launch for the host by every road, and of a decode step by call, plan and graph.

    python scripts/bench_launch.py [--json] [--recorded] [--decode] [--fused]
                                    [--stress LAUNCHES]

The roads launch one tiny canonical GEMM (21 parameters); of those whose arrays move, or whose
result is new each time, the peer's cost stands beside.  --recorded: our roads alone, by turns off
and while launches are recorded by digest.  --decode: the linear layers of one decode
step of Llama-3.1-8B, M = 1, with weights of their own, against the sum of what the device takes for
each kernel.  --stress: so many launches from 8 threads by all of our roads, and the memory before
and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from launch_roads import PEERS, Launch, Road, bare, moving, others, ours
from numba import cuda

import ferrum_numba as fe
from ferrum_numba.report.timing import device_seconds
from tests.campaigns.layers import random_tensors

COUNT, REPEATS = 400, 25  # few enough launches at a time that the stream's queue never fills
THREADS = 8
GROUP_SIZE = 128
LAYERS = 32
HIDDEN, FEED_FORWARD, KEY_VALUE = 4096, 14336, 1024
# N, K, and which of the layer's results it reads; x: what the layer reads itself.
SEPARATE = {
    "q_proj": (HIDDEN, HIDDEN, "x"),
    "k_proj": (KEY_VALUE, HIDDEN, "x"),
    "v_proj": (KEY_VALUE, HIDDEN, "x"),
    "o_proj": (HIDDEN, HIDDEN, "q_proj"),
    "gate_proj": (FEED_FORWARD, HIDDEN, "o_proj"),
    "up_proj": (FEED_FORWARD, HIDDEN, "o_proj"),
    "down_proj": (HIDDEN, FEED_FORWARD, "gate_proj"),
}
FUSED = {
    "qkv_proj": (HIDDEN + 2 * KEY_VALUE, HIDDEN, "x"),
    "o_proj": (HIDDEN, HIDDEN, "qkv_proj"),
    "gate_up_proj": (2 * FEED_FORWARD, HIDDEN, "o_proj"),
    "down_proj": (HIDDEN, FEED_FORWARD, "gate_up_proj"),
}

# Launches of each road in a turn of the stress test: those that take long are rare in use, too.
_SHARES = {
    "kernel.launch": 10,
    "PreparedLaunch": 1000,
    "PreparedLaunch, updated": 100,
    "PreparedLaunch.launch": 500,
    "GptqLinear(x, out=)": 500,
    "GptqLinear, out moves": 100,
    "LaunchPlan, a launch": 5000,
    "LaunchGraph, a launch": 5000,
}


def microseconds(roads: dict[str, Road | None], device: fe.Device) -> dict[str, float | None]:
    """Median host time of a launch by each road, taken by turns; None where there is none."""
    times: dict[str, list[float]] = {name: [] for name, road in roads.items() if road is not None}
    for turn in range(REPEATS + 1):
        for name, road in roads.items():
            if road is None:
                continue
            spent = _microseconds(road, device)
            if turn:  # the first one is of a road that nobody has gone yet
                times[name].append(spent)
    device.synchronize()
    return {name: statistics.median(times[name]) if name in times else None for name in roads}


def _microseconds(road: Road, device: fe.Device) -> float:
    device.synchronize()
    start = time.perf_counter()
    road(COUNT)
    return (time.perf_counter() - start) / COUNT * 1e6


def recorded(device: fe.Device) -> dict[str, dict[str, float]]:
    """Microseconds a launch by each of our roads, off and while launches are recorded by digest."""
    own = ours(Launch(device))
    off: dict[str, list[float]] = {name: [] for name in own}
    on: dict[str, list[float]] = {name: [] for name in own}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(REPEATS + 1):
            for name, road in own.items():
                off[name].append(_microseconds(road, device))
            with fe.record(Path(folder) / f"{turn}.ferrum", arrays="digest"):
                for name, road in own.items():
                    road(COUNT)  # the first launch of a call is digested
                    on[name].append(_microseconds(road, device))
    device.synchronize()
    found = {}
    for name in own:
        pair = statistics.median(off[name][1:]), statistics.median(on[name][1:])
        found[name] = {"off, us": pair[0], "recorded, us": pair[1], "ratio": pair[1] / pair[0]}
    return found


def roads(device: fe.Device) -> dict[str, float | None]:
    """Microseconds a launch, by road; None where the library is not there."""
    launch = Launch(device)
    found = {**bare(launch), **ours(launch), **dict(others(launch)), **dict(moving(launch))}
    return microseconds(found, device)


class Decode:
    """The linear layers of one decode step, each with weights of its own, chained by their data."""

    def __init__(self, device: fe.Device, shapes: dict[str, tuple[int, int, str]]) -> None:
        self.device, self.shapes = device, shapes
        rng = np.random.default_rng(0)
        tensors = {
            name: random_tensors(k, n, GROUP_SIZE, symmetric=True)
            for name, (n, k, _) in shapes.items()
        }
        self.layers = [
            {name: fe.GptqLinear(tensors[name], device=device) for name in shapes}
            for _ in range(LAYERS)
        ]
        self.x = device.to_device(rng.standard_normal((1, HIDDEN)).astype(np.float16))
        self.outs = {name: device.empty((1, n), np.float16) for name, (n, _, _) in shapes.items()}

    def step(self, stream: Any) -> None:
        """Launch all of it."""
        outs, x = self.outs, self.x
        for layer in self.layers:
            for name, (_, k, source) in self.shapes.items():
                given = x if source == "x" else outs[source]
                layer[name](given if given.shape[1] == k else given[:, :k], out=outs[name],
                            stream=stream)  # fmt: skip
            x = outs["down_proj"]

    def device_microseconds(self) -> dict[str, float]:
        """Time of one kernel of each kind, going round the layers' weights."""
        times = {}
        for name, (_, k, _) in self.shapes.items():
            x = self.device.to_device(np.ones((1, k), np.float16))
            out = self.outs[name]
            jobs = [partial(_on, layer[name], x, out) for layer in self.layers]
            times[name] = device_seconds(self.device, jobs) * 1e6
        return times


def _on(layer: fe.GptqLinear, x: Any, out: Any, stream: Any) -> None:
    layer(x, out=out, stream=stream)


def decode(device: fe.Device, shapes: dict[str, tuple[int, int, str]]) -> dict[str, Any]:
    """Milliseconds of a step by each road, beside the sum of the kernels' own."""
    model, stream = Decode(device, shapes), device.create_stream()
    own = model.device_microseconds()
    total = LAYERS * sum(own.values()) / 1e3
    with device.record_plan() as plan:
        model.step(None)
    with device.capture() as graph:
        model.step(graph.stream)
    found: dict[str, Any] = {"kernels, us": own, "sum of the kernels, ms": total}
    for name, issue in (
        ("call", lambda: model.step(stream)),
        ("plan", lambda: plan(stream)),
        ("graph", lambda: graph.launch(stream)),
    ):
        host, whole = _step_milliseconds(device, stream, issue)
        found[name] = {
            "ms": whole,
            "host ms": host,
            "/ sum": whole / total,
            "tokens/s": 1e3 / whole,
        }
    return found


def _step_milliseconds(
    device: fe.Device, stream: Any, issue: Callable[[], object], steps: int = 20
) -> tuple[float, float]:
    """(host, whole) of a step, when steps follow each other as they do in generation."""
    hosts, wholes = [], []
    for _ in range(7):
        device.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            issue()
        issued = time.perf_counter()
        stream.synchronize()
        hosts.append((issued - start) / steps * 1e3)
        wholes.append((time.perf_counter() - start) / steps * 1e3)
    return statistics.median(hosts), statistics.median(wholes)


def stress(device: fe.Device, launches: int) -> dict[str, Any]:
    """Launch by all of our roads from several threads; MiB in use before and after."""
    mine = [ours(Launch(device)) for _ in range(THREADS)]

    def run(roads: dict[str, Road], count: int) -> int:
        done = 0
        while done < count:
            for name, road in roads.items():
                road(_SHARES[name])
                done += _SHARES[name]
        return done

    def all_threads(count: int) -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(run, mine, [count // THREADS] * THREADS))

    all_threads(launches // 20)  # pools and caches have their size by now
    device.synchronize()
    before, start = _memory(device), time.perf_counter()
    done = all_threads(launches)
    device.synchronize()
    after = _memory(device)
    return {
        "launches": done,
        "seconds": time.perf_counter() - start,
        "host MiB": [before[0], after[0]],
        "device MiB free": [before[1], after[1]],
    }


def _memory(device: Any) -> tuple[float, float]:
    """(resident, free on the device), MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    with device.current():
        free = cuda.current_context().get_memory_info().free
    return pages * 4096 / 2**20, free / 2**20


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    times = found.get("roads", {})
    if times:
        floor, cupy = times["ctypes, prebuilt"], times["CuPy RawKernel"]
        print(f"{'road':<32}{'us':>8}{'/ ctypes':>10}{'/ driver':>10}{'/ CuPy':>10}")
        for name, us in times.items():
            if us is None:
                print(f"{name:<32}  (not there)")
                continue
            ratios = [us / floor, us / times["the driver alone"], us / cupy if cupy else 0]
            line = f"{name:<32}{us:>8.2f}" + "".join(f"{ratio:>10.2f}" for ratio in ratios)
            peer, enough = PEERS.get(name, ("", 0.0))
            if times.get(peer):
                line += f"   {us / times[peer]:.2f} of {peer}, {enough} is enough"
            print(line)
    for part in ("recorded", "decode", "stress"):
        for key, value in found.get(part, {}).items():
            text = (
                ", ".join(f"{k} {v:.4g}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            print(f"{key:<24}{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recorded", action="store_true", help="what a recording adds")
    parser.add_argument("--decode", action="store_true", help="also a decode step")
    parser.add_argument("--fused", action="store_true", help="q, k, v as one; gate and up as one")
    parser.add_argument("--stress", type=int, metavar="LAUNCHES", help="instead of the roads")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = fe.open_device("cuda")
    found: dict[str, Any] = {}
    if options.stress:
        found["stress"] = stress(device, options.stress)
    elif options.recorded:
        found["recorded"] = recorded(device)
    else:
        found["roads"] = roads(device)
    if options.decode:
        found["decode"] = decode(device, FUSED if options.fused else SEPARATE)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    main()
