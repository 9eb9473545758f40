"""Launch graphs on a GPU: captured from a stream, changed in place without a new capture."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from ...abi import LaunchConfig
from ...errors import FerrumError, LaunchError
from .. import observer, sequence
from ..invocation import Invocation, Launchable
from ..prepared import PreparedLaunch
from ..scratch import ScratchArena
from ..sequence import LaunchGraph
from . import captures, conditions, driver
from .gpu import Gpu, GpuKernel, GpuLaunch
from .launch_record import LaunchRecord
from .launcher import launcher
from .objects import Event, Instance
from .scratch import GraphMemory
from .stream_states import ROW_BYTES, StreamStates, table_of
from .streams import order, stream_handle


@dataclass(frozen=True)
class _Node:
    """A captured launch: its node, what its parameters are made of, and its memory."""

    handle: int
    record: LaunchRecord
    arena: ScratchArena | None


class CudaGraph(LaunchGraph):
    """A CUDA graph.  Other libraries' work on the captured stream becomes part of it, too."""

    device: Gpu

    def __init__(self, device: Gpu, stream: Any) -> None:
        super().__init__(device, stream)
        self._handle = stream_handle(stream)
        if self._handle in driver.NEVER_CAPTURED:
            raise LaunchError(
                "stream",
                "one other than the default stream, which CUDA does not capture",
                "the default stream",
                "leave it out, or pass device.create_stream()",
            )
        self._capture = 0  # its number, which is unique in the process
        self._nodes: list[_Node] = []
        self._instance: Instance | None = None
        self._states = StreamStates(device, cast("list[GpuLaunch]", self._launches), recorded=False)
        self._only_launches = True
        self._launcher = launcher()
        self._memory: GraphMemory | None = None  # where there are bodies: the whole graph's
        self._tests: list[tuple[PreparedLaunch, LaunchRecord]] = []  # of the bodies' numbers

    @contextmanager
    def _capturing(self) -> Iterator[LaunchGraph]:
        with self._recording(), self.device.capture_lock.capturing():
            with self.device.current():
                captures.begin_capture(self._handle)
            try:
                with self.device.current():
                    self._capture = captures.CaptureState(self._handle).number
                yield self
            except BaseException:
                self._break_off()
                raise
            with self.device.current():
                graph = captures.end_capture(self._handle)
                self._instance = Instance(graph)
                count = captures.node_count(graph)
            self._require_launches(count)
            self._only_launches = count == len(self) and not self._whole.inner
            self._table = table_of([node.record for node in self._nodes])

    @contextmanager
    def _capturing_body(self, number: Any, repeats: bool) -> Iterator[None]:
        conditions.require()
        device, outer = self.device, (self.stream, self._handle, self._capture)
        context, handle = device.current().handle, self._handle
        with device.current():
            if self._memory is None:
                self._memory = device.scratch.of_graph(handle)
            condition = conditions.create(handle, context)
            self._test(condition, number, handle)
            body = conditions.add_body(handle, context, condition, repeats=repeats)
            self.stream = device.capture_stream()
            self._handle = stream_handle(self.stream)
            captures.begin_capture(self._handle, body)
        try:
            with device.current():
                self._capture = captures.CaptureState(self._handle).number
            yield
            with device.current():
                if repeats:
                    self._test(condition, number, self._handle)
        finally:
            try:
                with device.current():
                    captures.end_capture(self._handle)
            finally:
                self.stream, self._handle, self._capture = outer

    def _test(self, condition: int, number: Any, handle: int) -> None:
        """Let the device set a condition by the number, at this place of a stream."""
        kernel = cast("GpuKernel", self.device.load_module(conditions.TEXT).get_kernel())
        call = kernel.prepare(LaunchConfig(1, 1), condition, number)
        record = kernel.record(call.invocation, handle)
        record.launch(lambda: kernel.describe(call.invocation))
        self._tests.append((call, record))

    def _captures(self, handle: int) -> bool:
        """True if launches on a stream go into this graph: it may have been forked to."""
        if handle in driver.NEVER_CAPTURED:
            return False
        state = captures.CaptureState(handle)
        return state.invalidated or state.number == self._capture

    def _break_off(self) -> None:
        try:
            with self.device.current():
                captures.discard(captures.end_capture(self._handle))
        except FerrumError:
            pass  # the error that ended the block says more

    def _add(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        self._require_own(kernel)
        handle = stream_handle(stream)
        with self.device.current():
            if not self._captures(handle):
                self._require_captured(stream)
            super(LaunchGraph, self)._add(kernel, invocation, stream)
            cuda_kernel, own = cast("GpuKernel", kernel), self[-1]
            memory = self._memory or self.device.scratch
            arena = memory.arena(handle) if cuda_kernel.owes_scratch else None
            record = cuda_kernel.record(own, handle, arena)
            try:
                record.launch(lambda: kernel.describe(own))
            except LaunchError:
                self._launches.pop()
                raise
            # The node that was just added is what the stream's next one depends on.
            last = captures.CaptureState(handle).last
        if len(last) != 1:
            raise LaunchError(
                "capture",
                "it was broken by an operation that cannot be captured, such as one on the "
                f"default stream, before {kernel.describe(own)}",
            )
        self._nodes.append(_Node(last[0], record, arena))

    def launch(self, stream: Any = None) -> None:
        instance = self._instance
        self._require_ended()
        assert instance is not None
        handle = stream_handle(stream)
        with self.device.current():
            state = self._states.on(stream, handle)
            # By another library, say; the driver takes no graph into another.
            captured = driver.is_capturing(handle)
        taken = captured or bool(sequence.recordings)
        self._require_no_bodies(captured or self.device.is_recording)
        bodies = bool(self._whole.inner)  # of which a log could not say how often they run
        noted = bodies or observer.current is None or (not taken and self._noted(handle))
        if (taken or not noted) and self._only_launches:
            self._issue_each(stream)
            return
        if captured or self.device.is_recording:
            raise LaunchError(
                str(self),
                "it holds work of other libraries, which no plan and no other graph can record",
                remedy="launch it outside of the block",
            )
        with self.device.current():
            if self._waits:
                order(handle, self._waits)
            try:
                instance.launch(handle)
            except LaunchError as error:
                if noted and not bodies:
                    for node in self._nodes:
                        observer.failed(node.record.number, error)
                raise
        if state.fleeting:
            self._states.keep(state)

    def _noted(self, handle: int) -> bool:
        """Let the log say that all is launched; False where the observer is to see each launch."""
        table, first, admitted = ctypes.addressof(self._table), 0, -1
        while True:
            asks = self._launcher.note(table + first * ROW_BYTES, len(self) - first, handle)
            if asks < 0:
                return True
            first += asks
            launch, record = self._launches[first], self._nodes[first].record
            if first == admitted or not observer.admits(launch, record, graph=True):
                return False
            admitted = first

    def seconds(self, launches: int) -> list[float]:
        with self.device.current():
            marks = [Event(timed=True) for _ in range(launches + 1)]
            marks[0].record(self._handle)
            for mark in marks[1:]:
                self.launch(self.stream)
                mark.record(self._handle)
            return [after.seconds_since(before) for before, after in pairwise(marks)]

    def _update(self, step: int, changes: dict[str, object]) -> None:
        before, instance = self[step], self._instance
        super()._update(step, changes)
        assert instance is not None
        try:
            self._rewrite(step)
            config, node = self[step].config, self._nodes[step]
            _, function, extra = node.record.row
            with self.device.current():
                instance.set_kernel(
                    *(node.handle, function, config.grid, config.block, config.shared_bytes, extra)
                )
        except BaseException:
            self._launches[step]._restore(before)
            self._rewrite(step)
            raise
        self._states.changed(step, before, changes)

    def _rewrite(self, step: int) -> None:
        """Put a step's launch as it is now into the node's record."""
        now, node = self[step], self._nodes[step]
        node.record.forget()
        node.record.configure(now.config)
        if node.arena is not None:
            node.record.block.follow(now.block)
            with self.device.current():
                kernel = cast("GpuKernel", self._launches[step].kernel)
                kernel.provide(node.record.block, now, node.arena)

    def __del__(self) -> None:
        if hasattr(self, "_states"):
            self._states.abandon()
