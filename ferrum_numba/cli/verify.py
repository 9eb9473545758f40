"""`ferrum-numba verify`: every layer of a checkpoint, against the float32 reference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..devices import Device
from ..gptq import Checkpoint, ZeroFormat
from ..report import M_VALUES, TOLERANCE, LayerResult, Verdict, select_layers, verify_checkpoint
from .console import json_option, plain_table, standard_error, standard_output, write_json
from .devices import describe_device, device_line, device_option, find_device

_STYLES: dict[Verdict, str] = {"pass": "green", "mismatch": "bold red", "refused": "yellow"}
_NAMED = 3  # layers that a reason names before it only counts


def _read_m_values(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """`1,16,64` as numbers, each at least 1."""
    numbers = [part.strip() for part in value.split(",")]
    if not all(number.isdecimal() and int(number) for number in numbers):
        message = f"expected numbers from 1 with commas between, found {value!r}"
        raise click.BadParameter(message, ctx, param)
    return tuple(int(number) for number in numbers)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--layers",
    "patterns",
    metavar="GLOB",
    multiple=True,
    help="Only layers whose name matches, such as '*.self_attn.*'; may be given several times.",
)
@click.option(
    "--m",
    "m_values",
    metavar="M,M,...",
    callback=_read_m_values,
    default=",".join(map(str, M_VALUES)),
    show_default=True,
    help="Rows of the random x (M, K) to test with.",
)
@click.option(
    "--zero-format",
    type=click.Choice(get_args(ZeroFormat)),
    help="How zeros are stored, where the file's label is missing or wrong.",
)
@click.option("--group-size", type=int, help="Rows in a group, for a file without a configuration.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of x.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU device.")
@device_option("auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N.", "auto")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    path: Path,
    patterns: tuple[str, ...],
    m_values: tuple[int, ...],
    zero_format: ZeroFormat | None,
    group_size: int | None,
    seed: int,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Test a GPTQ checkpoint's layers against float32.

    Runs each layer of PATH, a model's directory or one .safetensors file, on a device, and
    compares the result with the reference: x @ dequantised weight + bias in float32. Exits with 1
    if any layer mismatches, else with 2 if any is refused.
    """
    opened = find_device(device, threads)
    checkpoint = Checkpoint.open(path, zero_format=zero_format, group_size=group_size)
    start = time.perf_counter()
    results = list(_run(checkpoint, opened, m_values, patterns, seed))
    summary = _summary(results, time.perf_counter() - start)
    described = describe_device(opened)
    if as_json:
        write_json(
            {
                "device": described,
                "checkpoint": str(path),
                "seed": seed,
                "results": results,
                "summary": summary,
            }
        )
    else:
        _show(standard_output(), described, results, summary, m_values)
    ctx.exit(exit_code(results))


def exit_code(results: Sequence[LayerResult]) -> int:
    """0 if all pass, 1 if any mismatches, else 2."""
    verdicts = {result.verdict for result in results}
    return 1 if "mismatch" in verdicts else 2 if "refused" in verdicts else 0


def _run(
    checkpoint: Checkpoint,
    device: Device,
    m_values: Sequence[int],
    patterns: Sequence[str],
    seed: int,
) -> Iterator[LayerResult]:
    """The results, with a progress bar where somebody is looking."""
    console = standard_error()
    progress = Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    results = verify_checkpoint(checkpoint, device, m_values=m_values, layers=patterns, seed=seed)
    with progress:
        names = select_layers(checkpoint, patterns)
        task = progress.add_task(names[0], total=len(names))
        for name, result in zip([*names[1:], ""], results, strict=True):
            progress.update(task, advance=1, description=name)
            yield result


def _summary(results: Sequence[LayerResult], seconds: float) -> dict[str, Any]:
    verdicts = [result.verdict for result in results]
    measured = [result.relative_error for result in results if result.measurements]
    return {
        "layers": len(results),
        **{str(verdict): verdicts.count(verdict) for verdict in _STYLES},
        "worst_relative_error": float(np.max(measured)) if measured else None,
        "tolerance": TOLERANCE,
        "seconds": seconds,
    }


def _show(
    console: Console,
    device: dict[str, Any],
    results: Sequence[LayerResult],
    summary: dict[str, Any],
    m_values: Sequence[int],
) -> None:
    console.print(_layers(console, results, m_values))
    console.print()
    for line in _reasons(results):
        console.print(line)
    console.print(_summary_line(device, summary))


def _layers(
    console: Console, results: Sequence[LayerResult], m_values: Sequence[int]
) -> RenderableType:
    """A table with whole names, else with what they share put above; lines if it is too wide."""
    unbounded = console.options.update(width=10_000)
    table = _table(results, m_values, prefix="")
    if console.measure(table, options=unbounded).maximum <= console.width:
        return table
    prefix = _shared_prefix([result.layer for result in results])
    table = _table(results, m_values, prefix)
    if console.measure(table, options=unbounded).minimum <= console.width:
        return Group(f"{prefix}…\n", table) if prefix else table
    return Group(*map(_lines, results))


def _table(results: Sequence[LayerResult], m_values: Sequence[int], prefix: str) -> Table:
    """A row for each layer, named without `prefix`; errors are the worst over M."""
    table = plain_table()
    table.add_column("layer", overflow="fold", min_width=16)
    for header in ("K", "N", "G"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("format", no_wrap=True)
    table.add_column("max abs\nerror", justify="right", no_wrap=True)
    table.add_column("relative\nerror", justify="right", no_wrap=True)
    times = ["ms at M =", ", ".join(map(str, m_values)), *map(_milliseconds, results)]
    table.add_column("\n".join(times[:2]), justify="right", min_width=max(map(len, times)))
    table.add_column("verdict", no_wrap=True)
    for result in results:
        measured = bool(result.measurements)
        table.add_row(
            result.layer.removeprefix(prefix),
            str(result.K),
            str(result.N),
            str(result.group_size),
            _format(result),
            f"{result.max_abs_error:.1e}" if measured else "",
            f"{result.relative_error:.1e}" if measured else "",
            _milliseconds(result),
            Text(result.verdict, _STYLES[result.verdict]),
        )
    return table


def _lines(result: LayerResult) -> Text:
    """What a row of the table says, for a console that is too narrow for one."""
    what = f"K {result.K}, N {result.N}, G {result.group_size}, {_format(result)}"
    if result.measurements:
        what += f"; max abs error {result.max_abs_error:.1e}, relative {result.relative_error:.1e}"
        what += f"; ms {_milliseconds(result)}"
    return Text.assemble((result.verdict, _STYLES[result.verdict]), f" {result.layer}: {what}")


def _format(result: LayerResult) -> str:
    return result.zero_format if result.bits == 4 else f"{result.bits} bits"


def _shared_prefix(names: Sequence[str]) -> str:
    """What all names start with, up to a dot; at least the last part of each is left."""
    prefix = ""
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        prefix += f"{parts[0]}."
    return prefix


def _milliseconds(result: LayerResult) -> str:
    """The times for each M: three significant digits from 1 ms on, never an exponent."""
    numbers = [measured.seconds * 1e3 for measured in result.measurements]
    return "  ".join(f"{n:.{2 if n < 10 else 1 if n < 100 else 0}f}" for n in numbers)


def _reasons(results: Sequence[LayerResult]) -> Iterator[Text]:
    """Why layers did not pass; a reason that several share is said once."""
    shared: dict[tuple[Verdict, str], list[str]] = {}
    for result in results:
        if result.verdict != "pass":
            shared.setdefault((result.verdict, result.reason), []).append(result.layer)
    for (verdict, reason), names in shared.items():
        more = len(names) - _NAMED
        layers = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield Text.assemble((verdict, _STYLES[verdict]), f": {layers}: {reason}")


def _summary_line(device: dict[str, Any], summary: dict[str, Any]) -> str:
    counts = ", ".join(f"{summary[v]} {v}" for v in _STYLES if summary[v] or v == "pass")
    worst = summary["worst_relative_error"]
    layers = f"{summary['layers']} layer{'s' if summary['layers'] != 1 else ''}"
    line = f"{device_line(device)}: {layers}: {counts}"
    if worst is not None:
        line += f"; worst relative error {worst:.1e}, tolerance {summary['tolerance']:.0e}"
    return f"{line}; {summary['seconds']:.1f} s"
