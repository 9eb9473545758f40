"""The GEMMs that the catalogue chooses, beside cuBLAS, torch's int4 matmul and measured peers.

    python scripts/bench_gemm.py [--m 1 8 16 ...] [--json] [--plot FILE.png] [--kernel ARTEFACT]

The shapes are those of scripts/peers_h200.csv, group size 128.  Times are of CUDA graphs that go
round more weights than the cache holds.  cuBLAS (float16) and torch's int4 matmul (bfloat16) run
side by side where torch is installed; Marlin's time is the table's.  Ratios below 1 are faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

# First: it puts the repository on the path.
from gemm_timing import Layers, Peer, floor_us, geometric_mean, peers, weight_bytes

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.report.timing import REPLAYS, cold_copies, device_seconds, rounds_of

GROUP_SIZE = 128
INT4_ROWS = 64  # torch's int4 matmul is made for few rows; beyond, it takes seconds


class Torch:
    """Torch's ways to the same layers: dense float16, and int4 with bfloat16."""

    def __init__(self, device: fe.Device) -> None:
        import torch

        self.torch, self.ours = torch, device
        self.device = f"cuda:{device.name.partition(':')[2]}"

    def cublas_us(self, M: int, N: int, K: int) -> float:
        count = cold_copies(self.ours, 2 * K * N)
        weights = [self._random(N, K) for _ in range(count)]
        x = self._random(M, K)
        outs = [self._random(M, N) for _ in range(count)]
        return self._time(
            [
                lambda w=w, o=o: self.torch.mm(x, w.t(), out=o)
                for w, o in zip(weights, outs, strict=True)
            ]
        )

    def int4_us(self, M: int, N: int, K: int) -> float:
        torch = self.torch
        count = cold_copies(self.ours, K * N // 2)
        x = self._random(M, K).bfloat16()
        layers = []
        for _ in range(count):
            packed = torch.randint(0, 256, (N, K // 2), dtype=torch.uint8, device=self.device)
            scales = self._random(K // GROUP_SIZE, N, 2).bfloat16()
            layers.append((torch._convert_weight_to_int4pack(packed, 8), scales))
        return self._time(
            [lambda w=w, s=s: torch._weight_int4pack_mm(x, w, GROUP_SIZE, s) for w, s in layers]
        )

    def _random(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device=self.device).half()

    def _time(self, calls: list[Callable[[], Any]]) -> float:
        """Through torch's own graphs, since its allocator has to know of the capture."""
        torch = self.torch
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
        rounds = rounds_of(len(calls), self._replays(calls, 1, 1)[0])
        times = self._replays(calls, rounds, REPLAYS + 1)[1:]
        return statistics.median(times) / (rounds * len(calls)) * 1e6

    def _replays(self, calls: list[Callable[[], Any]], rounds: int, count: int) -> list[float]:
        """Seconds of each of `count` replays of one graph, as `device_seconds` takes them."""
        torch = self.torch
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for call in calls:
                    call()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            graph.replay()
            mark.record()
        marks[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]


def bench(
    peer: Peer, device: fe.Device, layers: Layers, torch: Torch | None, kernel: str | None
) -> dict[str, Any]:  # fmt: skip
    """One row: what we take, and what others do."""
    m, n, k = peer.M, peer.N, peer.K
    shipped = kernels.choose(device, m, n, k, GROUP_SIZE, 1)
    if kernel is not None:
        shipped = kernels.artefact(kernel)
    us = device_seconds(device, layers.launches(shipped, m, n, k, GROUP_SIZE)) * 1e6
    moved = weight_bytes(n, k, GROUP_SIZE) + 2 * m * (n + k)
    row = {
        "shape": peer.shape, "N": n, "K": k, "M": m,
        "us": us,
        "GB/s": moved / us / 1e3,
        "TFLOP/s": 2 * m * n * k / us / 1e6,
        "/floor": us / floor_us(m, n, k, GROUP_SIZE),
        "/best": us / peer.best,
        "best": peer.best,
        "Marlin": peer.marlin,
    }  # fmt: skip
    if torch is not None:
        row["cuBLAS"] = torch.cublas_us(m, n, k)
        row["int4"] = torch.int4_us(m, n, k) if m <= INT4_ROWS else None
    return row | {"kernel": shipped.name}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over the shapes, for each M."""
    return [
        {
            "M": m,
            **{
                ratio: geometric_mean(row[ratio] for row in rows if row["M"] == m)
                for ratio in ("/best", "/floor")
            },
        }
        for m in sorted({row["M"] for row in rows})
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """M against the ratio to the best peer, one line a shape."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for shape in dict.fromkeys(row["shape"] for row in rows):
        mine = [row for row in rows if row["shape"] == shape]
        label = f"{shape}  {mine[0]['N']} × {mine[0]['K']}"
        axes.plot([r["M"] for r in mine], [r["/best"] for r in mine], marker="o", label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["M"] for row in rows}), sorted({row["M"] for row in rows}))
    axes.set(xlabel="M", ylabel="time / best peer's", title="W4A16 on an H200, group size 128")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def show(rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--m", type=int, nargs="+", help="of the table's; default: all of them")
    parser.add_argument("--kernel", help="an artefact's name, instead of the catalogue's choice")
    parser.add_argument("--alone", action="store_true", help="do not run torch beside")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    device = fe.open_device("cuda")
    layers = Layers(device)
    has_torch = importlib.util.find_spec("torch") is not None and not arguments.alone
    torch = Torch(device) if has_torch else None
    rows = [
        # Small M first: after seconds of large ones the chip's clocks are down for a while.
        bench(peer, device, layers, torch, arguments.kernel)
        for peer in sorted(peers(), key=lambda peer: peer.M)
        if not arguments.m or peer.M in arguments.m
    ]
    if arguments.plot:
        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"rows": rows, "means": means(rows)}, indent=1))
        return
    show(rows)
    print()
    show(means(rows))


if __name__ == "__main__":
    main()
