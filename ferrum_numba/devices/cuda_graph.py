"""Launch graphs on a GPU: captured from a stream, changed in place without a new capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from ..errors import FerrumError, LaunchError
from . import capture, driver, driver_graph, observer
from .graph import LaunchGraph
from .lanes import Lanes
from .ledger import refused
from .streams import order, stream_handle

if TYPE_CHECKING:
    from .base import Invocation, Kernel
    from .cuda import CudaDevice
    from .cuda_kernel import CudaKernel
    from .lanes import Spelt
    from .packet import Packet
    from .scratch import ScratchArena


@dataclass(frozen=True)
class _Node:
    """A captured launch: its node, what its parameters are made of, and its memory."""

    handle: int
    packet: Packet
    arena: ScratchArena | None


class CudaGraph(LaunchGraph):
    """A CUDA graph.  Other libraries' work on the captured stream becomes part of it, too."""

    device: CudaDevice

    def __init__(self, device: CudaDevice, stream: Any) -> None:
        super().__init__(device, stream)
        self._handle = stream_handle(stream)
        if self._handle in driver.NEVER_CAPTURED:
            raise LaunchError(
                "stream: expected one other than the default stream, which CUDA does not capture; "
                "leave it out, or pass device.create_stream()"
            )
        self._capture = 0  # its number, which is unique in the process
        self._nodes: list[_Node] = []
        self._instance: driver_graph.Instance | None = None
        self._lanes = Lanes(device, cast("list[Spelt]", self._launches), spell=False)
        self._only_launches = True

    @contextmanager
    def capturing(self) -> Iterator[LaunchGraph]:
        with self.recording(), self.device.gate.capturing():
            with self.device.current():
                driver_graph.begin_capture(self._handle)
            try:
                with self.device.current():
                    self._capture = driver_graph.CaptureState(self._handle).number
                yield self
            except BaseException:
                self._break_off()
                raise
            with self.device.current():
                graph = driver_graph.end_capture(self._handle)
                self._instance = driver_graph.Instance(graph)
                count = driver_graph.node_count(graph)
            self._require_launches(count)
            self._only_launches = count == len(self)

    def _captures(self, handle: int) -> bool:
        """Whether launches on a stream go into this graph: it may have been forked to."""
        if handle in driver.NEVER_CAPTURED:
            return False
        state = driver_graph.CaptureState(handle)
        return state.invalidated or state.number == self._capture

    def _break_off(self) -> None:
        try:
            with self.device.current():
                driver_graph.discard(driver_graph.end_capture(self._handle))
        except FerrumError:
            pass  # the error that ended the block says more

    def take(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        self._require_own(kernel)
        handle = stream_handle(stream)
        with self.device.current():
            if not self._captures(handle):
                self._require_captured(stream)
            super(LaunchGraph, self).take(kernel, invocation, stream)
            cuda_kernel, own = cast("CudaKernel", kernel), self[-1]
            arena = self.device.scratch.arena(handle) if cuda_kernel.owes_scratch else None
            packet = cuda_kernel.packet(own, handle, arena)
            try:
                driver.launch(packet, lambda: kernel.describe(own))
            except LaunchError:
                self._launches.pop()
                raise
            # The node that was just added is what the stream's next one depends on.
            last = driver_graph.CaptureState(handle).last
        if len(last) != 1:
            raise LaunchError(
                "capture: it was broken by an operation that cannot be captured, such as one on "
                f"the default stream, before {kernel.describe(own)}"
            )
        self._nodes.append(_Node(last[0], packet, arena))

    def launch(self, stream: Any = None) -> None:
        instance, watching, number = self._instance, observer.current, 0
        self._require_ended()
        assert instance is not None
        handle = stream_handle(stream)
        with self.device.current():
            lane = self._lanes.on(stream, handle)
            # By another library, say; the driver takes no graph into another.
            captured = driver.is_capturing(handle)
        taken = captured or bool(capture.takers)
        if watching is not None and not taken:
            found = lane.issue(watching)
            number = refused(found)[0] if found > 0 else 0
        watched = watching is not None and not number
        if (taken or watched) and self._only_launches:
            self._issue_each(stream)
            return
        if captured or self.device.is_recording:
            raise LaunchError(
                f"{self}: it holds work of other libraries, which no plan and no other graph takes "
                "down; launch it outside of the block"
            )
        with self.device.current():
            if self._waits:
                order(handle, self._waits)
            try:
                instance.launch(handle)
            except LaunchError as error:
                if watching is not None and number:
                    watching.failed(number, error, len(self))
                raise
        if lane.fleeting:
            self._lanes.keep(lane)

    def seconds(self, launches: int) -> list[float]:
        with self.device.current():
            marks = [driver.Event(timed=True) for _ in range(launches + 1)]
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
            self._spell(step)
            config, node = self[step].config, self._nodes[step]
            _, function, extra = node.packet.row
            with self.device.current():
                instance.set_kernel(
                    *(node.handle, function, config.grid, config.block, config.shared_bytes, extra)
                )
        except BaseException:
            self._launches[step].restore(before)
            self._spell(step)
            raise
        self._lanes.changed(step, before, changes)

    def _spell(self, step: int) -> None:
        """Put a step's launch as it is now into the node's packet."""
        now, node = self[step], self._nodes[step]
        node.packet.configure(now.config)
        if node.arena is not None:
            node.packet.block.write(now.bound.values)
            with self.device.current():
                kernel = cast("CudaKernel", self._launches[step].kernel)
                kernel.provide(node.packet.block, now, node.arena)

    def __del__(self) -> None:
        if hasattr(self, "_lanes"):
            self._lanes.abandon()
