"""The log of launches: a number for each, and fast paths by which compiled code logs and issues.

The memory that both share is laid out here; the code is in `cuda/native.py`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_double, c_int64

from .observer import FULL, FastPath, Issued, Observer

# What a fast path returns besides 0, FULL and DECLINED: the first launch's number from 1 on, the
# step that was refused, the driver's code.
NUMBER_BIT, STEP_BIT = 30, 10
_MOST_STEPS = 1 << (NUMBER_BIT - STEP_BIT)

# Of 64-bit words.  A fast path: where the address of the segment is found, or 0; how many numbers
# it takes, rows it writes, launches it issues; the stream, and whether that is being captured.
HEAD, COUNT, ROWS, LAUNCHES, STREAM, CAPTURING, STEPS = range(7)
# A step of it: a LaunchRecord's row; word CALL of the log's row; where it is found how often the
# launch may pass.
CONFIG, FUNCTION, EXTRA, STEP_CALL, OTHERS, STEP_WORDS = range(6)
# A segment: the number of the next launch, that at which the rows end, how many were taken and are
# done with, where row 0 would lie, and when the recording began, in seconds, a float64.
NEXT, END, DONE, PLACE, START, SEGMENT_WORDS = range(6)
# A row: seconds, a float64; the stream; the call below its flags; the number, from 1 on.
AT, ROW_STREAM, CALL, NUMBER, ROW_WORDS = range(5)

_WITHOUT_ROWS = 1 << 62
_NO_ROW = (0, 0, 0)  # in place of a LaunchRecord's


def refused(found: int) -> tuple[int, int, int]:
    """Unpack a fast path's result into launch number, step and driver error code."""
    step = found >> STEP_BIT & (_MOST_STEPS - 1)
    return found >> NUMBER_BIT, step, found & ((1 << STEP_BIT) - 1)


class LaunchLog:
    """Numbers for launches, from 0 on, each with a place among the rows where there are any.

    One thread at a time may use it; fast paths any number, and meanwhile.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self._issue: Callable[[int], int] | None = None  # from the first fast path on
        self._used: list[object] = []  # segments, which a thread may be looking at for long
        self.is_paused = False
        self._forever = c_int64(1 << 62)
        self._head = c_int64()  # where fast paths find the segment
        self._own_head = c_int64()
        self._own = (c_int64 * STEPS)()  # a fast path that takes numbers alone
        self._own[HEAD] = ctypes.addressof(self._own_head)
        self._begin(0, _WITHOUT_ROWS, None)

    def _begin(self, first: int, count: int, rows: int | None) -> None:
        place = 0 if rows is None else rows - first * ROW_WORDS * 8
        segment = (c_int64 * SEGMENT_WORDS)(first, first + count, first, place)
        start = ctypes.addressof(segment) + 8 * START
        c_double.from_address(start).value = self.start
        self._segment, self._first, self.has_rows = segment, first, rows is not None
        self._own_head.value = ctypes.addressof(segment)
        if self.has_rows:
            self._used.append(segment)
        self._admit()

    def _admit(self) -> None:
        admitted = self.has_rows and not self.is_paused
        self._head.value = self._own_head.value if admitted else 0

    @property
    def count(self) -> int:
        """The count of numbers that have been taken."""
        return self._segment[NEXT]

    @property
    def room(self) -> int:
        """The count of rows that fast paths may still write."""
        return self._rest if self._head.value else 0

    @property
    def _rest(self) -> int:
        return self._segment[END] - self._segment[NEXT]

    def take(self, count: int = 1) -> int | None:
        """The first of so many numbers that nobody else gets; None where there is no room.

        Their rows, if they have any, are the caller's.
        """
        segment = self._segment
        if self._issue is not None:  # fast paths take numbers, too
            self._own[COUNT] = count
            found = self._issue(ctypes.addressof(self._own))
            return None if found == FULL else (found >> NUMBER_BIT) - 1
        if count > self._rest:
            return None
        segment[NEXT] += count
        segment[DONE] += count
        return segment[NEXT] - count

    def index(self, number: int) -> int:
        """The index of the row of a number just taken."""
        return number - self._first

    def begin_rows(self, address: int, count: int) -> None:
        """Give rows to numbers from now on, that at the address to the next one."""
        self._begin(self.count, count, address)

    def end_rows(self) -> None:
        """Wait until no fast path writes any more, then stop giving rows."""
        segment = self._segment
        self._head.value = 0
        while (first := self.take(self._rest)) is None:
            pass
        while segment[DONE] != segment[END]:
            time.sleep(0)
        self._begin(first, _WITHOUT_ROWS, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block there is no room for fast paths."""
        self.is_paused = True
        self._admit()
        try:
            yield
        finally:
            self.is_paused = False
            self._admit()

    def fast_path(
        self,
        owner: Observer,
        launches: Issued,
        calls: Sequence[int],
        others: Sequence[c_int64] | None,
    ) -> FastPath | None:
        """A fast path for these launches; None where there are none, or too many.

        calls: what the launches' rows say that they are, number | flags << 32.  others: how often
        each may pass before the owner wants to launch it; None where a graph launches them all.
        """
        # Compiled code has to know the clock of time.perf_counter.
        if not 0 < len(calls) < _MOST_STEPS or sys.platform == "win32":
            return None
        if self._issue is None:
            self._issue = launches.issuer()
        count, issues = len(calls), others is not None
        rows = launches.rows if issues else [_NO_ROW] * count
        counts = others or [self._forever] * count
        words = [ctypes.addressof(self._head), count, count, count * issues, launches.handle, 0]
        for row, call, passing in zip(rows, calls, counts, strict=True):
            words += (*row, call, ctypes.addressof(passing))
        memory = (c_int64 * len(words))(*words)
        return FastPath(
            *(owner, self._issue, ctypes.addressof(memory), count, (memory, self, others))
        )
