"""Tables of layers, as wide as the console lets them be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from rich.console import Console
from rich.text import Text

from ..report import Verdict
from .console import one_line
from .fitting import Column, fitted, print_left_out

STYLES: dict[Verdict, str] = {
    "pass": "green",
    "mismatch": "bold red",
    "refused": "yellow",
    "error": "bold magenta",
}
_NAME = 24  # columns of a console that a layer's name is folded to at the narrowest
_NAMED = 3  # layers that a reason names before it only counts


@dataclass(frozen=True)
class Line:
    """Row of a table about one layer: a cell for each column.

    cause: what is likely wrong, in a sentence.
    """

    layer: str
    cells: tuple[str, ...]
    verdict: Verdict
    reason: str
    cause: str = ""


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 if all pass, 1 if any mismatches or its test failed, else 2."""
    found = set(verdicts)
    return 1 if found & {"mismatch", "error"} else 2 if "refused" in found else 0


def print_layers(console: Console, columns: Sequence[Column], lines: Sequence[Line]) -> None:
    """Print the table, and below it why layers did not pass.

    columns: between the layer's name and the verdict, which are always shown.
    """
    _print_table(console, columns, lines)
    console.print()
    for line in reasons(lines):
        console.print(line)


def print_comparison(
    console: Console,
    columns: Sequence[Column],
    lines: Sequence[Line],
    sides: Sequence[tuple[str, str]],
    total: str,
) -> None:
    """Print the layers of a comparison, what its sides are, and a line about them all."""
    print_layers(console, columns, lines)
    for side, what in sides:
        console.print(f"{side}: {what}")
    console.print(total)


def _print_table(console: Console, columns: Sequence[Column], lines: Sequence[Line]) -> None:
    """Names whole, else with what they share put above, else folded; text where no table fits."""
    shared = _shared_prefix([line.layer for line in lines])
    for prefix, least in (("", None), (shared, None), (shared, _NAME)):
        rows = [_row(line, prefix) for line in lines]
        whole = [Column("layer", least=least), *columns, Column("verdict")]
        found = fitted(whole, rows, console.width)
        if found.fits and not found.left_out:
            break
    if not found.fits:
        for line in lines:
            console.print(_text(columns, line))
        return
    if prefix:
        console.print(f"{one_line(prefix)}…\n")
    console.print(found.table)
    print_left_out(console, found.left_out)


def _row(line: Line, prefix: str) -> list[str | Text]:
    verdict = Text(line.verdict, STYLES[line.verdict])
    return [one_line(line.layer.removeprefix(prefix)), *line.cells, verdict]


def _text(columns: Sequence[Column], line: Line) -> Text:
    """Text of a table row, for a console that is too narrow for a table."""
    cells = (
        f"{column.header.replace(chr(10), ' ')} {cell}"
        for column, cell in zip(columns, line.cells, strict=True)
        if cell
    )
    what = f" {one_line(line.layer)}: {', '.join(cells)}"
    return Text.assemble((line.verdict, STYLES[line.verdict]), what)


def _shared_prefix(names: Sequence[str]) -> str:
    """Longest prefix of all names that ends at a dot; at least the last part of each is left."""
    prefix = ""
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        prefix += f"{parts[0]}."
    return prefix


def reasons(lines: Sequence[Line]) -> Iterator[Text]:
    """Reasons why layers did not pass, and likely causes; each is listed once."""
    yield from _shared(lines, lambda line: line.reason)
    yield from _shared(lines, lambda line: line.cause)


def warnings(said: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """(layer, "sign: what was found") as lines; a sign that several layers show is said once."""
    signs: dict[str, list[tuple[str, str]]] = {}
    for layer, what in said:
        signs.setdefault(what.partition(":")[0], []).append((layer, what))
    for found in signs.values():
        layers = _named([layer for layer, _ in found])
        yield Text.assemble(("warning", STYLES["refused"]), f": {layers}: {found[0][1]}")


def _shared(lines: Sequence[Line], say: Callable[[Line], str]) -> Iterator[Text]:
    shared: dict[tuple[Verdict, str], list[str]] = {}
    for line in lines:
        if line.verdict != "pass" and say(line):
            shared.setdefault((line.verdict, say(line)), []).append(line.layer)
    for (verdict, what), names in shared.items():
        yield Text.assemble((verdict, STYLES[verdict]), f": {_named(names)}: {what}")


def _named(layers: Sequence[str]) -> str:
    more = len(layers) - _NAMED
    return ", ".join(map(one_line, layers[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def verdict_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count of layers with each verdict, for a summary."""
    return {str(verdict): list(verdicts).count(verdict) for verdict in get_args(Verdict)}


def counts(verdicts: Sequence[Verdict]) -> str:
    """Counts of verdicts in words, such as "7 layers: 6 pass, 1 refused"."""
    numbers = verdict_counts(verdicts).items()
    parts = [f"{number} {name}" for name, number in numbers if number or name == "pass"]
    return f"{len(verdicts)} layer{'s' if len(verdicts) != 1 else ''}: {', '.join(parts)}"
