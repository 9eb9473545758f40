"""Launch plans on a GPU: a table of launch records for each stream, issued by a compiled loop."""

from __future__ import annotations

from typing import Any, cast

from ...errors import FerrumError
from .. import observer, sequence
from ..launch_log import refused
from ..sequence import LaunchPlan
from . import driver, native
from .gpu import Gpu, GpuLaunch
from .stream_states import StreamStates
from .streams import order, stream_handle

# A stream, its handle, the address of the table of launch records for it, whether a launch uses
# scratch, and whose the table is.  Replaced as one, for other threads.
_Last = tuple[object, int, int, bool, Any]
_NONE: _Last = (object(), 0, 0, False, None)
_ROW_BYTES = 24


class CudaLaunchPlan(LaunchPlan):
    """A plan whose launch records are kept for each stream."""

    device: Gpu

    def __init__(self, device: Gpu) -> None:
        super().__init__(device)
        self._states = StreamStates(device, cast("list[GpuLaunch]", self._launches))
        self._loop = native.loop()
        self._last = _NONE
        device.in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        last = self._last
        if stream is not last[0] or observer.current is not None or sequence.recordings:
            self._issue(stream, last)
        elif last[3] and driver.is_capturing(last[1]):
            self._issue_each(stream)
        else:
            self._run(last[2])

    def _issue(self, stream: Any, last: _Last) -> None:
        """Launch with all that may be between, and remember what calls may go by from now on."""
        self._require_ended()
        device, handle = self.device, stream_handle(stream)
        known = handle == last[1] and last is not _NONE  # another object for the same stream
        scratch = last[3] if known else any(launch.bound.scratch for launch in self)
        if sequence.recordings or (scratch and device.is_capturing(stream)):
            self._issue_each(stream)
            return
        if not known:
            device.current().adopt()
            with device.current():
                if self._waits:
                    order(handle, self._waits)
                state = self._states.on(stream, handle)
            last = stream, handle, state.table, scratch, state
        watching = observer.current
        if watching is None:
            self._run(last[2])
        elif not self._issued(last[4].issue(watching), last[2]):
            self._issue_each(stream)
        if last[4].fleeting:
            self._states.keep(last[4])
        elif not self._waits:  # they are waited for each time
            self._last = stream, *last[1:]

    def _run(self, table: int) -> None:
        failed = self._loop(table, len(self._launches))
        if failed >= 0:
            self._again(failed, table, 0)

    def _issued(self, found: int, table: int) -> bool:
        """Whether all were launched, which a state found; False where the observer has to do it."""
        if found > 0:
            number, step, code = refused(found)
            self._again(step << native.FAILED_BITS | code, table, number)
        return found >= 0

    def _again(self, failed: int, table: int, number: int) -> None:
        """The driver refused: for want of this device's context, or for a reason.

        number: the observer's, of the first launch; 0 where there is none.
        """
        self.device.current().adopt()
        with self.device.current():
            done = failed >> native.FAILED_BITS
            if failed & 0xFFFFFFFF in driver.OTHER_CONTEXT:
                failed = self._loop(table + done * _ROW_BYTES, len(self) - done)
                failed += (failed >= 0) * (done << native.FAILED_BITS)
            if failed >= 0:
                raise self._refusal(failed, number)

    def _refusal(self, failed: int, number: int) -> FerrumError:
        step, code = failed >> native.FAILED_BITS, failed & 0xFFFFFFFF
        launch = self._launches[step]
        error = driver.refusal(code, f"step {step}: {launch.kernel.describe(launch.invocation)}")
        if number and observer.current is not None:
            observer.current.failed(number + step, error, len(self) - step)
        return error

    def _update(self, step: int, changes: dict[str, object]) -> None:
        before = self[step]
        super()._update(step, changes)
        self._last = _NONE  # there may be scratch now, or something to wait for
        try:
            self._states.changed(step, before, changes)
        except BaseException:
            self._launches[step]._restore(before)
            self._states.discard()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self._states.abandon()
