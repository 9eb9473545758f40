"""Launches prepared for the streams that they are issued on: a state for each stream."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_uint64
from types import NoneType
from typing import Any

from ...abi import ParameterBlock
from .. import observer
from ..invocation import Invocation
from . import driver
from .gpu import Gpu, GpuLaunch
from .launch_record import LaunchRecord
from .streams import is_fleeting, order_of

ROW_BYTES = 24  # of a table of launch records
_STREAMS = 8  # for which records are kept; the one first used goes first


class StreamState:
    """Launch records of some launches, one after the other, for one stream.

    table: the records' rows, three words each; its address is what the compiled loop takes.
    """

    def __init__(self, stream: Any, handle: int, records: Sequence[LaunchRecord]) -> None:
        self.stream = stream  # keeps the handle valid
        self.handle = handle
        self.fleeting = is_fleeting(stream, handle)
        self.records = records
        self._table = table_of(records)
        self.table = ctypes.addressof(self._table)


def table_of(records: Sequence[LaunchRecord]) -> ctypes.Array[c_uint64]:
    """The table that compiled loops take: the records' rows."""
    words = [word for record in records for word in record.row]
    return (c_uint64 * len(words))(*words)


def launch_refused(gpu: Gpu, record: LaunchRecord, code: int, describe: Callable[[], str]) -> None:
    """Launch what the driver refused, if that was for want of the GPU's context, or raise.

    describe: the launch in one line, for the message of the LaunchError.
    """
    gpu.current().adopt()
    with gpu.current():
        if code in driver.OTHER_CONTEXT:
            config, function, extra = record.row
            code = driver.launcher()(config, function, None, extra)
        if code:  # within the block, which says so where the context is lost
            error = driver.refusal(code, describe())
            observer.failed(record.number, error)
            raise error


class Ready:
    """The state that the last call went by, ready for the next on the same stream object.

    scratch: whether a launch uses scratch.  It is replaced as a whole, for other threads.
    """

    __slots__ = ("config", "extra", "function", "handle", "scratch", "state", "stream")

    def __init__(self, stream: object, state: StreamState, scratch: bool) -> None:
        self.stream, self.state, self.scratch = stream, state, scratch
        self.handle = state.handle
        row = state.records[0].row if state.records else (0, 0, 0)
        self.config, self.function, self.extra = row


NO_STREAM = object()  # in place of a stream: look at everything again
NOT_READY = Ready(NO_STREAM, StreamState(None, 0, []), False)


class StreamStates:
    """The states of one plan, of one graph or of one prepared launch, and what is under way there.

    The launches hold their arrays.  Arrays that are replaced are kept alive until earlier launches
    finish.
    """

    def __init__(self, gpu: Gpu, launches: Sequence[GpuLaunch], recorded: bool = True) -> None:
        """recorded: whether a state gets records; a graph has them itself."""
        self._gpu = gpu
        self._launches = launches
        self._recorded = recorded
        self._streams = gpu.in_flight.streams
        self._states: dict[tuple[int, int], StreamState] = {}  # by order_of their streams
        self._lock = threading.Lock()

    def on(self, stream: Any, handle: int) -> StreamState:
        """The state of a stream; the context is current."""
        key = order_of(handle)
        with self._lock:
            if key not in self._states:
                while len(self._states) >= _STREAMS:
                    oldest = self._states.pop(next(iter(self._states)))
                    self._retire(oldest, self._used())
                    self._streams.pop(id(oldest), None)
                state = self._states[key] = StreamState(stream, handle, self._records(handle))
                self._streams[id(state)] = stream
            state = self._states[key]
            if state.fleeting and not is_fleeting(stream, handle):
                state.stream, state.fleeting = stream, False
                self._streams[id(state)] = stream
            return state

    def _records(self, handle: int) -> list[LaunchRecord]:
        if not self._recorded:
            return []
        return [launch.kernel.record(launch.invocation, handle) for launch in self._launches]

    def __contains__(self, state: StreamState) -> bool:
        return self._states.get(order_of(state.handle)) is state

    def changed(self, number: int, before: Invocation, changes: Mapping[str, object]) -> None:
        """Put a launch's new arguments into its records, which stay where they are."""
        # Also what is no array may keep one alive, as a tensor map does.
        held = [before.arguments.get(name) for name in changes]
        replaced = [value for value in held if not isinstance(value, (int, float, NoneType))]
        for key, state in list(self._states.items()):
            if key != order_of(state.handle):  # another thread's, whose scratch is out of reach
                self._streams.pop(id(self._states.pop(key)), None)
                continue
            if replaced:
                self._retire(state, replaced)
            if self._recorded:
                self._refill(state, number, before)

    def moved(self, block: ParameterBlock) -> None:
        """Arrays of the one launch, whose block it is, lie elsewhere; nobody held those before."""
        for state in self._states.values():
            if (record := state.records[0]).marked:
                record.unmark()
            if (own := record.block) is not block:
                own.follow(block)

    def retire(self, objects: object) -> None:
        """Keep what is held no longer alive until earlier launches finish."""
        for state in self._states.values():
            self._retire(state, objects)

    def _refill(self, state: StreamState, number: int, before: Invocation) -> None:
        launch, record = self._launches[number], state.records[number]
        now = launch.invocation
        record.forget()
        if now.config is not before.config:
            record.configure(now.config)
        if record.block is not now.block:  # it has scratch, and a block for each stream
            record.block.follow(now.block)
            if now.bound.scratch is not before.bound.scratch:
                with self._gpu.current():
                    arena = self._gpu.scratch.arena(state.handle)
                    launch.kernel.provide(record.block, now, arena)

    def discard(self) -> None:
        """Make all records anew wherever the launches are issued next."""
        states, self._states = self._states, {}
        for state in states.values():
            self._streams.pop(id(state), None)
            self._retire(state, self._used())

    def abandon(self) -> None:
        """Give the launches up, which nobody uses any more; for finalisers."""
        used = self._used()
        for state in self._states.values():
            if not state.fleeting:
                self._gpu.in_flight.drop(state.stream, state.handle, self._describe, used)
            self._streams.pop(id(state), None)

    def keep(self, state: StreamState) -> None:
        """Hold what was just issued on a fleeting stream, which cannot be asked for it later."""
        self._gpu.in_flight.keep(state.stream, state.handle, self._describe, self._used(), 0)

    def _retire(self, state: StreamState, objects: object) -> None:
        if state.fleeting:
            return
        self._gpu.in_flight.keep(state.stream, state.handle, self._describe, objects, 0)

    def _used(self) -> list[object]:
        return [launch.invocation.arguments for launch in self._launches]

    def _describe(self) -> str:
        launches = [launch.kernel.describe(launch.invocation) for launch in self._launches[:1]]
        more = f" and {len(self._launches) - 1} more" if len(self._launches) > 1 else ""
        return "; ".join(launches) + more
