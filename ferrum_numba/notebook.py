"""Tables for notebooks: the HTML that objects of this package show there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

_ROWS = 40  # of a table; what follows is counted


def table(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]], count: int) -> str:
    """An HTML table under its title; of `count` rows the first ones, and how many more there are.

    All texts are escaped: names in files of strangers are shown as they are.
    """
    from html import escape  # here, as few processes show tables

    shown = [[str(cell) for cell in row] for row in islice(rows, _ROWS)]
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in shown
    )
    more = f"<p>and {count - len(shown)} more</p>" if count > len(shown) else ""
    caption = f"<caption>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def facts(title: str, pairs: Iterable[tuple[str, object]]) -> str:
    """An HTML table of names and values; pairs whose value is empty or None are left out."""
    rows = [(name, value) for name, value in pairs if value not in (None, "", ())]
    return table(title, ("", ""), rows, len(rows))
