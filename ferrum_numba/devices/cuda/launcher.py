"""The launcher of repeated launches: the driver's, or while somebody observes one that logs first.

All that is repeated calls the driver by the address in one place.  An observer's launcher, which
takes and returns what cuLaunchKernelEx does, is put there: what calls it does not change, and costs
nothing more while nobody observes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int, c_int64, c_void_p
from functools import cache, cached_property, lru_cache
from typing import Any

from numba import cfunc, njit, types

from .. import launch_log as log
from .. import observer
from . import driver
from .launch_record import MARK, STREAM
from .native import add, address_of, floats, kept, swap, words

_Launch = CFUNCTYPE(c_int, *(c_void_p,) * 4)


class Launcher:
    """The launcher of one driver.

    call: takes a LaunchRecord's row as cuLaunchKernelEx does; returns the driver's code, or
    observer.ASKS.  place: where native code finds the address of what `call` calls.
    """

    def __init__(self, launch: int, asked: int) -> None:
        """The addresses of cuLaunchKernelEx and of cuStreamIsCapturing."""
        self._driver, self._asked = launch, asked
        self.call: Callable[[int, int, None, int], int] = _Launch(launch)
        self.place = ctypes.addressof(self.call)  # a pointer's own memory
        observer.follow(self._observed)

    def _observed(self, by_anybody: bool) -> None:
        address = self._logging.address if by_anybody else self._driver
        c_void_p.from_address(self.place).value = address

    @cached_property
    def _logging(self) -> Any:
        return _logging(self._driver, _logged(self._asked))

    @cached_property
    def note(self) -> Callable[[int, int, int], int]:
        """Logs launches of a graph: takes their records' table, how many they are, and the stream.

        Returns the number of the first one that the observer has to be asked about; -1 for none.
        """
        return _noting(_logged(self._asked))


def launcher() -> Launcher:
    """The launcher of the driver."""
    asked = address_of(driver.library().cuStreamIsCapturing)
    return _launcher(address_of(driver.launcher()), asked)


_launcher = lru_cache(maxsize=None)(Launcher)


def _logging(address: int, logged: Any) -> Any:
    """A launcher that logs what may pass and launches it, and asks about anything else."""
    launch, asks = CFUNCTYPE(c_int, *(c_int64,) * 4)(address), observer.ASKS

    def observed(config, function, params, extra):  # type: ignore[no-untyped-def]
        if logged(extra, words(config)[STREAM], 0):
            return launch(config, function, params, extra)
        return asks

    compiled = cfunc(types.int32(*(types.int64,) * 4))(observed)
    kept.append(compiled)
    return compiled


def _noting(logged: Any) -> Callable[[int, int, int], int]:
    graph = log.GRAPH

    def note(table, count, stream):  # type: ignore[no-untyped-def]
        for i in range(count):
            if not logged(words(table)[3 * i + 2], stream, graph):
                return i
        return -1

    compiled = cfunc(types.int64(*(types.int64,) * 3))(note)
    kept.append(compiled)
    return CFUNCTYPE(c_int64, *(c_int64,) * 3)(compiled.address)


@cache
def _logged(asked: int) -> Any:
    """Native code that writes a launch's row; its number from 1 on, or 0 where it may not.

    The row is written before the launch, its number last.  Any number of threads may call it.
    """
    if sys.platform == "win32":  # whose clock of time.perf_counter native code does not know
        return njit(lambda extra, stream, flags: 0)
    capturing = CFUNCTYPE(c_int, c_int64, c_int64)(asked)
    clock = CFUNCTYPE(c_int, c_int64, c_int64)(address_of(ctypes.CDLL(None).clock_gettime))
    gate = log.gate

    @njit
    def take(place):  # type: ignore[no-untyped-def]
        own = words(place)
        number = own[log.NEXT]
        while number < own[log.END] and not swap(place + 8 * log.NEXT, number, number + 1):
            number = own[log.NEXT]
        return number if number < own[log.END] else -1

    @njit
    def written(place, extra, stream, flags):  # type: ignore[no-untyped-def]
        mark = words(extra + 8 * MARK)
        if place == 0 or mark[log.MARK_RECORDING] != words(place)[log.RECORDING]:
            return 0
        call = words(mark[log.MARK_CALL])
        if flags == 0:
            if call[log.PASSES] <= 0:
                return 0
            if stream > 1:  # the default stream, which 0 and 1 are, is never captured
                if capturing(stream, extra + 8 * (MARK + log.CAPTURING)):
                    return 0
                if mark[log.CAPTURING]:
                    flags = log.CAPTURED
        number = take(place)
        if number < 0:
            return 0
        where = words(place)[log.PLACE] + number * 8 * log.ROW_WORDS
        row = words(where)
        clock(1, where)  # CLOCK_MONOTONIC, as time.perf_counter: seconds and nanoseconds
        floats(where)[log.AT] = row[0] + row[1] * 1e-9 - floats(place)[log.START]
        row[log.ROW_STREAM] = stream
        row[log.CALL] = call[log.CALL_NUMBER] | flags << 32
        if flags == 0:
            call[log.PASSES] -= 1
        mark[log.MARK_NUMBER] = number + 1
        add(where + 8 * log.NUMBER, number + 1)  # publish: 0 is an incomplete row
        return number + 1

    @njit
    def logged(extra, stream, flags):  # type: ignore[no-untyped-def]
        add(gate + 8 * log.INSIDE, 1)
        number = written(words(gate)[log.LOG], extra, stream, flags)
        add(gate + 8 * log.INSIDE, -1)
        return number

    compiled = cfunc(types.int64(types.int64))(lambda place: take(place))
    kept.append(compiled)
    log.take = CFUNCTYPE(c_int64, c_int64)(compiled.address)
    return logged
