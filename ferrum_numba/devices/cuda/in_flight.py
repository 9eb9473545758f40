"""Work that a GPU has been given and is not known to have done."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...errors import FerrumError, LaunchError
from . import driver
from .objects import Event
from .streams import PER_THREAD, is_fleeting

# An event is set behind so many launches, or so many bytes of arrays: what a launch costs is small,
# and so is what is kept alive longer than needed.
_LAUNCHES, _NBYTES = 256, 64 << 20
_PATIENCE = 1.0  # seconds for the lock
_AHEAD = 1 << 30  # bytes of arrays in flight at which the host waits, rather than take more memory
_SHOWN, _PERHAPS = 16, 4  # launches that a message names: known ones, and prepared ones

Describe = Callable[[], str]


@dataclass
class _Batch:
    """Launches of one stream, and what they use; `event` is behind all of them, once it is set.

    stream: keeps the handle valid, unless it is fleeting.
    """

    stream: Any
    handle: int
    launches: list[tuple[Describe, object]] = field(default_factory=list)
    nbytes: int = 0
    event: Event | None = None


class InFlight:
    """Arrays that launches use, kept alive until the device is done with them.

    Safe from any thread.
    """

    def __init__(self, current: Callable[[], AbstractContextManager[object]]) -> None:
        """current: makes the device's context current within a block."""
        self._current = current
        self._noted: deque[tuple[Any, int, Describe, object, int]] = deque()  # in no batch yet
        self._noted_nbytes = 0  # about
        self._open: dict[int, _Batch] = {}  # by stream
        self._sealed: deque[_Batch] = deque()
        self._spare: list[Event] = []
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[object] = weakref.WeakSet()
        # The streams of StreamStates, by state.  An object that only a cycle of garbage holds is
        # finalised before the cycle's own __del__ methods run: a stream would be destroyed before
        # they could say what is still under way on it.
        self.streams: dict[int, object] = {}
        # (stream, objects): has the graph hold them that the stream is captured into, if any.
        self.hold_captured: Callable[[int, object], bool] = lambda stream, objects: False

    def watch(self, launch: object) -> None:
        """Name this one, which holds what it uses by itself, among those that may be under way."""
        with self._lock:
            self._watched.add(launch)

    def keep(
        self, stream: Any, handle: int, describe: Describe, objects: object, nbytes: int
    ) -> None:
        """Hold `objects` until the work that a stream has been given so far is done.

        stream: the object whose handle it is.  nbytes: about the size of the objects.  Behind what
        is fleeting an event is set at once.  Of a stream that is being captured the graph holds
        them.
        """
        if not (handle > PER_THREAD and self._captured(handle, (describe, objects))):
            if is_fleeting(stream, handle):
                self._keep_fleeting(_Batch(stream, handle, [(describe, objects)], nbytes))
            else:
                self.add(stream, handle, describe, objects, nbytes)

    def add(
        self, stream: Any, handle: int, describe: Describe, objects: object, nbytes: int
    ) -> None:
        """Keep objects as `keep` does, of a stream that lasts and is not captured."""
        noted = self._noted
        noted.append((stream, handle, describe, objects, nbytes))
        self._noted_nbytes += nbytes
        if len(noted) > _LAUNCHES or self._noted_nbytes > _NBYTES:
            self._settle()

    def _settle(self) -> None:
        """Set an event behind what is noted, and let go of what is done.

        Another thread may be at it, or this one, in which a finaliser runs: then it stays noted.
        """
        # To ask for an event would break a capture of another library's.
        with self._current(), driver.outside_of_captures():
            if self._lock.acquire(blocking=False):
                try:
                    done = self._seal()
                finally:
                    self._lock.release()
                done.clear()  # outside the lock: what is freed there may run any code

    def _keep_fleeting(self, batch: _Batch) -> None:
        """Set an event behind a batch at once: its stream cannot be asked again."""
        with self._current(), driver.outside_of_captures():
            if driver.may_record(batch.handle):
                batch.event = Event()
                batch.event.record(batch.handle)
            with self._lock:
                self._sealed.append(batch)
                done = self._sweep()
            done.clear()

    def _captured(self, handle: int, objects: object) -> bool:
        """True if a graph holds the objects, into which a stream is being captured."""
        try:
            if not driver.is_capturing(handle):
                return False
            with self._current():
                return self.hold_captured(handle, objects)
        except FerrumError:  # the stream is gone, or the context
            return False

    def drop(self, stream: Any, handle: int, describe: Describe, objects: object) -> None:
        """Like `keep`, from a finaliser: it may run within `keep` itself, and in any context."""
        self._noted.append((stream, handle, describe, objects, 0))

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """A block that waits for the whole device: what was in flight before it is let go of.

        What other threads launch meanwhile is not: that may be under way when the wait is over.
        The context is current.
        """
        with self._lock, driver.outside_of_captures():
            done = self._seal()
            before = list(self._sealed)
        done.clear()
        yield
        with self._lock:
            over = set(map(id, before))
            done = [batch for batch in self._sealed if id(batch) in over]
            self._sealed = deque(batch for batch in self._sealed if id(batch) not in over)
            self._spare.extend(batch.event for batch in done if batch.event is not None)
        done.clear()  # outside the lock: what is freed there may run any code
        before.clear()

    def reclaim(self, *, everything: bool) -> None:
        """Let go of what is done, so that its memory can be used again; the context is current.

        It waits for the oldest launches while more than _AHEAD bytes of arrays are in flight, or
        for everything.
        """
        # This thread may hold the lock already: a finaliser may run within the other methods.
        if not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            allowed = -1 if everything else _AHEAD
            noted = sum(note[-1] for note in list(self._noted))
            pending = noted + sum(batch.nbytes for batch in [*self._sealed, *self._open.values()])
            done = self._seal() if pending > allowed else self._sweep()
            for batch in list(self._sealed):
                if pending <= allowed:
                    break
                if batch.event is not None:
                    batch.event.synchronize()
                pending -= batch.nbytes
            done += self._sweep()
        finally:
            self._lock.release()
        done.clear()  # outside the lock: what is freed there may run any code

    def describe(self) -> str:
        """The launches that are not known to be done, oldest first."""
        with self._lock:
            pending = [b for b in self._sealed if b.event is None or not b.event.done]
            batches = [*pending, *self._open.values()]
            running = [describe for batch in batches for describe, _ in batch.launches]
            running += [describe for _, _, describe, _, _ in list(self._noted)]
            shown = [describe() for describe in running[-_SHOWN:]]
            if len(running) > len(shown):
                shown.insert(0, f"{len(running) - len(shown)} more")
            shown += [f"perhaps {launch!r}" for launch in list(self._watched)[:_PERHAPS]]
        return "; ".join(shown) or "no launch of this package"

    def _begin(self, stream: Any, handle: int) -> _Batch:
        batch = self._open[handle] = _Batch(stream, handle)
        return batch

    def _seal(self) -> list[_Batch]:
        """Set an event behind each open batch; returns those that are done, to be let go of."""
        self._noted_nbytes = 0
        while self._noted:
            stream, handle, describe, objects, nbytes = self._noted.popleft()
            batch = self._open.get(handle) or self._begin(stream, handle)
            batch.launches.append((describe, objects))
            batch.nbytes += nbytes
        for handle, batch in list(self._open.items()):
            try:
                if not driver.may_record(handle):
                    continue
                batch.event = self._spare.pop() if self._spare else Event()
                batch.event.record(handle)
            except LaunchError:  # the stream is gone: until the device is synchronised, then
                batch.event = None
            self._sealed.append(self._open.pop(handle))
        return self._sweep()

    def _sweep(self) -> list[_Batch]:
        done, waiting, pending = [], deque[_Batch](), set[int]()
        for batch in self._sealed:
            # Behind one of its stream that is not done, none is.
            if batch.handle in pending or batch.event is None or not batch.event.done:
                pending.add(batch.handle)
                waiting.append(batch)
            else:
                self._spare.append(batch.event)
                done.append(batch)
        self._sealed = waiting
        return done
