"""Launch every PTX in ptx/ on the CPU device with all checks on, and print what was found.

    python scripts/sanitize_shipped.py             # every artefact
    python scripts/sanitize_shipped.py decode      # those whose name holds "decode"

Each artefact is launched on made-up arguments of several sizes: some that fill tiles,
some that cut them, and one with the whole of K in a single group; zeros are stored less 1
and as they are, by turns. The table has a line for each kernel; findings follow it in full.
The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from typing import NamedTuple

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels.sample import sample

CHECKS = ("memory", "init", "race", "order")
SIZES = (
    {"M": 1, "N": 8, "K": 8, "group_size": 8},
    {"M": 67, "N": 136, "K": 264, "group_size": 264},
    {"M": 9, "N": 72, "K": 400, "group_size": 128},
    {"M": 130, "N": 256, "K": 512, "group_size": 128},
)


class Outcome(NamedTuple):
    kernel: str
    launches: int
    findings: list[str]
    seconds: float


def launches(name: str) -> Outcome:
    """Launch one artefact at every size, each finding as text."""
    device = fe.open_device("cpu", checks=CHECKS, threads=1)
    shipped = kernels.artefact(name)
    kernel = shipped.kernel(device)
    started = time.perf_counter()
    findings: list[str] = []
    for i, sizes in enumerate(SIZES):
        sizes |= {"zero_bias": i % 2, "adds": 0}
        launch = sample(shipped.sidecar, sizes)
        with device.collect() as found:
            kernel.launch(launch.config, **launch.arrays, **launch.integers)
        findings += [f"{name} {sizes}: {finding}" for finding in found]
    return Outcome(str(shipped.sidecar.entry), len(SIZES), findings, time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="", help="only artefacts with this in the name")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    # A model's other kernels take indices into each other: tests/kernels/test_model_kernels.py.
    others = ("models", "moe")
    gemms = [build.name for build in kernels.builds() if build.archive not in others]
    names = [name for name in gemms if options.part in name]
    if not names:
        parser.error(f"no artefact in ptx/ has {options.part!r} in its name")
    by_kernel: dict[str, list[Outcome]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap_unordered(launches, names):
            by_kernel[outcome.kernel].append(outcome)
    print(f"{'kernel':32} {'artefacts':>9} {'launches':>8} {'findings':>8} {'CPU s':>7}")
    for kernel, outcomes in sorted(by_kernel.items()):
        found = sum(len(outcome.findings) for outcome in outcomes)
        ran = sum(outcome.launches for outcome in outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes)
        print(f"{kernel:32} {len(outcomes):9} {ran:8} {found:8} {seconds:7.1f}")
    every = [text for outcomes in by_kernel.values() for o in outcomes for text in o.findings]
    print("\n".join(every))
    return bool(every)


if __name__ == "__main__":
    sys.exit(main())
