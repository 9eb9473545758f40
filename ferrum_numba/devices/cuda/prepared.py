"""Prepared launches on a GPU: one call of the driver, with everything spelt out before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .. import observer, sequence
from ..invocation import Invocation
from ..prepared import PreparedLaunch
from . import driver, native
from .gpu import GpuKernel
from .launcher import launcher
from .stream_states import NO_STREAM, NOT_READY, Ready, StreamStates, launch_refused
from .streams import order, others, stream_handle


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
        self._launch = native.launcher(launcher().place)
        self._in_flight = kernel.gpu.in_flight
        self._last = self._last_borrowed = NOT_READY
        # Whether records have to hear of a move: they have blocks of their own, or an observer's
        # mark.
        self._followed = kernel.owes_scratch
        self._in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        last = self._last
        if stream is not last.stream or sequence.recordings:
            self._require_nothing_borrowed()
            self._last = self._issue(self.invocation, stream, last)
        elif last.scratch and driver.is_capturing(last.handle):
            self.kernel._issue(self.invocation, stream)
        else:
            code = self._launch(last.config, last.function, last.extra, 0)
            if code and self._asks(code, last):
                self.kernel._issue(self.invocation, stream)

    def _send(self, stream: Any, names: Iterable[str], values: Collection[object]) -> None:
        self._last = NOT_READY  # a plain call has to see that something is borrowed
        last = self._last_borrowed
        if stream is not last.stream or sequence.recordings:
            whole = self._whole(names, values)
            last = self._last_borrowed = self._issue(whole, stream, last)
        elif last.scratch and driver.is_capturing(last.handle):
            self.kernel._issue(self._whole(names, values), stream)
            return
        else:
            found = self._launch(last.config, last.function, last.extra, last.handle)
            if not found:
                self._in_flight.add(
                    stream, last.handle, self._describe, values, self._borrowed_nbytes
                )
                return
            code = found & native.CODE
            if code and self._asks(code, last):
                self.kernel._issue(self._whole(names, values), stream)
        if last is not NOT_READY:
            self._in_flight.keep(stream, last.handle, self._describe, values, self._borrowed_nbytes)

    def _change(self, changes: Mapping[str, object], hold: bool) -> None:
        before = self.invocation
        super()._change(changes, hold)
        self._follow(before, changes)

    def _exchange(self, moved: Mapping[str, int], changes: Mapping[str, object]) -> None:
        held = self._invocation.arguments
        super()._exchange(moved, changes)
        self._states.retire([held.get(name) for name in moved])

    def _follow_moves(self) -> None:
        if self._followed:
            self._states.moved(self._invocation.block)

    def _follow(self, before: Invocation, changes: Mapping[str, object]) -> None:
        """Let the streams' states follow a change; undo it where that fails."""
        try:
            self._states.changed(0, before, changes)
        except BaseException:
            self._restore(before)
            self._states.discard()
            self._last = self._last_borrowed = NOT_READY
            raise
        now = self._invocation
        stale = bool(now.waits) or bool(now.bound.scratch) is not bool(before.bound.scratch)
        # What a state that was given up points to has not been changed.
        if stale or self._last.state not in self._states:
            self._last = NOT_READY
        if stale or self._last_borrowed.state not in self._states:
            self._last_borrowed = NOT_READY

    def _issue(self, invocation: Invocation, stream: Any, last: Ready) -> Ready:
        """Slow path: handles captures and waits; returns what the next call goes by.

        NOT_READY where the kernel was left to do it all, as for a single launch.
        """
        device, handle = self.kernel.gpu, stream_handle(stream)
        scratch, waits = bool(invocation.bound.scratch), invocation.waits
        if sequence.recordings or (scratch and device.is_capturing(stream)):
            self.kernel._issue(invocation, stream)
            return NOT_READY
        if handle == last.handle and last.stream is not NO_STREAM:  # another object for the stream
            now = Ready(stream, last.state, last.scratch)
        else:
            device.current().adopt()
            with device.current():
                order(handle, waits)
                now = Ready(stream, self._states.on(stream, handle), scratch)
        code = self._launch(now.config, now.function, now.extra, 0)
        if code and self._asks(code, now):
            self.kernel._issue(invocation, stream)
        if now.state.fleeting:
            self._in_flight.keep(stream, handle, self._describe, invocation.arguments, 0)
            return NOT_READY
        return Ready(NO_STREAM, now.state, scratch) if others(handle, waits) else now

    def _asks(self, code: int, last: Ready) -> bool:
        """Launch what the launcher did not, as it returned the code; True if an observer has to."""
        record = last.state.records[0]
        if code == observer.ASKS:
            self._followed = True
            if not observer.admits(self, record):
                return True
            code = self._launch(last.config, last.function, last.extra, 0)
        if code and code != observer.ASKS:
            launch_refused(self.kernel.gpu, record, code, self._describe)
            return False
        return bool(code)

    def _describe(self) -> str:
        return self.kernel.describe(self._invocation)  # whose addresses no message has

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self._states.abandon()
