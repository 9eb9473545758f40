"""What commands write: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, track
from rich.table import Table

from ..report.record import as_json

_UNBOUNDED = 10_000  # columns, for files and pipes: a row is a line, however long
_UNREAD = 141  # 128 + SIGPIPE, as shells have it; rich's own 1 would read as a mismatch

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."
)


_Result = TypeVar("_Result")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on, as after `| head`: end, with nothing on standard error."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(_UNREAD) from None


def standard_output() -> Console:
    """Where results go."""
    return _console(stderr=False)


def standard_error() -> Console:
    """Where progress, warnings and errors go."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def write_part(text: str) -> None:
    """A part of a line, at once, and once: a Ctrl-C meanwhile would leave it in rich's buffer.

    What a terminal takes for a command is left out there.
    """
    console = standard_output()
    if console.is_terminal:
        text = "".join(char for char in text if char.isprintable() or char in "\n\t")
    try:
        console.file.write(text)
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def tracked(results: Iterable[_Result], total: int) -> list[_Result]:
    """The results, with a progress bar where somebody is looking."""
    console = standard_error()
    shown = track(
        results,
        description="",
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return list(shown)


def byte_progress(work: Callable[[Callable[[int, int], None]], _Result]) -> _Result:
    """What `work` returns; it calls its argument with (bytes done, bytes in all), for a bar."""
    console = standard_error()
    progress = Progress(
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("", total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def plain_table() -> Table:
    """A table without columns: a rule under the header, nothing else drawn."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def facts_table() -> Table:
    """A table of names and values."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; what JSON has no number for becomes null."""
    text = json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    standard_output().out(text, highlight=False)
