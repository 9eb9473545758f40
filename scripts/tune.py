"""Measure every shipped GEMM on this device and write which is fastest where.

    python scripts/tune.py [--device cuda] [--m 1 8 16 32 64] [--groups 128 32]

Writes ptx/w4a16_tuning.json; rows of other devices stay.  A GPU takes about a minute.  On the CPU
device the shapes are small and few, since it is there to be right.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from gemm_timing import ROOT, Graphs, Layers, peers

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels.tuning import CANONICAL

TABLE = ROOT / "ptx" / "w4a16_tuning.json"
CPU_SHAPES = [(2048, 2048)]

Launches = list[fe.PreparedLaunch]


def tiles(group: int) -> dict[str, kernels.Artefact]:
    """The v1 builds by tile; v2 is the same but for a constant."""
    decode = f"{kernels.DECODE}."
    suffix = f".g{group}.v1.sm_80"
    found = {
        name.removeprefix(decode).removesuffix(suffix): kernels.artefact(name)
        for name in kernels.names()
        if name.startswith(decode) and name.endswith(suffix)
    }
    return found | {CANONICAL: kernels.canonical(1)}


def timer(device: fe.Device) -> Callable[[Launches], float]:
    """Microseconds of one launch: of graphs on a GPU, by the clock on the CPU."""
    if device.name == "cpu":
        return _by_clock
    return Graphs(device).microseconds


def _by_clock(launches: Launches) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        launches[0]()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def measure(device: fe.Device, ms: list[int], groups: list[int]) -> list[dict[str, object]]:
    """The fastest tile of each shape, as rows of the table."""
    shapes = sorted({(p.N, p.K) for p in peers()}) if device.name != "cpu" else CPU_SHAPES
    layers, microseconds = Layers(device), timer(device)
    rows: list[dict[str, object]] = []
    for group in groups:
        for m in ms:
            for n, k in shapes:
                times = {
                    tile: microseconds(layers.launches(shipped, m, n, k, group))
                    for tile, shipped in tiles(group).items()
                    if tile != CANONICAL or device.name == "cpu"  # far behind on every GPU
                }
                tile = min(times, key=lambda name: times[name])
                print(
                    f"g{group} M={m} N={n} K={k}: {tile} | "
                    + " ".join(f"{t} {us:.2f}" for t, us in sorted(times.items())),
                    flush=True,
                )
                rows.append({"group": group, "M": m, "N": n, "K": k, "tile": tile})
    return rows


def write(product: str, rows: list[dict[str, object]]) -> None:
    """One line a row, so that what changed can be read."""
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    content[product] = rows
    parts = [
        f" {json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(r)}" for r in found) + "\n ]"
        for name, found in content.items()
    ]
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--m", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--groups", type=int, nargs="+", default=[128, 32])
    arguments = parser.parse_args()
    device = fe.open_device(arguments.device)
    write(kernels.device_name(device), measure(device, arguments.m, arguments.groups))


if __name__ == "__main__":
    main()
