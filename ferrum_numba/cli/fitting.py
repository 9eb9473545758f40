"""Tables that fit the console: columns that matter least are left out, cells are never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .console import plain_table

_GAP = 2  # blanks between columns


class Column(NamedTuple):
    """A column of a table.

    header: may have several lines.  right: set to the right.
    rank: where the table is too wide, the column of the highest rank goes first; 0 always stays.
    least: the width that its cells may be folded to; None: they are not folded.
    """

    header: str
    right: bool = False
    rank: int = 0
    least: int | None = None


class Fitted(NamedTuple):
    """A table that fits, and the headers of the columns that it has no room for.

    fits: False where not even the columns that always stay have room.
    """

    table: Table
    left_out: tuple[str, ...]
    fits: bool


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> Fitted:
    """The table of these rows, a cell for each column, in a console of `width` columns."""
    widths = [
        _width([column.header, *cells]) for column, *cells in zip(columns, *rows, strict=True)
    ]
    least = [
        natural if column.least is None else min(natural, column.least)
        for column, natural in zip(columns, widths, strict=True)
    ]
    shown = list(range(len(columns)))

    def needed() -> int:
        return sum(least[i] for i in shown) + _GAP * (len(shown) - 1)

    while needed() > width and any(columns[i].rank for i in shown):
        shown.remove(max(shown, key=lambda i: columns[i].rank))
    table = plain_table()
    for i in shown:
        header, right, _, folds = columns[i]
        table.add_column(
            header,
            justify="right" if right else "left",
            no_wrap=folds is None,
            overflow="fold",
            min_width=least[i],
        )
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    names = (column.header.replace("\n", " ") for i, column in enumerate(columns) if i not in shown)
    return Fitted(table, tuple(names), needed() <= width)


def print_fitted(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]
) -> None:
    """Print the table, and below it which columns the console has no room for."""
    found = fitted(columns, rows, console.width)
    console.print(found.table)
    print_left_out(console, found.left_out)


def print_left_out(console: Console, names: Sequence[str]) -> None:
    """Name columns that are left out, if there are any."""
    if names:
        console.print(f"no room for {', '.join(names)}; --json has all", style="dim")


def _width(cells: Sequence[str | Text]) -> int:
    """The widest line of the cells, in columns of a console."""
    lines = (line for cell in cells for line in str(cell).split("\n"))
    return max((cell_len(line) for line in lines), default=0)
