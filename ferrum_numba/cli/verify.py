"""`ferrum-numba verify`: every layer of a checkpoint, against the float32 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from ..devices import Device
from ..gptq import Checkpoint, GroupIndex, ZeroFormat, expert_problems
from ..report import (
    M_VALUES,
    NUMPY_DTYPES,
    LayerResult,
    Oracle,
    Plan,
    check_extra,
    describe_format,
    layer_page,
    write_junit,
    write_page,
)
from ..version import __version__
from . import clock
from .console import json_option, one_line, standard_error, standard_output, write_json
from .devices import describe_device, device_line, find_device
from .experts_note import mention_experts
from .fitting import Column
from .layer_table import Line, counts, exit_code, print_layers, verdict_counts, warnings
from .options import (
    examples,
    file_option,
    group_size_option,
    layers_option,
    m_values_option,
    output_option,
    repeated_option,
    seed_option,
    threads_option,
)
from .remedies import as_options, options_of
from .verification import Verification


@click.command(
    epilog=examples(
        "ferrum-numba verify example",
        "ferrum-numba verify example --layers '*.mlp.*' --m 1,64 --html report.html",
    )
)
@click.argument("path", type=click.Path(path_type=Path))
@layers_option
@m_values_option(M_VALUES, "Rows of the random x (M, K) to test with.")
@click.option(
    "--device",
    "names",
    metavar="NAME",
    multiple=True,
    default=("auto",),
    help="auto (a GPU, else the CPU; the default), cpu, cuda or cuda:N; given several times, "
    "the layers are spread over the devices.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(NUMPY_DTYPES)),
    default="float16",
    show_default=True,
    help="Type of x, of y and of the computation.",
)
@repeated_option(
    "--kernel",
    "kernels",
    "NAME",
    "A shipped kernel (see info --kernels) instead of the catalogue's choice; given several times, "
    "each layer is tested with each.",
)
@file_option(
    "--oracle",
    "A .safetensors file of stored results to compare with: x_<K> and <layer>.y_f32, or "
    "<layer>.dequant.",
)
@click.option(
    "--zero-format",
    type=click.Choice(get_args(ZeroFormat)),
    help="How zeros are stored, where the file's label is missing or wrong.",
)
@group_size_option("Rows in a group, for a file without a configuration.")
@seed_option("x")
@threads_option
@click.option(
    "--g-idx",
    type=click.Choice(get_args(GroupIndex)),
    default="file",
    show_default=True,
    help="ignore: read rows in order, whatever g_idx says.",
)
@click.option("--unindexed", is_flag=True, help="Also test layers that the index does not name.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings about a layer's values.")
@repeated_option(
    "--explain",
    "explain",
    "GLOB",
    "Diagnose layers that match even if they pass; those that fail always are.",
)
@file_option(
    "--resume", "Go on with a run: skip the layers in FILE (JSON lines), append the others."
)
@file_option("--jsonl", "Write a line of JSON for each layer as it is done.")
@output_option("--junit", "Write JUnit XML.")
@output_option("--html", "Write a page: where errors lie, and their likely causes.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    path: Path,
    patterns: tuple[str, ...],
    m_values: tuple[int, ...],
    names: tuple[str, ...],
    dtype: Any,
    kernels: tuple[str, ...],
    oracle: Path | None,
    zero_format: ZeroFormat | None,
    group_size: int | None,
    g_idx: GroupIndex,
    unindexed: bool,
    strict: bool,
    seed: int,
    threads: int | None,
    explain: tuple[str, ...],
    resume: Path | None,
    jsonl: Path | None,
    junit: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Test a GPTQ checkpoint's layers against float32.

    Runs each layer of PATH, a model's directory or one .safetensors file, on a device, and
    compares the result with the reference: x @ dequantised weight + bias in float32, or a stored
    result. Warns of values that no trained layer has, such as constant words and scales of 0.
    Exits with 1 if any layer mismatches, else with 2 if any is refused.
    """
    if resume is not None and jsonl is not None:
        raise click.UsageError("--jsonl: not with --resume, which writes the same lines")
    if html is not None:
        check_extra()
    devices = find_devices(names, threads)
    checkpoint = Checkpoint.open(
        path, zero_format=zero_format, group_size=group_size, g_idx=g_idx, unindexed=unindexed
    )
    _mention_unindexed(checkpoint)
    experts = expert_problems(checkpoint)
    mention_experts(experts)
    stored = Oracle.open(oracle) if oracle else None
    plan = Plan(m_values=m_values, dtype=dtype, seed=seed, oracle=stored)
    run = Verification(checkpoint, devices, plan, patterns, kernels, explain)
    results = run.results(resume or jsonl, again=resume is None)
    described = [describe_device(device) for device in devices]
    try:
        if junit is not None:
            suite = f"ferrum-numba verify {path.name}"
            write_file(junit, lambda: write_junit(junit, suite, results))
        if html is not None:
            explained = run.explain_worst_passing(results)
            facts = _facts(described, _summary(results, clock.elapsed()), plan)
            write_file(html, lambda: write_page(html, layer_page(str(path), facts, explained)))
    except KeyboardInterrupt:
        standard_error().print(f"interrupted: all layers are done; {html or junit} is not written")
        raise
    finally:  # a full disk, or Ctrl-C, takes no results away
        summary = _summary(results, clock.elapsed())
        if as_json:
            write_json(
                {
                    "devices": described,
                    "checkpoint": str(path),
                    "dtype": dtype,
                    "seed": seed,
                    "results": results,
                    "experts": experts,
                    "summary": summary,
                }
            )
        else:
            _show(described, results, summary, m_values)
    code = exit_code([result.verdict for result in results])
    ctx.exit(1 if strict and summary["warnings"] else code)


def _mention_unindexed(checkpoint: Checkpoint) -> None:
    """Say which layers are left out; those that were asked for have a note of their own."""
    left_out = [name for name in checkpoint.unindexed if name not in checkpoint.layers]
    if left_out:
        first, *more = map(one_line, left_out)
        named = f"{first} and {len(more)} more" if more else first
        standard_error().print(
            f"note: {named}: expected layers that the index names, found that it passes over them; "
            "left out (--unindexed tests them)"
        )


def find_devices(names: Sequence[str], threads: int | None = None) -> list[Device]:
    """`find_device` for each name, each device once; threads are those of the CPU among them."""
    if threads is not None and len(names) > 1 and "cpu" not in names:
        raise click.UsageError(f"--threads: only the CPU device has them, found {', '.join(names)}")
    found: dict[str, Device] = {}
    for name in names:
        its_own = threads if len(names) == 1 or name == "cpu" else None
        device = find_device(name, its_own)
        found.setdefault(device.name, device)
    return list(found.values())


def write_file(path: Path, write: Callable[[], None]) -> None:
    """Write a report; where that is not possible, a usage error that names it."""
    try:
        write()
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be written: {error.strerror}") from error


def _summary(results: Sequence[LayerResult], seconds: float) -> dict[str, Any]:
    measured = [result for result in results if result.measurements]
    errors = [result.relative_error for result in measured]
    return {
        "layers": len(results),
        **verdict_counts([result.verdict for result in results]),
        "worst_relative_error": float(np.max(errors)) if errors else None,
        "worst_ratio": float(np.max([r.worst_ratio for r in measured])) if measured else None,
        "warnings": sum(len(result.warnings) for result in results),
        "seconds": seconds,
    }


def _facts(
    devices: Sequence[dict[str, Any]], summary: dict[str, Any], plan: Plan
) -> list[tuple[str, str]]:
    """Facts that stand above the page's table."""
    reference = "float32 on the host" if plan.oracle is None else f"{plan.oracle.path}"
    seconds = max(summary["seconds"], 1e-9)
    return [
        *(("device", device_line(device)) for device in devices),
        ("versions", f"ferrum-numba {__version__}, NumPy {np.__version__}"),
        ("inputs", f"M = {', '.join(map(str, plan.m_values))}, {plan.dtype}, seed {plan.seed}"),
        ("reference", reference),
        ("time", f"{seconds:.1f} s, {summary['layers'] / seconds:.1f} layers/s"),
    ]


def _show(
    devices: Sequence[dict[str, Any]],
    results: Sequence[LayerResult],
    summary: dict[str, Any],
    m_values: Sequence[int],
) -> None:
    console = standard_output()
    kernels, several = any(result.kernel for result in results), len(devices) > 1
    times = f"ms at M =\n{', '.join(map(str, m_values))}"
    columns = [Column("K", True, 3), Column("N", True, 2), Column("G", True, 5)]
    columns += [Column("format", False, 6)]
    columns += [Column("device")] * several + [Column("kernel", least=20)] * kernels
    columns += [Column("max abs\nerror", True, 7), Column("relative\nerror", True, 1)]
    columns += [Column("of\nbound", True, 1), Column(times, True, 4)]
    lines = [_line(result, several, kernels) for result in results]
    print_layers(console, columns, lines)
    for line in warnings([(r.layer, said) for r in results for said in r.warnings]):
        console.print(line)
    for note in dict.fromkeys(result.note for result in results if result.note):
        layers = sum(result.note == note for result in results)
        console.print(f"note: {layers} layer{'s' if layers != 1 else ''}: {note}")
    summary = summary | {"seconds": clock.elapsed()}  # thousands of rows take a while to print
    console.print(_summary_line(devices, results, summary))


def _line(result: LayerResult, several_devices: bool, kernels: bool) -> Line:
    """A row of the table; errors are the worst over M."""
    measured = bool(result.measurements)
    sizes = (result.K, result.N, result.group_size)
    cells = [*(str(size) if size else "" for size in sizes), describe_format(result)]
    cells += [result.device] * several_devices + [result.kernel or ""] * kernels
    cells += [
        f"{result.max_abs_error:.1e}" if measured else "",
        f"{result.relative_error:.1e}" if measured else "",
        f"{result.worst_ratio:.3g}" if measured else "",
        _milliseconds(result),
    ]
    cause = result.explanation.cause.sentence if result.explanation else ""
    reason = as_options(result.reason, options_of(verify))
    return Line(result.layer, tuple(cells), result.verdict, reason, cause)


def _milliseconds(result: LayerResult) -> str:
    """The times for each M: three significant digits from 1 ms on, never an exponent."""
    numbers = [measured.seconds * 1e3 for measured in result.measurements]
    return "  ".join(f"{n:.{2 if n < 10 else 1 if n < 100 else 0}f}" for n in numbers)


def _summary_line(
    devices: Sequence[dict[str, Any]], results: Sequence[LayerResult], summary: dict[str, Any]
) -> str:
    line = "; ".join(device_line(device) for device in devices)
    line += f": {counts([result.verdict for result in results])}"
    if summary["worst_ratio"] is not None:
        line += f"; worst relative error {summary['worst_relative_error']:.1e}"
        line += f", {summary['worst_ratio']:.3g} of its bound"
    if summary["warnings"]:
        line += f"; {summary['warnings']} warning{'s' if summary['warnings'] > 1 else ''}"
    return f"{line}; {summary['seconds']:.1f} s"
