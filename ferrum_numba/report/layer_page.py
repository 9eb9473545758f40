"""The page of a `verify` run."""

from __future__ import annotations

from collections.abc import Sequence

from .layer_kind import LayerKind
from .layer_test import LayerResult, Measurement
from .page import Column, Page, Row, short
from .tolerance import SAFETY

_COLUMNS = (
    Column("K"),
    Column("N"),
    Column("G"),
    Column("format", numeric=False),
    Column("device", numeric=False, spacious=True),
    Column("max abs error", spacious=True),
    Column("relative error"),
    Column("ms", spacious=True),
)


def layer_page(
    subject: str, facts: Sequence[tuple[str, str]], results: Sequence[LayerResult]
) -> Page:
    """A page of these results; facts: (name, value) of the run, above what holds for all runs."""
    rule = (
        "bounds",
        f"one rounding of the output and {SAFETY:g} standard deviations of the sums' own errors",
    )
    return Page("Layers verified", subject, (*facts, rule), _COLUMNS, tuple(map(_row, results)))


def _row(result: LayerResult) -> Row:
    measured = bool(result.measurements)
    seconds = sum(measured.seconds for measured in result.measurements)
    return Row(
        layer=f"{result.layer} by {result.kernel}" if result.kernel else result.layer,
        verdict=result.verdict,
        share=result.worst_ratio,
        cells=(
            (f"{result.K}", result.K),
            (f"{result.N}", result.N),
            (f"{result.group_size}", result.group_size),
            (describe_format(result), describe_format(result)),
            (result.device, result.device),
            _error(result.max_abs_error) if measured else ("", 0.0),
            _error(result.relative_error) if measured else ("", 0.0),
            (f"{seconds * 1e3:.2f}", seconds) if measured else ("", 0.0),
        ),
        reason=result.reason,
        facts=tuple(_facts(result)),
        explanation=result.explanation,
    )


def describe_format(result: LayerResult | LayerKind) -> str:
    """The zero format, or the bits of other widths, and whether rows are in activation order."""
    name = result.zero_format if result.bits == 4 else f"{result.bits} bits" if result.bits else ""
    return f"{name}, act-order" if result.act_order else name


def _error(error: float) -> tuple[str, float]:
    return short(error), error if error == error else float("inf")


def _facts(result: LayerResult) -> Sequence[tuple[str, str]]:
    facts = [
        (
            "layer",
            f"K {result.K}, N {result.N}, group size {result.group_size}, "
            f"{describe_format(result)}{', bias' if result.bias else ''}",
        )
    ]
    facts += [(f"M = {measured.m}", _sentence(measured)) for measured in result.measurements]
    facts += [("warning", warning) for warning in result.warnings]
    if result.reference:
        facts.append(("reference", result.note or result.reference))
    return facts


def _sentence(measured: Measurement) -> str:
    row, column = measured.worst_element
    return (
        f"relative error {short(measured.relative_error)}, passes {short(measured.tolerance)}; "
        f"worst element {short(measured.worst_ratio)} of its bound, row {row}, column {column}; "
        f"{measured.seconds * 1e3:.2f} ms by {measured.kernel}"
    )
