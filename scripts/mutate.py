"""Findings of the checks where each barrier, wait, mask, pointer and integer is wrong in turn.

    python scripts/mutate.py [--kernels PATTERN] [--limit 6] [--jobs 2] [--json FILE]

Mutates the shipped kernels and the builds in tests/emulator/data, runs each mutant on the CPU
device, and prints for each class how many change a result or touch memory outside the arrays, and
which check finds them. A launch with a sidecar refuses some before they run: column "abi". "layout"
is the comparison of shapes and strides that a device with checks makes at each launch; "stopped"
counts runs that the device broke off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

os.environ["FERRUM_CACHE_DIR"] = ""  # mutants are not worth keeping
os.environ["FERRUM_CPU_STEPS"] = "5e7"

from tests.campaigns.mutants.mutations import Mutant, mutants
from tests.campaigns.mutants.subjects import Subject, subjects
from tests.campaigns.mutants.trial import Outcome, Trial

_TASK = 16  # mutants: 10 to 50 s, nearly all of it for compiling them
FOUND = ("abi", "layout", "memory", "init", "race", "order", "stopped")


def choose(subject: Subject, limit: int | None) -> list[Mutant]:
    """The mutants of a subject; at most `limit` of a class, evenly spread."""
    classes: dict[str, list[Mutant]] = {}
    for mutant in mutants(subject):
        classes.setdefault(mutant.kind, []).append(mutant)
    chosen = []
    for group in classes.values():
        count = min(limit or len(group), len(group))
        chosen += [group[i * len(group) // count] for i in range(count)]
    return chosen


@lru_cache(maxsize=1)
def trial(number: int) -> Trial:
    """Trial of a subject, which a process keeps for its next task."""
    return Trial(subjects()[number])


def judge(task: tuple[int, int, int | None]) -> list[Outcome]:
    """The outcomes of the mutants of a subject from `first` on, `_TASK` of them."""
    number, first, limit = task
    its = trial(number)
    return [its.judge(mutant) for mutant in choose(its.subject, limit)[first : first + _TASK]]


def table(outcomes: list[Outcome]) -> list[str]:
    """A line for each class of mutants, and one for all."""
    header = ["mutation", "count", "changed", "outside", "effective", *FOUND, "found", "missed"]
    rows = []
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    for kind in [*sorted(kinds), "all"]:
        these = [o for o in outcomes if kind in (o.kind, "all")]
        effective = [o for o in these if o.effective]
        missed = sum(o.missed for o in these)
        counts = [sum(name in o.found for o in effective) for name in FOUND]
        rows.append(
            [
                kind,
                len(these),
                sum(o.changed for o in these),
                sum(o.outside for o in these),
                len(effective),
                *counts,
                len(effective) - missed,
                missed,
            ]
        )
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([str(row[0]).ljust(widths[0]), *cells[1:]]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", default="*", help="only kernels whose name matches")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, help="mutants of a class and kernel, evenly spread")
    parser.add_argument("--json", type=Path, help="write all outcomes to this file")
    arguments = parser.parse_args()

    names = [s.name for s in subjects()]
    chosen = [i for i, name in enumerate(names) if fnmatch(name, arguments.kernels)]
    tasks = [
        (i, first, arguments.limit)
        for i in chosen
        for first in range(0, len(choose(subjects()[i], arguments.limit)), _TASK)
    ]
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for task, part in zip(tasks, pool.map(judge, tasks), strict=True):
            outcomes += part
            print(f"{names[task[0]]}: {len(part)} more", file=sys.stderr, flush=True)
    print("\n".join(table(outcomes)))
    effective = [o for o in outcomes if o.effective]
    found = [o for o in effective if not o.missed]
    without = [o for o in effective if set(o.found) - {"abi"}]
    latent = sum(1 for o in outcomes if not o.effective and set(o.found) - {"abi"})
    total = max(len(effective), 1)
    print(f"{len(chosen)} intact kernels: no finding")
    share = 100 * len(found) / total
    print(f"effective mutants found: {len(found)} of {len(effective)}, {share:.1f}%")
    print(f"by checks alone, without abi: {len(without)}, {100 * len(without) / total:.1f}%")
    print(f"found though nothing changed: {latent}")
    for outcome in outcomes:
        if outcome.missed:
            print(f"missed: {outcome.subject}: {outcome.kind}: {outcome.label}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))


if __name__ == "__main__":
    main()
