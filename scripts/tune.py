"""Measure every shipped GEMM on this device and write which is fastest where.

    python scripts/tune.py [--device cuda] [--m 1 8 16 32 64] [--groups 128 32] [--portable]

Writes ptx/w4a16_tuning.json; rows of other devices, and of other Ms and groups, stay.  --portable
writes the builds for sm_80 alone, too, as what a GPU takes that nobody measured.  On the CPU device
the shapes are small and few, since it is there to be right.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator

from gemm_timing import ROOT, Layers, peers  # first: it puts the repository on the path

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels.tuning import CANONICAL, PORTABLE
from ferrum_numba.report.timing import device_seconds

TABLE = ROOT / "ptx" / "w4a16_tuning.json"
CPU_SHAPES = [(2048, 2048)]

Shape = tuple[int, int, int, int]  # group, M, N, K


def builds(group: int, device: fe.Device) -> dict[str, kernels.Artefact]:
    """The tuned float16 builds for this group, as the table calls them."""
    found = {
        build.name: build
        for build in kernels.builds(dtype="float16")
        if "GROUP" in build.fields and group % build.fields["GROUP"] == 0
    }
    if device.name == "cpu":  # far behind on every GPU
        found[CANONICAL] = kernels.canonical(1)
    return found


def measure(
    device: fe.Device, ms: list[int], groups: list[int]
) -> Iterator[tuple[Shape, dict[str, float]]]:
    """(group, M, N, K) and the microseconds of each build that takes it."""
    shapes = sorted({(p.N, p.K) for p in peers()}) if device.name != "cpu" else CPU_SHAPES
    layers = Layers(device)
    for group, m, (n, k) in itertools.product(groups, ms, shapes):
        sizes = kernels.contiguous_sizes(m, n, k, group) | {"zero_bias": 1, "adds": 0}
        yield (
            (group, m, n, k),
            {
                build: device_seconds(device, layers.launches(shipped, m, n, k, group)) * 1e6
                for build, shipped in builds(group, device).items()
                if shipped.takes(device, sizes) and worth_trying(shipped, m)
            },
        )


def worth_trying(shipped: kernels.Artefact, m: int) -> bool:
    """True if its tile has rows enough to read weights seldom, and not many rows in vain."""
    rows = (shipped.sidecar.tile or {})["BLOCK_M"]
    return (m <= 8 * rows or rows >= 64) and rows <= max(16, 4 * m)


def fastest(times: dict[str, float], target: str | None = None) -> str:
    """The fastest of the builds for this target, or of all."""
    runs = times
    if target is not None:
        fitting = {build.name for build in kernels.builds(target=target)}
        runs = {name: us for name, us in times.items() if name in fitting}
    return min(runs, key=lambda name: runs[name])


def merge(table: str, rows: dict[Shape, str]) -> None:
    """Write these rows over those of the table; one line a row, so that changes can be read."""
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    kept = {(r["group"], r["M"], r["N"], r["K"]): r["build"] for r in content.get(table, ())}
    content[table] = [
        {"group": group, "M": m, "N": n, "K": k, "build": build}
        for (group, m, n, k), build in sorted(
            (kept | rows).items(), key=lambda row: (-row[0][0], *row[0][1:])
        )
    ]
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
    parser.add_argument("--portable", action="store_true", help="write rows for other GPUs, too")
    arguments = parser.parse_args()
    device = fe.open_device(arguments.device)
    best: dict[Shape, str] = {}
    portable: dict[Shape, str] = {}
    for shape, times in measure(device, arguments.m, arguments.groups):
        best[shape] = fastest(times)
        if arguments.portable:
            portable[shape] = fastest(times, "sm_80")
        group, m, n, k = shape
        listed = " ".join(f"{name} {us:.2f}" for name, us in sorted(times.items()))
        print(f"g{group} M={m} N={n} K={k}: {best[shape]} | {listed}", flush=True)
    merge(kernels.device_name(device), best)
    merge(PORTABLE, portable)


if __name__ == "__main__":
    main()
