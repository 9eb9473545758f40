"""`ferrum-numba bench`: how fast a checkpoint's layers are on a device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..gptq import Checkpoint
from ..report import (
    KindResult,
    Step,
    Timing,
    Verdict,
    describe_format,
    layer_kinds,
    select_layers,
    steps,
    time_layers,
)
from .console import json_option, plain_table, standard_output, tracked, write_json
from .devices import describe_device, device_line, device_option, find_device
from .layer_table import STYLES, Line, counts, exit_code, reasons
from .options import layers_option, m_values_option

_M_VALUES = (1, 16)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@layers_option
@m_values_option(_M_VALUES, "Rows of x (M, K): how many tokens a step computes at a time.")
@device_option("auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N.", default="auto")
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    path: Path,
    patterns: tuple[str, ...],
    m_values: tuple[int, ...],
    device: str,
    as_json: bool,
) -> None:
    """Time a GPTQ checkpoint's layers, and what a step of all takes.

    Of the layers of PATH, a model's directory or one .safetensors file, times the first one of
    each kind by the kernels that the catalogue chooses, beside the canonical kernel and, on the
    CPU, NumPy's product by the weight in float32. Times are medians: on a GPU of launches that
    follow each other in a graph, over more weights than its cache holds; on the CPU of the same
    launch again. Every timed result is looked at: exits with 1 if any is wrong, else with 2 if any
    layer is refused.
    """
    found = find_device(device)
    checkpoint = Checkpoint.open(path)
    names = select_layers(checkpoint, patterns)
    start = time.perf_counter()
    total = len(layer_kinds(checkpoint, names)) + sum(n in checkpoint.problems for n in names)
    results = tracked(time_layers(checkpoint, names, found, m_values), total)
    seconds, whole = time.perf_counter() - start, steps(results, m_values)
    described = describe_device(found)
    if as_json:
        write_json(
            {
                "device": described,
                "checkpoint": str(path),
                "results": results,
                "steps": whole,
                "seconds": seconds,
            }
        )
    else:
        console = standard_output()
        _show(console, results, whole)
        verdicts = [result.verdict for result in results for _ in result.layers]
        console.print(f"{device_line(described)}: {counts(verdicts)}; {seconds:.1f} s")
    ctx.exit(exit_code([result.verdict for result in results]))


def _show(console: Console, results: Sequence[KindResult], whole: Sequence[Step]) -> None:
    for result in results:
        if result.timings:
            console.print(_heading(result))
            console.print(_table(result.timings))
            console.print()
    lines = [
        Line(name, (), result.verdict, result.reason)
        for result in results
        # All are refused for the same reason; of what was computed, one was looked at.
        for name in (result.layers[:1] if result.timings else result.layers)
    ]
    for line in reasons(lines):
        console.print(line)
    layers = sum(len(result.layers) for result in results)
    for step in whole:
        if step.layers:
            console.print(_sentence(step, layers))


def _heading(result: KindResult) -> str:
    kind, more = result.kind, len(result.layers) - 1
    assert kind is not None
    sizes = f"K {kind.K}, N {kind.N}, group size {kind.group_size}, {describe_format(kind)}"
    own = (", bias" if kind.bias else "") + (", bfloat16" if kind.dtype == "bfloat16" else "")
    return f"{result.layers[0]}{f' and {more} like it' if more else ''}: {sizes}{own}"


def _table(timings: Sequence[Timing]) -> Table:
    beside_numpy = timings[0].numpy_seconds is not None
    table = plain_table()
    # Widths that most numbers fit, so that the columns of all tables stand below each other.
    columns = [("M", 4), ("us", 6), ("GB/s", 6), ("TFLOP/s", 8), ("time /\ncanonical's", 11)]
    for header, width in [*columns, *[("time /\nNumPy's", 7)] * beside_numpy]:
        table.add_column(header, justify="right", no_wrap=True, min_width=width)
    table.add_column("kernel", overflow="fold", min_width=10)
    table.add_column("verdict", no_wrap=True, min_width=len("mismatch"))
    for timing in timings:
        own, numpy = timing.own, timing.numpy_seconds
        cells = [
            str(own.m),
            _short(own.seconds * 1e6),
            _short(timing.bytes_per_second / 1e9),
            _short(timing.flop_per_second / 1e12),
            _short(own.seconds / timing.canonical.seconds),
            *([] if numpy is None else [_short(own.seconds / numpy)]),
        ]
        passes = own.passes and timing.canonical.passes
        verdict: Verdict = "pass" if passes else "mismatch"
        table.add_row(*cells, own.kernel, Text(verdict, STYLES[verdict]))
    return table


def _short(number: float) -> str:
    """A number above 0 to three significant digits, or to whole ones, never with an exponent."""
    return f"{number:,.{max(0, 2 - math.floor(math.log10(number)))}f}"


def _sentence(step: Step, layers: int) -> str:
    """What a step takes; layers: all that were asked for."""
    of = f"{layers} layers" if layers != 1 else "1 layer"
    if step.layers != layers:
        of = f"{step.layers} of {of}"
    line = f"M = {step.m}: {_short(step.seconds * 1e3)} ms a step of {of}"
    line += f", {_short(step.steps_per_second)} steps/s"
    line += f"; by the canonical kernel {_short(step.canonical_seconds * 1e3)} ms"
    if step.numpy_seconds is not None:
        line += f", by NumPy {_short(step.numpy_seconds * 1e3)} ms"
    return line
