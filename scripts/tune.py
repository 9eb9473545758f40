"""Time the GEMMs on this device, and fit the constants of the model that chooses among them.

    python scripts/tune.py time FILE.csv [--device cuda] [--half tuning] [--seconds 600]
    python scripts/tune.py fit FILE.csv ... [--device "NVIDIA H200"]

`time` appends a row for each layer of layer_zoo.py, number of rows and build that may be worth it.
`fit` needs no GPU: it takes the rows of the tuning half, writes ptx/w4a16_tuning.json, and prints
how far off the model is there and on the held-out half.  "regret" is how much longer than the best
build of a cell the chosen one takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gemm_timing import ROOT, Layers, by_turns, geometric_mean
from layer_zoo import HELD_OUT, ROWS, TUNING

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices import Chip
from ferrum_numba.kernels.cost import (
    CONSTANTS,
    Costs,
    launch_us,
    moved_bytes,
    of_largest_groups,
    tuned,
    work_of,
    worth_trying,
)

TABLE = ROOT / "ptx" / "w4a16_tuning.json"
COLUMNS = ("build", "slots", "group", "M", "N", "K", "us")
# What is expected before anything is measured, and how sure that is (of the logarithm).
PRIOR = {
    "fixed": (2.5, 0.5), "step": (0.4, 1.0), "load": (0.2, 1.0), "tile": (0.7, 1.0),
    "split": (1.5, 0.7), "part": (0.3, 1.0), "share": (0.85, 0.15),
}  # fmt: skip
_CPU = Chip(sms=1, bandwidth=1e9, clock=1.0, shared=2**30)  # bound by arithmetic
_CPU_TURNS = 9
_CPU_ROWS = (1, 8, 16, 24, 32, 48, 64, 96, 128, 256)
_CPU_LAYERS = ((1024, 1024), (2048, 512), (512, 2048))


class Cell(NamedTuple):
    """A GEMM that was timed."""

    group: int
    M: int
    N: int
    K: int

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes as the kernels take them."""
        sizes = kernels.contiguous_sizes(self.M, self.N, self.K, self.group)
        return sizes | {"zero_bias": 1, "adds": 0}


def builds(device: fe.Device, group: int) -> list[kernels.Artefact]:
    """The float16 builds for layers with such groups: of each tile, that of the largest GROUP."""
    found = list(tuned())
    if device.name == "cpu":  # more warps, and the canonical build, are behind everywhere
        found = [
            build
            for build in found
            if build.fields["target"] == "sm_80" and build.fields["num_warps"] in (4, None)
        ]
    return of_largest_groups(b for b in found if group % b.fields.get("GROUP", 1) == 0)


def time_builds(
    device: fe.Device, cells: Sequence[Cell], seconds: float
) -> Iterator[tuple[str, Cell, float]]:
    """Builds, cells and microseconds, for as long as there is time."""
    layers, end = Layers(device), time.monotonic() + seconds
    for cell in cells:
        if time.monotonic() > end:
            return
        its = [
            build
            for build in builds(device, cell.group)
            if build.takes(device, cell.sizes) and worth_trying(build, cell.M)
        ]
        where = cell.M, cell.N, cell.K, cell.group
        if device.name == "cpu":
            times = _host_times({build.name: layers.launches(build, *where)[0] for build in its})
        else:
            times = by_turns({build.name: layers.graph(build, *where) for build in its}, 3)
        for name, us in times.items():
            yield name, cell, us


def _host_times(launches: dict[str, fe.PreparedLaunch]) -> dict[str, float]:
    """Microseconds of this thread for a launch, by turns, where other work slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in launches}
    for _ in range(_CPU_TURNS):
        for name, launch in launches.items():
            start = time.thread_time()
            launch(None)
            times[name].append(time.thread_time() - start)
    return {name: min(its) * 1e6 for name, its in times.items()}


def all_cells(device: fe.Device, half: str, groups: Sequence[int]) -> list[Cell]:
    """Cells of a half of the zoo, shuffled, so that any first part of them is a fair sample."""
    layers = [(x.N, x.K) for x in (TUNING if half == "tuning" else HELD_OUT)]
    rows: Sequence[int] = ROWS
    if device.name == "cpu":  # it is there to be right
        layers, rows = list(_CPU_LAYERS), _CPU_ROWS
    found = [Cell(g, m, n, k) for g in groups for m in rows for n, k in layers if k % g == 0]
    random.Random(20261130).shuffle(found)
    return found


Rows = dict[str, list[tuple[Cell, float]]]  # by build


def read(paths: Sequence[Path]) -> tuple[Rows, dict[str, int]]:
    """The times of each build, and how many of its CTAs an SM holds."""
    found: Rows = defaultdict(list)
    slots = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                cell = Cell(*(int(row[name]) for name in ("group", "M", "N", "K")))
                found[row["build"]].append((cell, float(row["us"])))
                slots[row["build"]] = int(row["slots"])
    return found, slots


def fit(
    build: kernels.Artefact,
    rows: list[tuple[Cell, float]],
    weights: Sequence[float],
    chip: Chip,
    slots: int,
    like: Costs | None,
) -> Costs:
    """The constants with which the model is nearest to these times, and to what is expected.

    like: of the build for another target, from which this one differs by how it begins.
    """
    names = CONSTANTS[:-1]
    expected = np.log([getattr(like, name) if like else PRIOR[name][0] for name in names])
    sure = np.array([0.02 if like and name != "fixed" else PRIOR[name][1] for name in names])
    measured = np.log([us for _, us in rows])
    work = [(work_of(build, cell.sizes), cell) for cell, _ in rows]

    def costs_of(theta: Any) -> Costs:
        return Costs(*map(float, np.exp(theta)), slots)

    def residuals(theta: Any) -> Any:
        costs = costs_of(theta)
        times = [launch_us(costs, its, chip, moved_bytes(cell.sizes)) for its, cell in work]
        off = np.array(weights) * 8 * (np.log(times) - measured)
        return np.concatenate([off, (theta - expected) / sure])

    return costs_of(_least_squares(residuals, expected))


def _least_squares(residuals: Callable[[Any], Any], theta: Any) -> Any:
    """Levenberg's and Marquardt's method, with differences for derivatives."""
    damping, now = 1e-2, residuals(theta)
    for _ in range(60):
        shifts = 1e-4 * np.eye(len(theta))
        slope = np.stack([(residuals(theta + shift) - now) / 1e-4 for shift in shifts], axis=1)
        square = slope.T @ slope
        while damping < 1e8:
            step = np.linalg.solve(
                square + damping * np.diag(np.diag(square) + 1e-9), -slope.T @ now
            ).clip(-1, 1)
            later = residuals(theta + step)
            if later @ later < now @ now:
                break
            damping *= 4
        else:
            return theta
        gain = 1 - later @ later / (now @ now)
        theta, now, damping = theta + step, later, max(damping / 4, 1e-7)
        if gain < 1e-6:
            return theta
    return theta


def best_times(rows: Rows) -> dict[Cell, float]:
    """The fastest build's, of each cell."""
    best: dict[Cell, float] = {}
    for its in rows.values():
        for cell, us in its:
            best[cell] = min(us, best.get(cell, us))
    return best


def regrets(
    rows: Rows, seconds: Callable[[str, Cell], float]
) -> dict[Cell, tuple[float, str, str]]:
    """Time of the chosen build over the best one's, and both; by cell with several builds."""
    times: dict[Cell, dict[str, float]] = defaultdict(dict)
    for name, its in rows.items():
        for cell, us in its:
            times[cell][name] = us
    found = {}
    for cell, by_build in times.items():
        if len(by_build) == 1:
            continue
        chosen = min(by_build, key=lambda name: seconds(name, cell))
        best = min(by_build, key=lambda name: by_build[name])
        found[cell] = by_build[chosen] / by_build[best], chosen, best
    return found


def write(device: str, chip: Chip, costs: dict[str, Costs] | None = None) -> None:
    """Put a device into the table; one line a build, so that changes can be read."""
    content = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    its = content.setdefault(device, {"builds": {}})
    its["chip"] = asdict(chip)
    if costs is not None:
        rows = {name: [_rounded(v) for v in asdict(its).values()] for name, its in costs.items()}
        its["builds"] = dict(sorted(rows.items()))
    parts = []
    for name, its in content.items():
        lines = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in its["builds"].items())
        parts.append(
            f' {json.dumps(name)}: {{\n  "chip": {json.dumps(its["chip"])},\n'
            f'  "builds": {{\n{lines}\n  }}\n }}'
        )
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8", newline="\n")


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.3g}")


def time_command(arguments: argparse.Namespace) -> None:
    """Append times to a file, and put the device's chip into the table."""
    one = {"threads": 1} if arguments.device == "cpu" else {}
    device = fe.open_device(arguments.device, **one)
    write(kernels.device_name(device), getattr(device, "chip", _CPU))
    slots: dict[str, int] = {}
    cells = all_cells(device, arguments.half, arguments.groups)
    with arguments.file.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(COLUMNS)
        for name, cell, us in time_builds(device, cells, arguments.seconds):
            if name not in slots:
                slots[name] = _slots(device, kernels.artefact(name))
            writer.writerow((name, slots[name], *cell, f"{us:.3f}"))
            file.flush()


def _slots(device: fe.Device, build: kernels.Artefact) -> int:
    """The number of its CTAs that an SM holds; one on the CPU device."""
    if device.name == "cpu":
        return 1
    kernel, sidecar = build.kernel(device), build.sidecar
    config = fe.LaunchConfig(1, (sidecar.num_warps or 0) * 32, sidecar.shared_bytes or 0)
    return kernel.occupancy(config).ctas_per_sm or 1


def fit_command(arguments: argparse.Namespace) -> None:
    """Fit, write, and say how good it is."""
    rows, slots = read(arguments.files)
    chip = Chip(**json.loads(TABLE.read_text())[arguments.device]["chip"])
    learned, held_out = _halves(rows)
    best, costs = best_times(learned), {}
    # Those for sm_90 come first, since they are timed more often than the same for sm_80.
    for name, its in sorted(learned.items(), key=lambda x: (x[0].endswith("sm_80"), x[0])):
        build = kernels.artefact(name)
        # What is never the best need not be known well, but that it is not.
        weights = [min(1.0, (1.1 * best[cell] / us) ** 2) for cell, us in its]
        costs[name] = fit(build, its, weights, chip, slots[name], _like(build, costs))
        off = [
            math.log(
                launch_us(costs[name], work_of(build, c.sizes), chip, moved_bytes(c.sizes)) / us
            )
            for c, us in its
        ]
        wins = sum(us == best[cell] for cell, us in its)
        print(f"{name:48} {len(its):4} cells, best in {wins:3}, off by {_rms(off):.0%}")
    for half, its in (("tuning", learned), ("held out", held_out)):
        if its:
            _show_regrets(half, its, costs, chip)
    write(arguments.device, chip, costs)


def _like(build: kernels.Artefact, costs: dict[str, Costs]) -> Costs | None:
    """The constants of the same kernel and tile for another target, where they are known."""
    tile, warps = build.sidecar.tile, build.sidecar.num_warps
    for name, found in costs.items():
        other = kernels.artefact(name)
        same = other.sidecar.tile == tile and other.sidecar.num_warps == warps
        if same and other.fields["kernel"] == build.fields["kernel"]:
            return found
    return None


def _halves(rows: Rows) -> tuple[Rows, Rows]:
    """The rows of the layers for tuning, and of those that are held out."""
    held_out = {(layer.N, layer.K) for layer in HELD_OUT}
    parts: tuple[Rows, Rows] = ({}, {})
    for name, its in rows.items():
        for part, wanted in zip(parts, (False, True), strict=True):
            found = [row for row in its if ((row[0].N, row[0].K) in held_out) == wanted]
            if found:
                part[name] = found
    return parts


def _show_regrets(half: str, rows: Rows, costs: dict[str, Costs], chip: Chip) -> None:
    def us(name: str, cell: Cell) -> float:
        build = kernels.artefact(name)
        if name not in costs or not worth_trying(build, cell.M):
            return math.inf
        work = work_of(build, cell.sizes)
        return launch_us(costs[name], work, chip, moved_bytes(cell.sizes))

    found = regrets(rows, us)
    values = sorted(regret for regret, _, _ in found.values())
    print(
        f"{half}: {len(found)} cells, regret {geometric_mean(values) - 1:.1%} on average, "
        f"{values[len(values) * 9 // 10] - 1:.1%} in the tenth that is worst, {values[-1] - 1:.0%} "
        "at the most"
    )
    for cell, (regret, chosen, best) in sorted(found.items(), key=lambda x: -x[1][0])[:8]:
        print(f"  {regret:.2f} {tuple(cell)}: {chosen}, not {best}")


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    timing = commands.add_parser("time", help="append times to a file")
    timing.add_argument("file", type=Path)
    timing.add_argument("--device", default="cuda")
    timing.add_argument("--half", choices=("tuning", "held-out"), default="tuning")
    timing.add_argument("--groups", type=int, nargs="+", default=[128])
    timing.add_argument("--seconds", type=float, default=600)
    timing.set_defaults(run=time_command)
    fitting = commands.add_parser("fit", help="fit the model to files of times")
    fitting.add_argument("files", type=Path, nargs="+")
    fitting.add_argument("--device", default="NVIDIA H200", help="its product name, or cpu")
    fitting.set_defaults(run=fit_command)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
