"""Thousands of operands through every opcode of the CPU device, compared with NumPy and a GPU.

    python scripts/check_opcodes.py [--devices cpu,cuda] [--cases 4096] [--seed 0] [--only TEXT]

Prints a row for each form of an opcode: the cases, how many results differ from the NumPy model
where there is one, how many differ between the devices, how many NaN differ in their bits alone,
and the tolerance ("bits": none).  Exits with 1 where anything differs or cannot be run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

import ferrum_numba as fe
from tests.campaigns.opcode_cases import Case, catalogue
from tests.campaigns.opcode_cases.case import BLOCK, HELD, Array, seen
from tests.campaigns.opcode_cases.comparison import differing, run

Results = list[Array] | str  # or why there are none


def attempt(device: str, index: int, n: int, seed: int) -> Results:
    """The results of a case of the catalogue on a device; "model": those of its model."""
    case = _CASES[index]
    inputs = case.inputs(n, seed)
    if device == "model":
        if case.model is None:
            return []
        model = case.model(*inputs)
        return model if isinstance(model, list) else [model]
    try:
        return run(fe.open_device(device), case, inputs, n)
    except fe.FerrumError as error:
        return str(error).strip()


_CASES = catalogue()


def compared(case: Case, n: int, seed: int, results: dict[str, Results]) -> dict[str, Any]:
    """One row of the table."""
    inputs = case.inputs(n, seed)
    row: dict[str, Any] = {"family": case.family, "opcode": case.name, "cases": n}
    row["tolerance"] = str(case.rule)
    row |= {f"{k} error": v for k, v in results.items() if isinstance(v, str)}
    if isinstance(results["cpu"], str):
        return row
    types = [ptx_type for ptx_type, _ in case.results]
    others = {k: v for k, v in results.items() if k != "cpu" and v and not isinstance(v, str)}
    for name, arrays in others.items():
        counts = [0, 0]
        for found, expected, t in zip(results["cpu"], arrays, types, strict=True):
            expected = np.ascontiguousarray(expected).view(HELD[t])
            wrong, payloads, where = differing(found, expected, t, case.rule)
            counts = [counts[0] + wrong, counts[1] + payloads]
            if wrong:
                row.setdefault("examples", []).extend(
                    _example(name, inputs, found, expected, t, i, n) for i in where
                )
        row[name], row[f"{name} nan"] = counts
        if counts[1]:
            row[f"{name} nan bits"] = _nan_bits(results["cpu"], arrays, types)
    return row


def _nan_bits(found: Sequence[Array], expected: Sequence[Array], types: Sequence[str]) -> str:
    """The most frequent NaN that differ in bits: here and there."""
    pairs: Counter[str] = Counter()
    for x, y, t in zip(found, expected, types, strict=True):
        x, y = (seen(np.ascontiguousarray(v).view(HELD[t]).reshape(-1), t) for v in (x, y))
        bits = f"u{x.itemsize}"
        differ = np.isnan(y.astype(np.float64)) & (x.view(bits) != y.view(bits))
        rows = zip(x.view(bits)[differ].tolist(), y.view(bits)[differ].tolist(), strict=True)
        pairs.update(f"{a:#x} there {b:#x}" for a, b in rows)
    return ", ".join(f"{text} ({count})" for text, count in pairs.most_common(2))


def _example(
    name: str, inputs: Sequence[Array], found: Array, expected: Array, t: str, i: int, n: int
) -> str:
    x, y = (seen(np.ascontiguousarray(v).view(HELD[t]).reshape(-1), t) for v in (found, expected))
    operands = []
    for array in inputs:
        if len(array) == n:
            item = array[i * n // max(len(x), 1)]
            operands.append(f"{int(item) & (1 << 8 * item.itemsize) - 1:#x}")
    bits = [f"{int(v[i : i + 1].view(f'u{v.itemsize}')[0]):#x}" for v in (x, y)]
    return f"{' '.join(operands)}: cpu {bits[0]} ({x[i]}), {name} {bits[1]} ({y[i]})"


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """The rows as text; a dash where there is nothing to compare with."""
    heads = ["family", "opcode", "cases", *columns, "tolerance"]
    cells = [[str(row.get(head, "-")) for head in heads] for row in rows]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    lines = []
    for line in [heads, *cells]:
        lines.append(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        )
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each family."""
    result: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = result.setdefault(
            row["family"], {"family": row["family"], "opcode": 0, "cases": 0, "tolerance": ""}
        )
        total["opcode"] += 1
        total["cases"] += row["cases"]
        for column in columns:
            if column in row:
                total[column] = total.get(column, 0) + row[column]
    return list(result.values())


def campaign(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the chosen cases: CPU and models in several processes, the GPU in this one."""
    whole = -(-arguments.cases // BLOCK) * BLOCK
    jobs = []
    for index, case in enumerate(_CASES):
        if arguments.only in f"{case.family} {case.name}":
            n = whole if case.family != "wgmma" else max(whole // 16 // BLOCK, 2) * BLOCK
            jobs.append((index, n, arguments.seed))
    names = arguments.devices.split(",")
    results: dict[str, list[Results]] = {}
    # The processes are made before anything touches a GPU.
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in ("cpu", "model"):
            columns = ([name] * len(jobs), *zip(*jobs, strict=True))
            results[name] = list(pool.map(attempt, *columns, chunksize=4))
    for name in names:
        if name not in results:
            results[name] = [attempt(name, *job) for job in jobs]
    return [
        compared(_CASES[index], n, seed, {name: found[i] for name, found in results.items()})
        for i, (index, n, seed) in enumerate(jobs)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default="cpu", help="cpu, or cpu,cuda")
    parser.add_argument("--cases", type=int, default=4096, help="of each opcode's operands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="opcodes whose row contains this text")
    parser.add_argument("--brief", action="store_true", help="families, and rows that differ")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = campaign(arguments)
    columns = [c for c in ("model", "model nan", "cuda", "cuda nan") if any(c in r for r in rows)]
    bad = [r for r in rows if r.get("model") or r.get("cuda") or any("error" in k for k in r)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 1 if bad else 0
    if not arguments.brief:
        print(table(rows, columns))
    print(table(summary(rows, columns), columns))
    for row in bad:
        print(table([row], columns).splitlines()[1])
        for key, value in row.items():
            if "error" in key:
                print(f"    {key}: {value}")
        for line in row.get("examples", [])[:4]:
            print(f"    {line}")
    seconds = time.perf_counter() - start
    print(f"{len(rows)} opcodes, {sum(r['cases'] for r in rows)} cases, {seconds:.0f} s", end="; ")
    print(f"{len(bad)} opcodes differ" if bad else "none differs")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
