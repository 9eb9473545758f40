"""Launch plans on a GPU: a table of launch records for each stream, issued by a compiled loop."""

from __future__ import annotations

from typing import Any, cast

from ...errors import FerrumError
from .. import observer, sequence
from ..launch_log import refused
from ..sequence import LaunchPlan
from . import driver, native
from .gpu import Gpu, GpuLaunch
from .stream_states import NOT_READY, Ready, StreamStates
from .streams import order, stream_handle

_ROW_BYTES = 24


class CudaLaunchPlan(LaunchPlan):
    """A plan whose launch records are kept for each stream."""

    device: Gpu

    def __init__(self, device: Gpu) -> None:
        super().__init__(device)
        self._states = StreamStates(device, cast("list[GpuLaunch]", self._launches))
        self._loop = native.loop()
        self._last = NOT_READY
        device.in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        last = self._last
        if stream is not last.stream or observer.current is not None or sequence.recordings:
            self._issue(stream, last)
        elif last.scratch and driver.is_capturing(last.handle):
            self._issue_each(stream)
        else:
            self._run(last.table)

    def _issue(self, stream: Any, last: Ready) -> None:
        """Slow path: handles captures, observers and waits; caches state for the fast path."""
        self._require_ended()
        device, handle = self.device, stream_handle(stream)
        # Another object for the same stream?
        known = handle == last.handle and last is not NOT_READY
        scratch = last.scratch if known else any(launch.bound.scratch for launch in self)
        if sequence.recordings or (scratch and device.is_capturing(stream)):
            self._issue_each(stream)
            return
        if not known:
            device.current().adopt()
            with device.current():
                if self._waits:
                    order(handle, self._waits)
                state = self._states.on(stream, handle)
            last = Ready(stream, state, scratch)
        watching = observer.current
        if watching is None:
            self._run(last.table)
        elif not self._issued(last.state.issue(watching), last.table):
            with watching.span(f"plan of {len(self)}"):
                self._issue_each(stream)
        if last.state.fleeting:
            self._states.keep(last.state)
        elif not self._waits:  # they are waited for each time
            self._last = Ready(stream, last.state, scratch)

    def _run(self, table: int) -> None:
        failed = self._loop(table, len(self._launches))
        if failed >= 0:
            self._again(failed, table, 0)

    def _issued(self, found: int, table: int) -> bool:
        """True if a fast path launched all of them; False if the observer must."""
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
        self._last = NOT_READY  # there may be scratch now, or something to wait for
        try:
            self._states.changed(step, before, changes)
        except BaseException:
            self._launches[step]._restore(before)
            self._states.discard()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self._states.abandon()
