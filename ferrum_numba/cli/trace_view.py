"""Views of a trace: values by instruction, instructions by source line, traffic."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..emulator.trace import ADDRESS, Event, TracedLaunch, Traffic, Values, alike, traffic
from .console import plain_table
from .fitting import Column, print_fitted
from .listing import Sources

_SHOWN = 200  # events that a table has
_GAP = 2  # columns between those of a table
_NARROWEST = 12  # columns that a text which may be cut has at least
NOTHING = "·"  # a lane that did not take part


def fit(console: Console, table: Table, index: int) -> Table:
    """Cut the texts of one column, so that the others are whole and the table fits the console."""
    table.columns[index].width = None
    widths = _widths(table)
    room = console.width - sum(widths) + widths[index]
    table.columns[index].width = max(min(widths[index], room) - _GAP, _NARROWEST)
    return table


def _widths(table: Table) -> list[int]:
    return [
        (column.width or max(cell_len(str(cell)) for cell in (column.header, *column.cells))) + _GAP
        for column in table.columns
    ]


def value_text(launch: TracedLaunch, values: Values, lane: int) -> str:
    """One lane's value; what points into an array of the launch, as that array's element."""
    if values.bits.itemsize == 8 and values.type[0] in "aubs":
        place = launch.place_of(int(values.bits[lane]), 1)
        if place:
            return place
    return values.text(lane)


def type_text(values: Values) -> str:
    """The type, as short as a column is."""
    return "addr" if values.type == ADDRESS else values.type


def source_lines(launch: TracedLaunch) -> list[dict[str, Any]]:
    """Totals of each source line, in their order: source, source_line, instructions, and the cost
    and the ideal of its accesses to global (sectors) and shared memory (passes)."""
    found: dict[tuple[str, int], dict[str, Any]] = {}

    def row(file: str | None, line: int | None) -> dict[str, Any]:
        place = {"source": file, "source_line": line, "instructions": 0}
        zeros = {space: {"cost": 0, "ideal": 0} for space in ("global", "shared")}
        return found.setdefault((file or "", line or 0), place | zeros)

    numbers, counts = np.unique(launch.headers["mark"], return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        place = launch.source_of(launch.sites[number - 1].instruction)
        row(*place)["instructions"] += count
    for space in ("global", "shared"):
        for item in traffic(launch, space):
            sums = row(item.event.source, item.event.source_line)[space]
            sums["cost"] += item.cost
            sums["ideal"] += item.ideal
    return [found[place] for place in sorted(found)]


def show_source_lines(console: Console, launch: TracedLaunch, sources: Sources) -> None:
    """Print how many instructions each source line took, and the cost of its accesses."""
    rows = source_lines(launch)
    for file in dict.fromkeys(row["source"] for row in rows):
        table = plain_table()
        table.add_column("src", justify="right", no_wrap=True)
        table.add_column("source line", no_wrap=True, overflow="ellipsis")
        for heading in ("instructions", "sectors", "passes"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in (row for row in rows if row["source"] == file):
            text = sources.line(file, row["source_line"]) or ""
            costs = [_cost(**row[space]) for space in ("global", "shared")]
            line = str(row["source_line"] or "?")
            table.add_row(line, Text(text), f"{row['instructions']:,}", *costs)
        console.print(Text(file or "(no source named)", "bold"))
        console.print(fit(console, table, 1))
        console.print()


def show_values(
    console: Console, launch: TracedLaunch, lanes: tuple[int, ...], registers: Collection[str]
) -> None:
    """The events in order: what they read, dim, and what they wrote, lane by lane."""
    shown = lanes
    while True:
        table = _value_table(launch, shown, registers)
        if len(shown) == 1 or sum(_widths(table)) <= console.width:
            break
        shown = shown[:-1]
    console.print(fit(console, table, 3))
    if shown != lanes:
        count = len(lanes) - len(shown)
        console.print(
            f"{count} more lane{'s' if count > 1 else ''} would need a wider screen", style="dim"
        )
    if len(launch) > _SHOWN:
        rest = len(launch) - _SHOWN
        console.print(f"… and {rest:,} more events: choose fewer, or take --json for all")


def _value_table(launch: TracedLaunch, lanes: tuple[int, ...], registers: Collection[str]) -> Table:
    table = plain_table()
    for heading in ("#", "PTX", "src"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("instruction", no_wrap=True, overflow="ellipsis", width=_NARROWEST)
    table.add_column("register", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for lane in lanes:
        table.add_column(f"lane {lane}", justify="right", no_wrap=True)
    several = len(np.unique(launch.headers[["cta", "warp"]])) > 1
    before: tuple[object, ...] = ()
    for event in launch[:_SHOWN]:
        if several and (event.cta, event.warp) != before:
            before = event.cta, event.warp
            table.add_row("", "", "", Text(f"CTA {event.cta}, warp {event.warp}", "bold"))
        _add_event(table, launch, event, lanes, registers)
    return table


def _add_event(
    table: Table,
    launch: TracedLaunch,
    event: Event,
    lanes: tuple[int, ...],
    registers: Collection[str],
) -> None:
    head = [str(event.number), str(event.line), str(event.source_line or "")]
    cells: list[str | Text] = [*head, Text(event.instruction)]
    for name, values, written in named_values(event):
        if registers and name not in registers:
            continue
        style, mask = ("", event.mask) if written else ("dim", event.active)
        texts = [
            value_text(launch, values, lane) if mask >> lane & 1 else NOTHING for lane in lanes
        ]
        mark = f"{name} =" if written else name
        table.add_row(
            *cells, Text(mark, style), type_text(values), *(Text(t, style) for t in texts)
        )
        cells = ["", "", "", ""]
    if cells[0]:
        lanes_text = [("yes" if event.mask >> lane & 1 else NOTHING) for lane in lanes]
        table.add_row(*cells, "", "", *lanes_text)


def named_values(event: Event) -> Iterable[tuple[str, Values, bool]]:
    """(register, values, whether it was written) of an event; what was read comes first."""
    for name, values in event.reads.items():
        yield name, values, False
    for name, values in event.writes.items():
        yield name, values, True


def show_traffic(console: Console, launch: TracedLaunch, sources: Sources) -> None:
    """Print the cost of accesses to global and to shared memory, dearest first."""
    units = {"global": "32-byte sectors", "shared": "passes over the banks"}
    for space, unit in units.items():
        found = traffic(launch, space)
        if not found:
            continue
        cost, ideal = sum(t.cost for t in found), sum(t.ideal for t in found)
        title = f"{space.capitalize()} memory: {cost:,} {unit}, {ideal:,} would do"
        console.print(Text(title, "bold"))
        columns = [
            Column("src", True),
            Column("source line", least=24),
            Column("PTX", rank=1),
            Column("access", rank=3),
            Column("times", True, 2),
            Column("sectors" if space == "global" else "passes", True),
            Column("ideal", True),
            Column("worst", True),
        ]
        rows = [_traffic_cells(items, sources) for items in alike(found)]
        print_fitted(console, columns, rows)
        console.print()


def _traffic_cells(items: list[Traffic], sources: Sources) -> list[str | Text]:
    """A row for instructions of one source line whose accesses are alike."""
    event, worst = items[0].event, items[0].worst
    text = sources.line(event.source, event.source_line) or event.instruction
    lines = sorted(item.event.line for item in items)
    cost, ideal = sum(item.cost for item in items), sum(item.ideal for item in items)
    style = "red" if cost >= 2 * ideal else ""
    return [
        str(event.source_line or ""),
        Text(text),
        str(lines[0]) if len(lines) == 1 else f"{lines[0]}-{lines[-1]}",
        f"{worst.kind} {worst.nbytes} B",
        f"{sum(item.executions for item in items):,}",
        Text(f"{cost:,}", style),
        f"{ideal:,}",
        Text(verdict(items[0]), style),
    ]


def verdict(item: Traffic) -> str:
    """The dearest of an instruction's accesses, in a word or two."""
    worst = item.worst
    if worst.space == "shared":
        return f"{item.conflict}-way" if item.conflict > 1 else "no conflict"
    return f"{worst.used}% used"


def _cost(cost: int, ideal: int) -> Text:
    return Text(f"{cost:,}" if cost else "", "red" if cost >= 2 * ideal else "")
