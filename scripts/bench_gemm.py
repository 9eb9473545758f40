"""The GEMMs that the catalogue chooses, beside Humming, cuBLAS and torch's int4 matmul.

    python scripts/bench_gemm.py [--m 1 8 48 ...] [--layers PART ...] [--csv FILE]
    python scripts/bench_gemm.py --show FILE.csv      # what was measured, again

`scripts/make_pictures.py peers` draws docs/pictures/w4a16.csv, which is a file of --csv under a
line that says of which machine and version.

Layers and rows are those of layer_zoo.py, groups are of 128.  All contenders run in this process:
CUDA graphs that go round more weights than the cache holds, replayed by turns.  Ratios are ours to
the fastest other one of the same minute; below 1, ours is faster.  Layers that were held out when
kernels were tuned are printed apart from those that were not.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gemm_timing import Graph, Layers, by_turns, floor_us, geometric_mean, rounds_of, weight_bytes
from layer_zoo import HELD_OUT, ROWS, TUNING, Layer

import ferrum_numba as fe
from ferrum_numba import kernels

GROUP_SIZE = 128
BANDS = ((1, 8), (9, 32), (33, 128), (129, 512), (513, 10**6))  # of M, in the summary
PEERS = ("Humming", "cuBLAS", "tinygemm")

Row = dict[str, Any]


def measure(layer: Layer, m: int, layers: Layers, peers: Any, kernel: str | None) -> Row:
    """One row: what the chosen build takes, and what others do."""
    _, n, k = layer
    shipped = kernels.choose(layers.device, m, n, k, GROUP_SIZE, 1)
    if kernel is not None:
        shipped = kernels.artefact(kernel)
    copies = layers.copies(n, k)
    graphs: dict[str, tuple[Graph, int]] = {}
    with peers.capturing():
        for name in peers.names(m):
            calls = peers.calls(name, m, n, k, copies)
            rounds = rounds_of(len(calls), m, n, k)
            graphs[name] = peers.graph(calls, rounds), rounds * len(calls)
    graphs["ours"] = layers.graph(shipped, m, n, k, GROUP_SIZE)
    times = by_turns(graphs)
    us = times["ours"]
    return {
        "layer": layer.name, "N": n, "K": k, "M": m,
        "held_out": int(layer in HELD_OUT),
        "us": us,
        **{peer: times.get(peer) for peer in PEERS},
        "/best": us / min(v for name, v in times.items() if name != "ours"),
        "/floor": us / floor_us(m, n, k, GROUP_SIZE),
        "GB/s": (weight_bytes(n, k, GROUP_SIZE) + 2 * m * (n + k)) / us / 1e3,
        "TFLOP/s": 2 * m * n * k / us / 1e6,
        "kernel": shipped.name,
    }  # fmt: skip


def cells(parts: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[Layer, int]]:
    """Layers of the zoo and rows.  parts: of their names, or "held-out", or "tuning"."""
    halves = {"held-out": HELD_OUT, "tuning": TUNING}
    layers: dict[Layer, None] = {}  # in the order asked for
    for part in parts:
        both = (*HELD_OUT, *TUNING)
        layers |= dict.fromkeys(halves.get(part, [x for x in both if part in x.name]))
    return itertools.product(layers, rows)


def summary(rows: list[Row]) -> list[Row]:
    """Geometric means and worst cells to the best peer, by bands of M."""
    found = []
    for (low, high), held_out in itertools.product(BANDS, (1, 0)):
        its = [r for r in rows if low <= r["M"] <= high and r["held_out"] == held_out]
        if its:
            worst = max(its, key=lambda row: row["/best"])
            found.append(
                {
                    "M": f"{low}-{high}" if high < 10**6 else f"{low}-",
                    "half": "held out" if held_out else "tuning",
                    "cells": len(its),
                    "/best": geometric_mean(row["/best"] for row in its),
                    "worst": worst["/best"],
                    "where": f"{worst['layer']}, M = {worst['M']}",
                    **{
                        f"/{peer}": geometric_mean(r["us"] / r[peer] for r in its if r[peer])
                        for peer in PEERS
                        if any(r[peer] for r in its)
                    },
                    "/floor": geometric_mean(row["/floor"] for row in its),
                }
            )
    return found


def show(rows: list[Row]) -> None:
    """A table for people."""
    if not rows:
        return
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def read(path: Path) -> list[Row]:
    """Rows that --csv wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure every cell that is asked for, writing rows as they come."""
    from gemm_peers import Peers

    device = fe.open_device("cuda")
    layers = Layers(device)
    peers = Peers(f"cuda:{device.name.partition(':')[2]}")
    rows: list[Row] = []
    end = time.monotonic() + arguments.seconds
    for layer, m in cells(arguments.layers, arguments.m):
        if time.monotonic() > end:
            break
        rows.append(measure(layer, m, layers, peers, arguments.kernel))
        if arguments.csv:
            with arguments.csv.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                if len(rows) == 1:
                    writer.writeheader()
                writer.writerow(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--m", type=int, nargs="+", default=ROWS)
    parser.add_argument(
        "--layers", nargs="+", default=[""], help="parts of names; or held-out, or tuning"
    )
    parser.add_argument("--kernel", help="an artefact's name, instead of the catalogue's choice")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so long")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write rows there as they come")
    parser.add_argument("--show", type=Path, metavar="FILE", help="a file of --csv; run nothing")
    arguments = parser.parse_args()
    rows = read(arguments.show) if arguments.show else run(arguments)
    show(rows)
    show(summary(rows))


if __name__ == "__main__":
    main()
