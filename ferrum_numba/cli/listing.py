"""Text of the lines of PTX and of the source that it came from."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..emulator.trace import TracedLaunch

_SILENT = re.compile(r"\s*(?:\.loc|\.pragma|\.reg|\.section|//|[{}(),]|$)")
_CHECKOUT = Path(__file__).parents[2]


class Listing:
    """The instructions and labels of PTX text: `lines` has (line number, text) of each."""

    def __init__(self, text: str, launch: TracedLaunch) -> None:
        """launch: of the entry that is meant, for the text may have others."""
        instructions = [s.line for s in launch.body.statements if not isinstance(s, str)]
        first, last = min(instructions), max(instructions)
        self.lines = [
            (number, _tidy(line))
            for number, line in enumerate(text.splitlines(), 1)
            if first <= number <= last and not _SILENT.match(line)
        ]
        self._places = {number: place for place, (number, _) in enumerate(self.lines)}

    def around(self, line: int, before: int, after: int) -> list[tuple[int, str]]:
        """Lines around one, that one among them."""
        place = self._places.get(line)
        if place is None:  # of an instruction that begins on another line
            place = max((p for n, p in self._places.items() if n <= line), default=0)
        start = max(min(place - before, len(self.lines) - before - after - 1), 0)
        return self.lines[start : start + before + after + 1]


class Sources:
    """Source files as .file names them: as they are, below the checkout, or below `folders`."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = folders

    def line(self, file: str | None, number: int | None) -> str | None:
        """One line without its indentation; None where there is no such line."""
        lines = self.lines(file)
        return lines[number - 1].strip() if lines and number and number <= len(lines) else None

    def around(
        self, file: str | None, number: int | None, before: int, after: int
    ) -> list[tuple[int, str]]:
        """Lines around one, without what all of them are indented by; none without the file."""
        lines = self.lines(file)
        if not lines or not number:
            return []
        start = max(min(number - before, len(lines) - before - after), 1)
        shown = lines[start - 1 : start + before + after]
        return list(enumerate(textwrap.dedent("\n".join(shown)).split("\n"), start))

    def lines(self, file: str | None) -> list[str]:
        """The file's lines; none where it is not there."""
        if file is None:
            return []
        places = [Path(file), _CHECKOUT / file]
        places += [folder / part for folder in self._folders for part in (file, Path(file).name)]
        return next((_read(path) for path in places if path.is_file()), [])


@lru_cache(maxsize=16)
def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _tidy(line: str) -> str:
    """A line of PTX without its comment, and with one blank where it has many."""
    text = " ".join(line.split("//")[0].split())
    return text if re.fullmatch(r"[\w$]+:", text) else f"  {text}"
