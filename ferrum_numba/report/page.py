"""A report as one HTML page that needs nothing beside it: no network, no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import FerrumError
from ..gptq.files import write_text
from .figures import HIGHEST, LOWEST, histogram_bars, signed_image, size_image
from .layer_diagnosis import LayerDiagnosis

VERDICTS = ("error", "mismatch", "refused", "pass")
"""Verdicts in the order of a page: what needs a look comes first."""

_CAUSES = 6  # that are listed above the table
_OPEN = 8  # details that are unfolded when the page opens


@dataclass(frozen=True)
class Column:
    """A column of the table, left out where the window is narrow.

    numeric   set to the right, and sorted by number
    spacious  left out already where it is not wide
    """

    title: str
    numeric: bool = True
    spacious: bool = False


@dataclass(frozen=True)
class Row:
    """A layer: its name, the cells under the page's columns, and what there is to say about it.

    cells  (text, what to sort by)
    share  of the bound that the worst error takes: what puts a row above another; NaN is worst
    facts  (name, value) of the details
    """

    layer: str
    verdict: str
    share: float
    cells: tuple[tuple[str, float | str], ...]
    reason: str
    facts: tuple[tuple[str, str], ...]
    explanation: LayerDiagnosis | None


@dataclass(frozen=True)
class Page:
    """A whole report; facts are (name, value)."""

    title: str
    subject: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def check_extra() -> None:
    """Raise FerrumError where the libraries that a page needs are not installed."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise FerrumError(
            "html", " and ".join(missing), "none", 'pip install "ferrum-numba[report]"'
        )


def write_page(path: Path, page: Page) -> None:
    """Write the page.  Raises OSError, and FerrumError without the `report` extra."""
    check_extra()
    write_text(path, render(page))


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    rows = sorted(page.rows, key=_badness)
    return environment.from_string(template).render(
        page=page,
        rows=[_row(number, row) for number, row in enumerate(rows)],
        counts={verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS},
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        causes=_causes(rows),
        short=short,
        lowest=f"{LOWEST:g}",
        highest=f"{HIGHEST:g}",
    )


def short(number: float) -> str:
    """Two or three digits, without an exponent where people can do without."""
    if number != number:
        return "NaN"
    if number and not 1e-2 <= abs(number) < 1e6:
        return f"{number:.1e}"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.2g}"


def _causes(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """(layers, sentence) of what is likely wrong with the layers that fail, the commonest first."""
    sentences = Counter(
        row.explanation.cause.sentence for row in rows if row.explanation and row.verdict != "pass"
    )
    return [(count, sentence) for sentence, count in sentences.most_common(_CAUSES)]


def _badness(row: Row) -> tuple[int, float]:
    share = row.share if row.share == row.share else float("inf")
    return VERDICTS.index(row.verdict), -share


def _row(number: int, row: Row) -> dict[str, Any]:
    explanation = row.explanation
    detail = bool(explanation or row.verdict != "pass")
    return {
        "row": row,
        "id": f"layer-{number}",
        "detail": detail,
        "open": number < _OPEN,
        "bar": min(row.share, 1.0) * 100 if row.share == row.share else 100,
        "figures": None if explanation is None else _figures(explanation),
    }


def _figures(explanation: LayerDiagnosis) -> dict[str, Any]:
    return {
        "bars": histogram_bars(explanation.histogram) if explanation.histogram else [],
        "overview": {"map": explanation.overview, "image": size_image(explanation.overview)},
        "zoom": {"map": explanation.zoom, "image": signed_image(explanation.zoom)},
    }


def worst_passing(shares: Sequence[tuple[str, float]], count: int = 3) -> list[str]:
    """The names of the layers that came closest to their bounds."""
    return [name for name, _ in sorted(shares, key=lambda item: -item[1])[:count]]
