"""Prepared launches on a GPU: one call of the driver, with everything spelt out before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import FerrumError
from .. import observer, sequence
from ..invocation import Invocation
from ..launch_log import refused
from ..prepared import PreparedLaunch
from . import driver
from .gpu import GpuKernel
from .stream_states import StreamStates
from .streams import order, others, stream_handle

# A stream, its handle, the row of the record for it, whether its launch uses scratch, and the state
# that the record is of.  Replaced as one, for other threads.
_Last = tuple[object, int, int, int, int, bool, Any]
_NOBODY = object()  # in place of a stream: look at everything again
_NONE: _Last = (_NOBODY, 0, 0, 0, 0, False, None)


class CudaPreparedLaunch(PreparedLaunch):
    """A prepared launch whose record is kept for each stream.

    Where the stream is the same object as before and nobody looks on, a call is a call of the
    driver, in whatever context is current.
    """

    kernel: GpuKernel

    def __init__(
        self,
        kernel: GpuKernel,
        invocation: Invocation,
        borrowed: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(kernel, invocation, borrowed)
        self._states = StreamStates(kernel.gpu, [self])
        self._driver = driver.launcher()
        self._in_flight = kernel.gpu.in_flight
        self._last = self._last_borrowed = _NONE
        self._in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        last = self._last
        if stream is not last[0] or sequence.recordings:
            self._require_nothing_borrowed()
            self._last = self._issue(self.invocation, stream, last)
        elif (watching := observer.current) is not None:
            found = last[6].issue(watching)
            if found and not self._issued(found, watching, last):
                self.kernel._issue(self.invocation, stream)
        elif last[5] and driver.is_capturing(last[1]):
            self.kernel._issue(self.invocation, stream)
        else:
            code = self._driver(last[2], last[3], None, last[4])
            if code:
                self._again(code, last)

    def _send(self, stream: Any, changes: dict[str, object]) -> None:
        self._last = _NONE  # a plain call has to see that something is borrowed
        last = self._last_borrowed
        if stream is not last[0] or sequence.recordings:
            last = self._last_borrowed = self._issue(self._whole(changes), stream, last)
        elif (watching := observer.current) is not None:
            found = last[6].issue(watching)
            if found and not self._issued(found, watching, last):
                self.kernel._issue(self._whole(changes), stream)
        elif last[5] and driver.is_capturing(last[1]):
            self.kernel._issue(self._whole(changes), stream)
            return
        else:
            code = self._driver(last[2], last[3], None, last[4])
            if code:
                self._again(code, last)
        if last is not _NONE:
            self._in_flight.keep(stream, last[1], self._describe, changes, self._borrowed_nbytes)

    def _change(self, changes: Mapping[str, object], hold: bool) -> None:
        before = self.invocation
        super()._change(changes, hold)
        self._follow(before, changes)

    def _exchange(self, addresses: Mapping[str, int], changes: Mapping[str, object]) -> None:
        before = self.invocation
        super()._exchange(addresses, changes)
        self._follow(before, changes)

    def _move(self, addresses: Mapping[str, int]) -> None:
        super()._move(addresses)
        self._states.moved(self._invocation.block, addresses)

    def _follow(self, before: Invocation, changes: Mapping[str, object]) -> None:
        """Let the streams' states follow a change; undo it where that fails."""
        try:
            self._states.changed(0, before, changes)
        except BaseException:
            self._restore(before)
            self._states.discard()
            self._last = self._last_borrowed = _NONE
            raise
        now = self._invocation
        stale = bool(now.waits) or bool(now.bound.scratch) is not bool(before.bound.scratch)
        # What a state that was given up points to has not been changed.
        if stale or self._last[6] not in self._states:
            self._last = _NONE
        if stale or self._last_borrowed[6] not in self._states:
            self._last_borrowed = _NONE

    def _issue(self, invocation: Invocation, stream: Any, last: _Last) -> _Last:
        """Launch with all that may be between; returns what calls may go by from now on.

        _NONE where the kernel was left to do it all, as for a single launch.
        """
        device, handle = self.kernel.gpu, stream_handle(stream)
        scratch, waits = bool(invocation.bound.scratch), invocation.waits
        if sequence.recordings or (scratch and device.is_capturing(stream)):
            self.kernel._issue(invocation, stream)
            return _NONE
        watching = observer.current
        if handle == last[1] and last[0] is not _NOBODY:  # another object for the same stream
            if watching is None:
                code = self._driver(last[2], last[3], None, last[4])
                if code:
                    self._again(code, last)
            elif not self._issued(last[6].issue(watching), watching, last):
                self.kernel._issue(invocation, stream)
            return stream, *last[1:]
        device.current().adopt()
        with device.current():
            order(handle, waits)
            state = self._states.on(stream, handle)
            record = state.records[0]
            if watching is None:
                record.launch(self._describe)
        now: _Last = stream, handle, *record.row, scratch, state
        if watching is not None and not self._issued(state.issue(watching), watching, now):
            self.kernel._issue(invocation, stream)
        if state.fleeting:
            self._in_flight.keep(stream, handle, self._describe, invocation.arguments, 0)
            return _NONE
        return (_NOBODY, *now[1:]) if others(handle, waits) else now

    def _issued(self, found: int, watching: observer.Observer, last: _Last) -> bool:
        """Whether it was launched, which a state found; False where the observer has to do it."""
        if found > 0:
            number, _, code = refused(found)
            try:
                self._again(code, last)
            except FerrumError as error:
                watching.failed(number, error)
                raise
        return found >= 0

    def _again(self, code: int, last: _Last) -> None:
        """The driver refused: for want of this device's context, or for a reason."""
        context = self.kernel.gpu.current()
        context.adopt()
        with context:
            if code in driver.OTHER_CONTEXT:
                code = self._driver(last[2], last[3], None, last[4])
            if code:
                raise driver.refusal(code, self._describe())

    def _describe(self) -> str:
        return self.kernel.describe(self.invocation)

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self._states.abandon()
