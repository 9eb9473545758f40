"""Output of commands: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..json_values import as_json

if TYPE_CHECKING:  # tables and bars are imported where one is drawn
    from rich.table import Table

_UNBOUNDED = 10_000  # columns, for files and pipes: a row is a line, however long
_UNREAD = 141  # 128 + SIGPIPE, as shells have it; rich's own 1 would read as a mismatch

_AS_JSON = "ferrum_numba.json"  # of a context's meta


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[_AS_JSON] = value
    return value


json_option: Callable[[Any], Any] = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_remember,
    is_eager=True,  # also where another option is wrong
    help="Print one JSON object instead of tables.",
)


def wants_json(ctx: click.Context) -> bool:
    """True if the command that runs was given --json."""
    return bool(ctx.meta.get(_AS_JSON))


_Result = TypeVar("_Result")

# What a terminal obeys, or cannot show, in text that came with a file: controls but for tab and
# newline, marks that turn the direction of writing, separators of lines, and lone surrogates.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """`text` with all that a terminal would obey shown as Python writes it, such as \\x1b."""
    return _COMMANDS.sub(_escape, text)


def one_line(name: str) -> str:
    """A name that came with a file, harmless and without new lines and tabs."""
    return harmless(name).replace("\n", "\\n").replace("\t", "\\t")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Console(Console):
    """Shows what strangers have written, which a file's names and texts are, as harmless text."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        if isinstance(renderable, Text) and _COMMANDS.search(renderable.plain):
            renderable = _harmless_text(renderable)
        for segment in super().render(renderable, options):
            if segment.control or not _COMMANDS.search(segment.text):
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """End quietly where nobody reads on, as after `| head`."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(_UNREAD) from None


def _harmless_text(text: Text) -> Text:
    """`harmless` for a styled text, which keeps its styles."""
    parts, start = text.blank_copy(), 0
    for found in _COMMANDS.finditer(text.plain):
        parts.append_text(text[start : found.start()]).append(_escape(found))
        start = found.end()
    return parts.append_text(text[start:])


def standard_output() -> Console:
    """The console that results go to."""
    return _console(stderr=False)


def standard_error() -> Console:
    """The console that progress, warnings and errors go to."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def write_part(text: str) -> None:
    """A part of a line, at once, and once: a Ctrl-C meanwhile would leave it in rich's buffer."""
    console = standard_output()
    try:
        console.file.write(harmless(text) if console.is_terminal else text)
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def tracked(results: Iterable[_Result], total: int) -> list[_Result]:
    """The results, with a progress bar where somebody is looking."""
    console = standard_error()
    if not console.is_terminal:
        return list(results)
    from rich.progress import track

    shown = track(results, description="", total=total, console=console, transient=True)
    return list(shown)


def byte_progress(work: Callable[[Callable[[int, int], None]], _Result]) -> _Result:
    """The result of `work`, which calls its argument with (bytes done, bytes in all), for a bar."""
    console = standard_error()
    if not console.is_terminal:
        return work(lambda done, total: None)
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    with progress:
        task = progress.add_task("", total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def plain_table() -> Table:
    """A table without columns: a rule under the header, nothing else drawn."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def facts_table() -> Table:
    """A table of names and values."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; what JSON has no number for becomes null.

    What a terminal would obey is written as JSON's escapes: the value is the same.
    """
    text = json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    text = _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    console = standard_output()
    try:  # not through the console, which takes a second a megabyte
        console.file.write(f"{text}\n")
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()
