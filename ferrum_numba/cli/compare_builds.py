"""Two builds of a kernel side by side, for `ferrum-numba compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..report.builds import (
    BuildComparison,
    Count,
    EntryComparison,
    Loading,
    SourceDifference,
    compare_builds,
)
from .console import facts_table, plain_table, standard_output, write_json
from .inspect import inspected, loaded
from .inspection_view import verdict
from .ptx_file import open_ptx

_SHOWN = 8  # rows of a kind


def show_builds(a: Path, b: Path, device: str | None, as_json: bool) -> int:
    """Compare, and write what was found; the exit code."""
    loadings: tuple[Loading, ...] = ()
    if device is None:
        found = compare_builds(inspected(open_ptx(a)), inspected(open_ptx(b)))
    else:
        sides, loadings = zip(*(loaded(open_ptx(side), device) for side in (a, b)), strict=True)
        found = compare_builds(*sides)
    if as_json:
        answer = {"launches": found.launches, "sentence": found.sentence}
        on_device = {"device": dict(zip("ab", loadings, strict=True))} if loadings else {}
        write_json({**vars(found), **answer, "changes": found.changes, **on_device})
    else:
        _show(standard_output(), found, loadings)
    refused = any(loading.verdict == "refuses" for loading in loadings)
    return 0 if found.launches and not refused else 1


def _show(console: Console, found: BuildComparison, loadings: Sequence[Loading]) -> None:
    sides = facts_table()
    sides.add_row("A", found.a)
    sides.add_row("B", found.b)
    console.print(sides)
    for side, loading in zip("AB", loadings, strict=False):
        console.print(verdict(f"{side} on {loading.name}", loading.verdict, loading.reason))
    for entry in found.entries:
        name = entry.a if entry.a == entry.b else f"{entry.a} and {entry.b}"
        console.print(f"\nentry {name}", style="bold")
        for table in _tables(entry):
            console.print()
            console.print(table)
    for side, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            console.print(f"\nonly in {side}: {', '.join(names)}")
    console.print("\ncan a launcher of A launch B?")
    word, _, rest = found.sentence.partition(":")
    console.print(Text.assemble((word, "green" if found.launches else "bold red"), f":{rest}"))


def _tables(entry: EntryComparison) -> Iterator[Table]:
    if entry.changes:
        yield _change_table(entry)
    yield _count_table("instructions", entry.families, everything=True)
    if entry.resources:
        yield _count_table("takes", entry.resources, everything=True)
    for title, counts in (
        ("opcodes that differ", entry.opcodes),
        ("memory", entry.accesses),
        ("tensor", entry.tensor),
    ):
        if counts:
            yield _count_table(title, counts)
    for source in entry.sources:
        yield _source_table(source)


def _change_table(entry: EntryComparison) -> Table:
    table = plain_table()
    table.add_column("launch", no_wrap=True)
    table.add_column("B's against A's", overflow="fold")
    for change in entry.changes:
        style = "" if change.needed else "dim"
        table.add_row(change.subject, Text(change.what, style))
    return table


def _count_table(title: str, counts: Sequence[Count], *, everything: bool = False) -> Table:
    """The largest differences first, but all in their own order where everything is shown."""
    table = plain_table()
    table.add_column(title, overflow="fold")
    for side in ("A", "B", "B - A"):
        table.add_column(side, justify="right", no_wrap=True)
    ordered = counts if everything else sorted(counts, key=lambda c: -abs(c.b - c.a))
    shown = ordered if everything else ordered[:_SHOWN]
    for count in shown:
        difference = count.b - count.a
        table.add_row(
            count.name, str(count.a), str(count.b), f"{difference:+}" if difference else ""
        )
    if len(ordered) > len(shown):
        table.add_row(Text(f"{len(ordered) - len(shown)} more", "dim"), "", "", "")
    return table


def _source_table(source: SourceDifference) -> Table:
    lines = [Count(f"line {line}", a, b) for line, a, b in source.lines]
    return _count_table(f"instructions of {source.name}", lines)
