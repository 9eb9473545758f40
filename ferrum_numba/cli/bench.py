"""`ferrum-numba bench`: how fast a checkpoint's layers are on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from ..devices import Device
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
from ..report.model_timing import time_model
from . import clock
from .console import json_option, plain_table, standard_output, tracked, write_json
from .devices import describe_device, device_line, device_option, find_device
from .fitting import Column, print_fitted
from .generate import load_model
from .layer_table import STYLES, Line, counts, exit_code, reasons
from .options import examples, layers_option, m_values_option, numbers_option, refuse_options

_M_VALUES = (1, 16)


@click.command(
    epilog=examples(
        "ferrum-numba bench example --m 1,16 --device cpu",
    )
)
@click.argument("path", type=click.Path(path_type=Path))
@layers_option
@m_values_option(_M_VALUES, "Rows of x (M, K): how many tokens a step computes at a time.")
@click.option("--model", "whole", is_flag=True, help="Time the whole model instead of its layers.")
@numbers_option("--batch", "batch", "B", (1,), "With --model: sequences that a step continues.")
@numbers_option("--context", "context", "T", (512,), "With --model: their tokens.")
@device_option("auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N.", default="auto")
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    path: Path,
    patterns: tuple[str, ...],
    m_values: tuple[int, ...],
    whole: bool,
    batch: tuple[int, ...],
    context: tuple[int, ...],
    device: str,
    as_json: bool,
) -> None:
    """Time a GPTQ checkpoint's layers, and a step of all of them.

    Of the layers of PATH, a model's directory or one .safetensors file, times the first one of
    each kind by the kernels that the catalogue chooses, beside the canonical kernel and, on the
    CPU, NumPy's product by the weight in float32. Times are medians: on a GPU of launches that
    follow each other in a graph, over more weights than its cache holds; on the CPU of the same
    launch again. Every timed result is looked at: exits with 1 if any is wrong, else with 2 if any
    layer is refused.

    With --model times whole prompts, up to a first token's logits, and steps of a batch; on a GPU
    with the share of the bandwidth that its memory has on paper.
    """
    found = find_device(device)
    if whole:
        refuse_options(ctx, ("patterns", "m_values"), "only without --model")
        _bench_model(path, found, batch, context, as_json)
        return
    refuse_options(ctx, ("batch", "context"), "only with --model")
    checkpoint = Checkpoint.open(path)
    names = select_layers(checkpoint, patterns)
    total = len(layer_kinds(checkpoint, names)) + sum(n in checkpoint.problems for n in names)
    results = tracked(time_layers(checkpoint, names, found, m_values), total)
    seconds, all_steps = clock.elapsed(), steps(results, m_values)
    described = describe_device(found)
    if as_json:
        write_json(
            {
                "device": described,
                "checkpoint": str(path),
                "results": results,
                "steps": all_steps,
                "seconds": seconds,
            }
        )
    else:
        console = standard_output()
        _show(console, results, all_steps)
        verdicts = [result.verdict for result in results for _ in result.layers]
        console.print(f"{device_line(described)}: {counts(verdicts)}; {seconds:.1f} s")
    ctx.exit(exit_code([result.verdict for result in results]))


def _bench_model(
    path: Path, device: Device, batches: Sequence[int], contexts: Sequence[int], as_json: bool
) -> None:
    """Time prompts and steps of a whole model."""
    model = load_model(path, device)
    timings = tracked(time_model(model, batches, contexts), len(contexts) * (1 + len(batches)))
    described, chip = describe_device(device), getattr(device, "chip", None)
    share = [t.bytes_per_second / chip.bandwidth / 1e6 if chip else None for t in timings]
    if as_json:
        rates = ("tokens_per_second", "bytes_per_second")
        rows = [
            asdict(t) | {name: getattr(t, name) for name in rates} | {"bandwidth_share": own}
            for t, own in zip(timings, share, strict=True)
        ]
        write_json({"device": described, "model": str(path), "timings": rows})
        return
    table = plain_table()
    headers = ("", "batch", "tokens", "ms", "tokens/s", "GB/s read")
    for header in (*headers, *(("of its bandwidth",) if chip else ())):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for timing, own in zip(timings, share, strict=True):
        of = ["prompt", "1"] if timing.batch is None else ["step", str(timing.batch)]
        numbers = (timing.seconds * 1e3, timing.tokens_per_second, timing.bytes_per_second / 1e9)
        shown = [] if own is None else [f"{own:.0%}"]
        table.add_row(*of, str(timing.context), *map(_short, numbers), *shown)
    console = standard_output()
    console.print(table)
    console.print(f"{device_line(described)}: {model.nbytes / 1e6:,.0f} MB of weights")


def _show(console: Console, results: Sequence[KindResult], whole: Sequence[Step]) -> None:
    for result in results:
        if result.timings:
            console.print(_heading(result))
            print_fitted(console, *_table(result.timings))
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


def _table(timings: Sequence[Timing]) -> tuple[list[Column], list[list[str | Text]]]:
    """The columns, and a row for each M."""
    beside_numpy = timings[0].numpy_seconds is not None
    columns = [Column("M", True), Column("us", True), Column("GB/s", True, 2)]
    columns += [Column("TFLOP/s", True, 4), Column("time /\ncanonical's", True, 5)]
    columns += [Column("time /\nNumPy's", True, 3)] * beside_numpy
    columns += [Column("kernel", least=16, rank=1), Column("verdict")]
    rows: list[list[str | Text]] = []
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
        rows.append([*cells, own.kernel, Text(verdict, STYLES[verdict])])
    return columns, rows


def _short(number: float) -> str:
    """A number above 0 to three significant digits, or to whole ones, never with an exponent."""
    return f"{number:,.{max(0, 2 - math.floor(math.log10(number)))}f}"


def _sentence(step: Step, layers: int) -> str:
    """Sentence that says how long a step takes; layers: all that were asked for."""
    of = f"{layers} layers" if layers != 1 else "1 layer"
    if step.layers != layers:
        of = f"{step.layers} of {of}"
    line = f"M = {step.m}: {_short(step.seconds * 1e3)} ms a step of {of}"
    line += f", {_short(step.steps_per_second)} steps/s"
    line += f"; by the canonical kernel {_short(step.canonical_seconds * 1e3)} ms"
    if step.numpy_seconds is not None:
        line += f", by NumPy {_short(step.numpy_seconds * 1e3)} ms"
    return line
