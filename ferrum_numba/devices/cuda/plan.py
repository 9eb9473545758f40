"""Launch plans on a GPU: a table of launch records for each stream, issued by a compiled loop."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from .. import observer, sequence
from ..sequence import LaunchPlan
from . import driver, native
from .gpu import Gpu, GpuLaunch
from .launcher import launcher
from .stream_states import NOT_READY, ROW_BYTES, Ready, StreamState, StreamStates, launch_refused
from .streams import order, stream_handle


class CudaLaunchPlan(LaunchPlan):
    """A plan whose launch records are kept for each stream."""

    device: Gpu

    def __init__(self, device: Gpu) -> None:
        super().__init__(device)
        self._states = StreamStates(device, cast("list[GpuLaunch]", self._launches))
        self._loop = native.loop(launcher().place)
        self._last = NOT_READY
        device.in_flight.watch(self)

    def __call__(self, stream: Any = None) -> None:
        last = self._last
        if stream is not last.stream or sequence.recordings:
            self._issue(stream, last)
        elif last.scratch and driver.is_capturing(last.handle):
            self._issue_each(stream)
        else:
            self._run(last.state, stream)

    def _issue(self, stream: Any, last: Ready) -> None:
        """Slow path: handles captures and waits; caches state for the fast path."""
        self._require_ended()
        device, handle = self.device, stream_handle(stream)
        # Another object for the same stream?
        known = handle == last.handle and last is not NOT_READY
        scratch = last.scratch if known else any(launch.bound.scratch for launch in self)
        if sequence.recordings or (scratch and device.is_capturing(stream)):
            self._issue_each(stream)
            return
        state = last.state
        if not known:
            device.current().adopt()
            with device.current():
                if self._waits:
                    order(handle, self._waits)
                state = self._states.on(stream, handle)
        self._run(state, stream)
        if state.fleeting:
            self._states.keep(state)
        elif not self._waits:  # they are waited for each time
            self._last = Ready(stream, state, scratch)

    def _run(self, state: StreamState, stream: Any) -> None:
        failed = self._loop(state.table, len(self._launches))
        if failed >= 0:
            with observer.together(f"plan of {len(self)}"):
                self._go_on(failed, state, stream)

    def _go_on(self, failed: int, state: StreamState, stream: Any) -> None:
        """Launch all from the step on that the driver refused, or an observer is asked about."""
        admitted = -1
        while failed >= 0:
            step, code = failed >> native.FAILED_BITS, failed & native.CODE
            launch, record, first = self._launches[step], state.records[step], step + 1
            if code != observer.ASKS:
                launch_refused(self.device, record, code, partial(self._describe, step))
            elif step != admitted and observer.admits(launch, record):
                first = admitted = step
            else:
                with self._naming(step):
                    launch.kernel._issue(launch.invocation, stream)
            failed = self._loop(state.table + first * ROW_BYTES, len(self) - first)
            failed += (failed >= 0) * (first << native.FAILED_BITS)

    def _describe(self, step: int) -> str:
        return f"step {step}: {self._launches[step].kernel.describe(self[step])}"

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
