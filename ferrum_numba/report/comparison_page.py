"""The page of a `compare` run."""

from __future__ import annotations

from collections.abc import Sequence

from .comparison import Comparison
from .page import Column, Page, Row, short

_COLUMNS = (
    Column("K"),
    Column("N"),
    Column("A", numeric=False),
    Column("B", numeric=False),
    Column("equal"),
    Column("max abs difference", spacious=True),
    Column("relative difference"),
)


def comparison_page(
    subject: str, facts: Sequence[tuple[str, str]], results: Sequence[Comparison]
) -> Page:
    """A page of these comparisons; facts: (name, value) of the run."""
    return Page("Layers compared", subject, tuple(facts), _COLUMNS, tuple(map(_row, results)))


def _row(result: Comparison) -> Row:
    measured = result.equal == result.equal
    return Row(
        layer=result.layer,
        verdict=result.verdict,
        share=result.worst_ratio,
        cells=(
            (f"{result.K}", result.K),
            (f"{result.N}", result.N),
            (result.format_a, result.format_a),
            (result.format_b, result.format_b),
            (f"{result.equal:.2%}", result.equal) if measured else ("", 0.0),
            (short(result.max_abs_error), result.max_abs_error) if measured else ("", 0.0),
            (short(result.relative_error), result.relative_error) if measured else ("", 0.0),
        ),
        reason=result.reason,
        facts=(("layer", f"K {result.K}, N {result.N}"),),
        explanation=result.explanation,
    )
