"""The numbers of launches, and tickets by which compiled code issues launches and writes them down.

The memory that both share is laid out here; the code is in `compiled.py`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_double, c_int64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .lanes import Lane
    from .observer import Observer

# What `issuer` returns besides 0.  Nothing was done: no room for the rows, or the observer wants to
# launch.  Else the first launch's number from 1 on, the step that was refused, the driver's code.
FULL, KEPT = -1, -2
NUMBER_BIT, STEP_BIT = 30, 10
_MOST_STEPS = 1 << (NUMBER_BIT - STEP_BIT)

# Of 64-bit words.  A ticket: where the address of the sheet is found, or 0; how many numbers it
# takes, rows it writes, launches it issues; the stream, and whether that is being captured.
CELL, COUNT, ROWS, LAUNCHES, STREAM, CAPTURING, STEPS = range(7)
# A step of it: a Packet's row; word CALL of the ledger's row; where it is found how often the
# launch may pass.
CONFIG, FUNCTION, EXTRA, STEP_CALL, OTHERS, STEP_WORDS = range(6)
# A sheet: the number of the next launch, that at which the rows end, how many were taken and are
# done with, where row 0 would lie, and when the recording began, in seconds, a float64.
NEXT, END, DONE, PLACE, START, SHEET_WORDS = range(6)
# A row: seconds, a float64; the stream; the call below its flags; the number, from 1 on.
AT, ROW_STREAM, CALL, NUMBER, ROW_WORDS = range(5)

_WITHOUT_ROWS = 1 << 62
_NO_ROW = (0, 0, 0)  # in place of a packet's


def refused(found: int) -> tuple[int, int, int]:
    """Of what an issuer returned: the first launch's number, the step, and the driver's code."""
    step = found >> STEP_BIT & (_MOST_STEPS - 1)
    return found >> NUMBER_BIT, step, found & ((1 << STEP_BIT) - 1)


class Ticket(NamedTuple):
    """What launches go by, and are seen by, for as long as nothing of them changes.

    owner: the observer.  issue(address): see `compiled.issuer`.  rows: how many it needs.
    memory: what lies at the address, and what that points to.
    """

    owner: Observer | None
    issue: Callable[[int], int]
    address: int
    rows: int
    memory: object


NO_TICKET = Ticket(None, lambda address: KEPT, 0, 0, None)


class Ledger:
    """Numbers for launches, from 0 on, each with a place among the rows where there are any.

    One thread at a time may use it; tickets any number, and meanwhile.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self._issue: Callable[[int], int] | None = None  # from the first ticket on
        self._used: list[object] = []  # sheets, which a thread may be looking at for long
        self.is_paused = False
        self._forever = c_int64(1 << 62)
        self._cell = c_int64()  # where tickets find the sheet
        self._own_cell = c_int64()
        self._own = (c_int64 * STEPS)()  # a ticket that takes numbers alone
        self._own[CELL] = ctypes.addressof(self._own_cell)
        self._begin(0, _WITHOUT_ROWS, None)

    def _begin(self, first: int, count: int, rows: int | None) -> None:
        place = 0 if rows is None else rows - first * ROW_WORDS * 8
        sheet = (c_int64 * SHEET_WORDS)(first, first + count, first, place)
        start = ctypes.addressof(sheet) + 8 * START
        c_double.from_address(start).value = self.start
        self._sheet, self._first, self.has_rows = sheet, first, rows is not None
        self._own_cell.value = ctypes.addressof(sheet)
        if self.has_rows:
            self._used.append(sheet)
        self._admit()

    def _admit(self) -> None:
        admitted = self.has_rows and not self.is_paused
        self._cell.value = self._own_cell.value if admitted else 0

    @property
    def count(self) -> int:
        """How many numbers have been taken."""
        return self._sheet[NEXT]

    @property
    def room(self) -> int:
        """How many rows tickets may write."""
        return self._rest if self._cell.value else 0

    @property
    def _rest(self) -> int:
        return self._sheet[END] - self._sheet[NEXT]

    def take(self, count: int = 1) -> int | None:
        """The first of so many numbers that nobody else gets; None where there is no room.

        Their rows, if they have any, are the caller's.
        """
        sheet = self._sheet
        if self._issue is not None:  # tickets take numbers, too
            self._own[COUNT] = count
            found = self._issue(ctypes.addressof(self._own))
            return None if found == FULL else (found >> NUMBER_BIT) - 1
        if count > self._rest:
            return None
        sheet[NEXT] += count
        sheet[DONE] += count
        return sheet[NEXT] - count

    def index(self, number: int) -> int:
        """Which of the rows is that of a number just taken."""
        return number - self._first

    def begin_rows(self, address: int, count: int) -> None:
        """From now on numbers have rows, the next one that at the address."""
        self._begin(self.count, count, address)

    def end_rows(self) -> None:
        """When this returns no ticket writes any more; numbers have no rows from now on."""
        sheet = self._sheet
        self._cell.value = 0
        while (first := self.take(self._rest)) is None:
            pass
        while sheet[DONE] != sheet[END]:
            time.sleep(0)
        self._begin(first, _WITHOUT_ROWS, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block there is no room for tickets."""
        self.is_paused = True
        self._admit()
        try:
            yield
        finally:
            self.is_paused = False
            self._admit()

    def ticket(
        self,
        owner: Observer,
        lane: Lane,
        calls: Sequence[int],
        others: Sequence[c_int64] | None,
    ) -> Ticket | None:
        """A ticket for the lane's launches; None where there are none, or too many.

        calls: what the launches' rows say that they are, number | flags << 32.  others: how often
        each may pass before the owner wants to launch it; None where a graph launches them all.
        """
        # Compiled code has to know the clock of time.perf_counter.
        if not 0 < len(calls) < _MOST_STEPS or sys.platform == "win32":
            return None
        if self._issue is None:
            from .compiled import issuer  # it takes numba a while

            self._issue = issuer()
        count, issues = len(calls), others is not None
        rows = [packet.row for packet in lane.packets] if issues else [_NO_ROW] * count
        counts = others or [self._forever] * count
        words = [ctypes.addressof(self._cell), count, count, count * issues, lane.handle, 0]
        for row, call, passing in zip(rows, calls, counts, strict=True):
            words += (*row, call, ctypes.addressof(passing))
        memory = (c_int64 * len(words))(*words)
        return Ticket(
            *(owner, self._issue, ctypes.addressof(memory), count, (memory, self, others))
        )
