"""The log of launches: a number for each, and a row, which native code writes for repeated ones.

The memory that both share is laid out here; the code is in `cuda/launcher.py`.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_double, c_int64

CAPTURED, GRAPH = 1, 2  # flags of a row: in another library's capture; launched by a graph

# Of 64-bit words.  The gate: how many threads are behind it, and the log that they find, or 0.
INSIDE, LOG = range(2)
# A log: its recording; the number of the next launch, that at which the rows end, where row 0 would
# lie, and when the recording began, in seconds, a float64.
RECORDING, NEXT, END, PLACE, START, LOG_WORDS = range(6)
# A mark: the call, and the recording that this is true of; the number of the launch logged last;
# room for the driver to say whether its stream is captured.
MARK_CALL, MARK_RECORDING, MARK_NUMBER, CAPTURING, MARK_WORDS = range(5)
# A call: its number; how often it may pass before the observer has to launch it.
CALL_NUMBER, PASSES, CALL_WORDS = range(3)
# A row: seconds, a float64; the stream; the call below its flags; the number, from 1 on.
AT, ROW_STREAM, CALL, NUMBER, ROW_WORDS = range(5)

_WITHOUT_ROWS = 1 << 62
_recordings = itertools.count(1)
_gate = (c_int64 * 2)()
gate = ctypes.addressof(_gate)


def _take(log: int) -> int:
    """The next number of the log at an address; -1 where its rows have come to an end."""
    words = (c_int64 * LOG_WORDS).from_address(log)
    if words[NEXT] >= words[END]:
        return -1
    words[NEXT] += 1
    return words[NEXT] - 1


take: Callable[[int], int] = _take  # native code's own as soon as there is some


def forget() -> None:
    """Close the gate in a forked process, which has none of the threads."""
    _gate[INSIDE] = _gate[LOG] = 0


class LaunchLog:
    """Numbers for launches, from 0 on, each with a place among the rows where there are any.

    One thread at a time may use it; native code any number, and meanwhile.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self._words = (c_int64 * LOG_WORDS)(next(_recordings), 0, _WITHOUT_ROWS)
        self._address = ctypes.addressof(self._words)
        c_double.from_address(self._address + 8 * START).value = self.start
        self._first = 0  # the number of the first row
        self.has_rows = self.is_paused = False

    def _open(self) -> None:
        _gate[LOG] = self._address if self.has_rows and not self.is_paused else 0

    @property
    def recording(self) -> int:
        """The number of the recording, of which marks are true."""
        return self._words[RECORDING]

    @property
    def count(self) -> int:
        """The count of numbers that have been taken."""
        return self._words[NEXT]

    @property
    def is_full(self) -> bool:
        """True if native code finds no row, as there are none, or no more."""
        return not self.has_rows or self._words[NEXT] >= self._words[END]

    def take(self) -> int | None:
        """The first number that nobody else gets; None where the rows have come to an end.

        Its row, if it has one, is the caller's.
        """
        number = take(self._address)
        return None if number < 0 else number

    def index(self, number: int) -> int:
        """The index of the row of a number just taken."""
        return number - self._first

    def begin_rows(self, address: int, count: int) -> None:
        """Give rows to numbers from now on, that at the address to the next one."""
        words = self._words
        self._first, self.has_rows = words[NEXT], True
        words[END] = self._first + count
        words[PLACE] = address - self._first * ROW_WORDS * 8
        self._open()

    def end_rows(self) -> None:
        """Wait until no native code writes any more, then stop giving rows."""
        _gate[LOG] = 0
        time.sleep(0)  # a call of the system, before which others see the closed gate
        while _gate[INSIDE]:
            time.sleep(0)
        self.has_rows, self._words[END] = False, _WITHOUT_ROWS

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Block in which native code asks about each launch."""
        self.is_paused = True
        self._open()
        try:
            yield
        finally:
            self.is_paused = False
            self._open()
