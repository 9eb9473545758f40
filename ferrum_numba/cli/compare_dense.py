"""A quantised checkpoint beside the dense model, layer by layer, for `ferrum-numba compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..gptq import Checkpoint, DenseModel
from ..report import Inputs, Loss, measure_loss, select_layers
from . import clock
from .console import standard_output, tracked, write_json
from .fitting import Column
from .layer_table import Line, counts, exit_code, print_comparison, verdict_counts

_COLUMNS = (
    Column("K", True, 5),
    Column("N", True, 4),
    Column("bits", True, 6),
    Column("G", True, 7),
    Column("weights'\nerror", True, 2),
    Column("of\nrounding", True, 1),
    Column("outputs'\nerror", True, 1),
    Column("worst\ncolumn", True, 3),
)


def compare_dense(
    a: Path,
    b: Path,
    patterns: Sequence[str],
    tolerance: float,
    m: int,
    seed: int,
    x: Path | None,
    as_json: bool,
) -> int:
    """Measure what quantisation lost, and write it; the exit code."""
    checkpoint, dense = Checkpoint.open(a), DenseModel.open(b)
    names = select_layers(checkpoint, patterns)
    inputs = None if x is None else Inputs.open(x)
    found = measure_loss(
        checkpoint, dense, names, inputs=inputs, m=m, seed=seed, tolerance=tolerance
    )
    results = tracked(found, len(names))
    summary = _summary(results, clock.elapsed())
    if as_json:
        sides = {"a": str(a), "b": str(b), "x": None if x is None else str(x), "m": m, "seed": seed}
        write_json({**sides, "results": results, "summary": summary})
    else:
        _show([("A", str(a)), ("B", f"{b}, dense"), ("x", _inputs(results))], results, summary)
    return exit_code([result.verdict for result in results])


def _summary(results: Sequence[Loss], seconds: float) -> dict[str, Any]:
    errors = [result.output_error for result in results if result.output_error >= 0]
    return {
        "layers": len(results),
        **verdict_counts([result.verdict for result in results]),
        "mean_output_error": float(np.mean(errors)) if errors else None,
        "worst_output_error": float(np.max(errors)) if errors else None,
        "seconds": seconds,
    }


def _inputs(results: Sequence[Loss]) -> str:
    names = dict.fromkeys(result.inputs for result in results if result.inputs)
    return ", ".join([*names][:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _show(
    said: Sequence[tuple[str, str]], results: Sequence[Loss], summary: dict[str, Any]
) -> None:
    total = counts([result.verdict for result in results])
    if summary["worst_output_error"] is not None:
        total += f"; outputs off by {summary['mean_output_error']:.1e} on average, "
        total += f"{summary['worst_output_error']:.1e} at worst"
    total += f"; {summary['seconds']:.1f} s"
    print_comparison(standard_output(), _COLUMNS, [_line(r) for r in results], said, total)


def _line(result: Loss) -> Line:
    measured = result.weight_error >= 0
    ratio = result.weight_error / (result.rounding_error or 1.0)
    cells = (
        *(str(size or "") for size in (result.K, result.N, result.bits, result.group_size)),
        f"{result.weight_error:.1e}" if measured else "",
        f"{ratio:.3g}" if measured else "",
        f"{result.output_error:.1e}" if measured else "",
        str(result.worst_column) if measured else "",
    )
    return Line(result.layer, cells, result.verdict, result.reason)
