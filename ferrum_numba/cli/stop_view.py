"""One stop of a replay on a screen: where it is, in source and PTX, and what happened there."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..emulator.trace import Access, Event, Replay
from .console import plain_table
from .listing import Listing, Sources
from .trace_view import NOTHING, named_values, type_text, value_text

_SIDE_BY_SIDE = 110  # columns from which on the source stands beside the PTX
_WIDEST = 200
_HERE = "▶"
_LONGEST = 20  # characters that lanes may take in a head


class StopView:
    """Shows where a replay is.  watched: registers that are shown at every stop."""

    def __init__(
        self,
        console: Console,
        listing: Listing,
        sources: Sources,
        lanes: tuple[int, ...],
        watched: Collection[str] = (),
    ) -> None:
        self.console, self.lanes, self.watched = console, lanes, list(watched)
        self._listing, self._sources = listing, sources

    def show(self, replay: Replay, hit: int = -1) -> None:
        """The stop as a whole.

        hit: the lanes that it is about, as bits; where none of them is shown, the first is too.
        """
        event, chosen = replay.event, self.lanes
        if not any(hit >> lane & 1 for lane in chosen):
            self.lanes = (*chosen, (hit & -hit).bit_length() - 1)
        self._head(replay, event)
        self.where(replay)
        self._registers(replay, event)
        self.lanes = chosen
        for access in event.accesses:
            self.console.print(Text(access_text(access), "cyan"))

    def where(self, replay: Replay) -> None:
        """Source and PTX around the stop."""
        event = replay.event
        wide = self.console.width >= _SIDE_BY_SIDE
        around = (5, 6) if wide else (3, 3)
        ptx = self._listing.around(event.line, *around)
        source = self._sources.around(event.source, event.source_line, *around)
        title = event.source or "no source is named here"
        if event.source and not source:
            title = f"{event.source}:{event.source_line}, which is not here; see --source"
        width = min(self.console.width, _WIDEST) - 1
        if not wide:
            self.console.print(_panel(source, event.source_line, title, width))
            self.console.print(_panel(ptx, event.line, "PTX", width))
            self.console.print()
            return
        half = width // 2
        both = Table.grid(padding=(0, 1, 0, 0))
        both.add_column(width=half)
        both.add_column(width=half)
        both.add_row(
            _panel(ptx, event.line, "PTX", half), _panel(source, event.source_line, title, half)
        )
        self.console.print(both)
        self.console.print()

    def _head(self, replay: Replay, event: Event) -> None:
        who = f"CTA {','.join(map(str, replay.cta))} warp {replay.warp}"
        place = f"event {replay.position:,} (last: {len(replay) - 1:,})"
        lanes = _short(event.mask)
        if event.active != event.mask:
            lanes += f"; off by guard: {_short(event.active & ~event.mask)}"
        width = min(self.console.width, 120) - 1
        head = Text(f"── {place} · {who} · {lanes} ", "bold")
        self.console.print(head + Text("─" * max(width - len(head), 0), "bold"), no_wrap=True)

    def _registers(self, replay: Replay, event: Event) -> None:
        table = self.register_table()
        for name, values, written in named_values(event):
            mask = event.mask if written else event.active
            texts = [
                value_text(replay.launch, values, lane) if mask >> lane & 1 else NOTHING
                for lane in self.lanes
            ]
            what = "writes" if written else "reads"
            style = "bold green" if written else ""
            table.add_row(what, name, type_text(values), *(Text(t, style) for t in texts))
        mentioned = {*event.reads, *event.writes}
        for name in self.watched:
            if name not in mentioned:
                self.add_register(table, replay, name, "watched")
        if table.row_count:
            self.console.print(table)

    def register_table(self) -> Table:
        """A table for values of the chosen lanes."""
        table = plain_table()
        table.add_column("", no_wrap=True)
        table.add_column("register", no_wrap=True)
        table.add_column("type", no_wrap=True)
        for lane in self.lanes:
            table.add_column(f"lane {lane}", justify="right", overflow="fold")
        return table

    def add_register(self, table: Table, replay: Replay, name: str, what: str) -> None:
        """A row for what a register holds at the cursor."""
        found = replay.register(name)
        if found is None:
            table.add_row(what, name, "", *("?" for _ in self.lanes))
            return
        values, known = found
        texts = [
            value_text(replay.launch, values, lane) if known >> lane & 1 else "?"
            for lane in self.lanes
        ]
        table.add_row(what, name, type_text(values), *texts)


def lanes_text(mask: int) -> str:
    """`all lanes`, `no lane`, `lane 3`, `lanes 0-3, 8`."""
    if mask in (0, (1 << 32) - 1):
        return "all lanes" if mask else "no lane"
    runs: list[list[int]] = []
    for lane in (lane for lane in range(32) if mask >> lane & 1):
        if runs and runs[-1][-1] == lane - 1:
            runs[-1].append(lane)
        else:
            runs.append([lane])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"lane{'s' if mask & (mask - 1) else ''} {', '.join(texts)}"


def _short(mask: int) -> str:
    text = lanes_text(mask)
    return text if len(text) <= _LONGEST else f"{mask.bit_count()} lanes"


def access_text(access: Access) -> str:
    """`shared load: 32 lanes × 4 bytes, 2 passes (1 would do), 2-way conflict`."""
    count = len(access.lanes)
    who = f"{count} lane{'s' if count != 1 else ''} × {access.nbytes} bytes"
    if access.space == "shared":
        cost = f"{access.cost} pass{'es' if access.cost != 1 else ''}"
    else:
        cost = f"{access.cost} sector{'s' if access.cost != 1 else ''} of 32 bytes"
    ideal = "" if access.cost == access.ideal else f" ({access.ideal} would do)"
    conflict = f", {access.conflict}-way bank conflict" if access.conflict > 1 else ""
    return f"{access.space} {access.kind}: {who}, {cost}{ideal}{conflict}"


def _panel(lines: list[tuple[int, str]], here: int | None, title: str, width: int) -> Text:
    """Lines with their numbers under a title, none longer than `width`."""
    panel = Text().append_text(_cut(Text.assemble((title, "bold")), width))
    for number, text in lines:
        current = number == here
        line = Text.assemble(
            (_HERE if current else " ", "bold"),
            (f"{number:>5}  ", "dim"),
            (text, "bold" if current else ""),
        )
        panel.append_text(_cut(line, width))
    panel.rstrip()
    return panel


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line.append("\n")
