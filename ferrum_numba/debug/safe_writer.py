"""The file of a recording under way, which never breaks what it records."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import RecordingError
from .container import ROW, ContainerWriter

_WASTE = 1024  # rows that are thrown away at a time


class SafeWriter:
    """Writes until that fails: then it says so in one warning, and from there on does nothing.

    stopped: whether it has failed.
    """

    def __init__(self, path: Path, stop: Callable[[], None]) -> None:
        """stop: called where it fails."""
        self._path, self._stop, self.stopped = path, stop, False
        self._writer: ContainerWriter | None = None
        self._waste: list[ctypes.Array[ctypes.c_char]] = []

    def begin(self, about: bytes) -> None:
        """Make the file and its first member.  Raises RecordingError."""
        try:
            self._writer = ContainerWriter(self._path)
        except OSError as error:
            said = f"cannot be written: {error.strerror}"
            raise RecordingError(str(self._path), said) from None
        self._writer.add("recording.json", about)

    def try_to_begin(self, about: bytes) -> None:
        """Make the file and its first member, or fail as later on."""
        self._try(lambda: self.begin(about))

    def add(self, name: str, data: bytes, *, pack: bool = False) -> None:
        """Write one whole member."""
        self._try(lambda: self._file.add(name, data, pack=pack))

    def line(self, text: str) -> None:
        """Write one line of the launches."""
        self._try(lambda: self._file.line(text))

    def row(self, index: int, at: float, stream: int, call: int, flags: int, number: int) -> None:
        """Write one launch as one of the rows."""
        self._try(lambda: self._file.row(index, at, stream, call, flags, number))

    def next_rows(self) -> tuple[int, int]:
        """Address and number of the next rows; where it has failed, of some that go nowhere."""
        found = list[tuple[int, int]]()
        self._try(lambda: found.append(self._file.next_rows()))
        if found:
            return found[0]
        self._waste.append(ctypes.create_string_buffer(_WASTE * ROW.size + ROW.size))
        start = ctypes.addressof(self._waste[-1])
        return start + -start % ROW.size, _WASTE

    def close(self) -> None:
        """End the file."""
        if self._writer is not None and self.stopped:
            with suppress(OSError, RecordingError, ValueError):
                self._writer.close()
        elif self._writer is not None:
            self._try(self._writer.close)

    @property
    def _file(self) -> ContainerWriter:
        assert self._writer is not None
        return self._writer

    def _try(self, write: Callable[[], None]) -> None:
        if self.stopped:
            return
        try:
            write()
        except (OSError, RecordingError, ValueError, BufferError) as error:
            self.stopped = True
            self._stop()
            text = str(error) if isinstance(error, RecordingError) else f"{self._path}: {error}"
            warnings.warn(
                f"{text}; recording stops here: what was written stays readable, launches go on",
                RuntimeWarning,
                stacklevel=2,
            )
