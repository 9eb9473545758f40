"""Prepared launches on a GPU: one call of the driver, with everything spelt out before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import AbiError, FerrumError
from . import capture, driver, observer
from .lanes import Lanes
from .ledger import refused
from .prepared import PreparedLaunch
from .streams import order, stream_handle

if TYPE_CHECKING:
    from ..abi import LaunchConfig
    from .base import Invocation
    from .cuda_kernel import CudaKernel

# A stream, its handle, the row of the packet for it, whether its launch uses scratch, and the lane
# that the packet is of.  Replaced as one, for other threads.
_Last = tuple[object, int, int, int, int, bool, Any]
_NOBODY = object()  # in place of a stream: look at everything again
_NONE: _Last = (_NOBODY, 0, 0, 0, 0, False, None)


class CudaPreparedLaunch(PreparedLaunch):
    """A prepared launch whose packet is kept for each stream.

    Where the stream is the same object as before and nobody looks on, a call is a call of the
    driver, in whatever context is current.
    """

    kernel: CudaKernel

    def __init__(
        self,
        kernel: CudaKernel,
        invocation: Invocation,
        lent: Mapping[str, object] | None = None,
    ) -> None:
        """lent: the arguments, all of which the next launch is given again."""
        super().__init__(kernel, invocation)
        if lent is not None:
            self._invocation = replace(invocation, arguments={})
            self._lent = {name: kernel.facts(value) for name, value in lent.items()}
            self._lent_nbytes = invocation.nbytes
        self._lanes = Lanes(kernel.device, [self])
        self._driver = driver.launcher()
        self._in_flight = kernel.device.in_flight
        self._last = self._last_lent = _NONE
        self._in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        last = self._last
        if stream is not last[0] or capture.takers:
            self._require_nothing_lent()
            self._last = self._issue(self._invocation, stream, last)
        elif (watching := observer.current) is not None:
            found = last[6].issue(watching)
            if found and not self._passes(found, watching, last):
                self.kernel.issue(self._invocation, stream)
        elif last[5] and driver.is_capturing(last[1]):
            self.kernel.issue(self._invocation, stream)
        else:
            code = self._driver(last[2], last[3], None, last[4])
            if code:
                self._again(code, last)

    def launch(self, stream: Any = None, **changes: object) -> None:
        self._lend(changes)
        self._last = _NONE  # a plain call has to see that something is lent
        self._send(stream, changes)

    def launch_as(self, config: LaunchConfig, stream: Any, arguments: dict[str, object]) -> bool:
        """`launch` with all arguments anew, where that is a launch of this configuration.

        Returns False, and launches nothing, where it is another, or something does not fit.
        """
        if arguments.keys() != self._lent.keys():
            return False
        try:
            self._lend(arguments)
        except AbiError:
            return False
        if self._invocation.bound.config != config:
            return False
        self._send(stream, arguments)
        return True

    def _send(self, stream: Any, changes: dict[str, object]) -> None:
        last = self._last_lent
        if stream is not last[0] or capture.takers:
            last = self._last_lent = self._issue(self._whole(changes), stream, last)
        elif (watching := observer.current) is not None:
            found = last[6].issue(watching)
            if found and not self._passes(found, watching, last):
                self.kernel.issue(self._whole(changes), stream)
        elif last[5] and driver.is_capturing(last[1]):
            self.kernel.issue(self._whole(changes), stream)
            return
        else:
            code = self._driver(last[2], last[3], None, last[4])
            if code:
                self._again(code, last)
        if last is not _NONE:
            self._in_flight.keep(stream, last[1], self._describe, changes, self._lent_nbytes)

    def _change(self, changes: dict[str, object], hold: bool) -> None:
        before = self._invocation
        super()._change(changes, hold)
        try:
            self._lanes.changed(0, before, changes)
        except BaseException:
            self.restore(before)
            self._lanes.discard()
            self._last = self._last_lent = _NONE
            raise
        now = self._invocation
        stale = bool(now.waits) or bool(now.bound.scratch) is not bool(before.bound.scratch)
        # What a lane that was given up points to has not been changed.
        if stale or self._last[6] not in self._lanes:
            self._last = _NONE
        if stale or self._last_lent[6] not in self._lanes:
            self._last_lent = _NONE

    def _issue(self, invocation: Invocation, stream: Any, last: _Last) -> _Last:
        """Launch with all that may be between; returns what calls may go by from now on.

        _NONE where the kernel was left to do it all, as for a single launch.
        """
        device, handle = self.kernel.device, stream_handle(stream)
        scratch, waits = bool(invocation.bound.scratch), invocation.waits
        if capture.takers or (scratch and device.is_capturing(stream)):
            self.kernel.issue(invocation, stream)
            return _NONE
        watching = observer.current
        if handle == last[1] and last[0] is not _NOBODY:  # another object for the same stream
            if watching is None:
                code = self._driver(last[2], last[3], None, last[4])
                if code:
                    self._again(code, last)
            elif not self._passes(last[6].issue(watching), watching, last):
                self.kernel.issue(invocation, stream)
            return stream, *last[1:]
        device.current().adopt()
        with device.current():
            if waits:
                order(handle, waits)
            lane = self._lanes.on(stream, handle)
            packet = lane.packets[0]
            if watching is None:
                driver.launch(packet, self._describe)
        now: _Last = stream, handle, *packet.row, scratch, lane
        if watching is not None and not self._passes(lane.issue(watching), watching, now):
            self.kernel.issue(invocation, stream)
        if lane.fleeting:
            self._in_flight.keep(stream, handle, self._describe, invocation.arguments, 0)
            return _NONE
        return (_NOBODY, *now[1:]) if waits else now

    def _passes(self, found: int, watching: observer.Observer, last: _Last) -> bool:
        """Whether it was launched, which a lane found; False where the observer has to do it."""
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
        context = self.kernel.device.current()
        context.adopt()
        with context:
            if code in driver.OTHER_CONTEXT:
                code = self._driver(last[2], last[3], None, last[4])
            if code:
                raise driver.refusal(code, self._describe())

    def _describe(self) -> str:
        return self.kernel.describe(self._invocation)

    def __del__(self) -> None:
        if hasattr(self, "_lanes"):
            self._lanes.abandon()
