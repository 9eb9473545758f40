"""Two checkpoints, or one checkpoint on two devices, layer by layer, for `ferrum-numba compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..gptq import Checkpoint
from ..report import (
    Comparison,
    all_layers,
    check_extra,
    compare_checkpoints,
    compare_devices,
    compare_results,
    comparison_page,
    matching,
    select_layers,
    write_page,
)
from . import clock
from .console import standard_output, tracked, write_json
from .devices import describe_device, device_line, find_device
from .fitting import Column
from .layer_table import Line, counts, exit_code, print_comparison, verdict_counts
from .verify import write_file

_COLUMNS = (
    Column("K", True, 5),
    Column("N", True, 4),
    Column("A", False, 3),
    Column("B", False, 3),
    Column("equal", True, 2),
    Column("max abs\ndifference", True, 6),
    Column("relative\ndifference", True, 1),
)


def compare_layers(
    a: Path,
    b: Path | None,
    devices: tuple[str, str] | None,
    device: str | None,
    patterns: tuple[str, ...],
    tolerance: float,
    m: int,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> int:
    """Compare, and write what was found; the exit code."""
    if (b is None) == (devices is None):
        raise click.UsageError("expected two checkpoints, or one and --devices")
    if html is not None:
        check_extra()
    first = Checkpoint.open(a)
    if devices is None:
        assert b is not None
        second = Checkpoint.open(b)
        names = matching(all_layers(first, second), patterns, f"{a} or {b}")
        sides: dict[str, Any] = {"a": str(a), "b": str(b)}
        said = [("A", str(a)), ("B", str(b))]
        found = compare_checkpoints(first, second, names, tolerance)
        if device is not None:
            on = find_device(device)
            found = compare_results(first, second, names, on, m, seed)
            sides |= {"device": describe_device(on), "m": m, "seed": seed}
            said.append(("on", device_line(sides["device"])))
        results = tracked(found, len(names))
    else:
        opened = (find_device(devices[0]), find_device(devices[1]))
        names = select_layers(first, patterns)
        results = tracked(compare_devices(first, names, opened, m, seed), len(names))
        described = [describe_device(device) for device in opened]
        sides = {"checkpoint": str(a), "devices": described, "m": m, "seed": seed}
        said = [("checkpoint", str(a))]
        said += [(side, device_line(d)) for side, d in zip("AB", described, strict=True)]
    summary = _summary(results, clock.elapsed())
    if as_json:
        write_json({**sides, "results": results, "summary": summary})
    else:
        _show(said, results, summary)
    if html is not None:
        subject = " and ".join(value for name, value in said if name in ("A", "B"))
        page = comparison_page(subject, [*said, ("time", f"{summary['seconds']:.1f} s")], results)
        write_file(html, lambda: write_page(html, page))
    return exit_code([result.verdict for result in results])


def _summary(results: Sequence[Comparison], seconds: float) -> dict[str, Any]:
    numbers = verdict_counts([result.verdict for result in results])
    return {"layers": len(results), **numbers, "seconds": seconds}


def _show(
    said: Sequence[tuple[str, str]], results: Sequence[Comparison], summary: dict[str, Any]
) -> None:
    total = f"{counts([result.verdict for result in results])}; {summary['seconds']:.1f} s"
    print_comparison(standard_output(), _COLUMNS, [_line(r) for r in results], said, total)


def _line(result: Comparison) -> Line:
    measured = result.equal == result.equal
    cells = (
        str(result.K or ""),
        str(result.N or ""),
        result.format_a,
        result.format_b,
        f"{result.equal:.2%}" if measured else "",
        f"{result.max_abs_error:.1e}" if measured else "",
        f"{result.relative_error:.1e}" if measured else "",
    )
    cause = result.explanation.cause.sentence if result.explanation else ""
    return Line(result.layer, cells, result.verdict, result.reason, cause)
