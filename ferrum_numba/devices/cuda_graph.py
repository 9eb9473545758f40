"""Launch graphs on a GPU: captured from a stream, changed in place without a new capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import FerrumError, LaunchError
from . import capture, driver, driver_graph, observer
from .capture import taken_by
from .graph import LaunchGraph
from .lanes import Lanes
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
        self._nodes: list[_Node] = []
        self._instance: driver_graph.Instance | None = None
        self._lanes = Lanes(device, cast("list[Spelt]", self._launches), spell=False)
        self._only_launches = True

    @contextmanager
    def capturing(self) -> Iterator[LaunchGraph]:
        with self.device.current():
            driver_graph.begin_capture(self._handle)
        try:
            with taken_by(self):
                yield self
        except BaseException:
            self._break_off()
            raise
        with self.device.current():
            graph = driver_graph.end_capture(self._handle)
            self._instance = driver_graph.Instance(graph)
            count = driver_graph.node_count(graph)
            if not count:
                raise LaunchError("capture: nothing was launched on graph.stream within the block")
            self._only_launches = count == len(self)

    def _break_off(self) -> None:
        try:
            with self.device.current():
                driver_graph.discard(driver_graph.end_capture(self._handle))
        except FerrumError:
            pass  # the error that ended the block says more

    def take(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        handle = stream_handle(stream)
        with self.device.current():
            if not (handle and driver.is_capturing(handle)):
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
        if instance is None:
            raise LaunchError("graph: it is still being captured; launch it after the block")
        handle = stream_handle(stream)
        if watching is not None and not capture.takers:
            number = watching.all_pass(self._launches, handle, graph=True)
        watched = capture.takers or (watching is not None and not number)
        if watched and self._only_launches:
            self._issue_each(stream)
            return
        with self.device.current():
            if self._waits:
                order(handle, self._waits)
            try:
                instance.launch(handle)
            except LaunchError as error:
                if watching is not None and number:
                    watching.failed(number, error, len(self))
                raise
            lane = self._lanes.on(stream, handle)
        if lane.fleeting:
            self._lanes.keep(lane)

    def _update(self, step: int, changes: dict[str, object]) -> None:
        before, node, instance = self[step], self._nodes[step], self._instance
        if instance is None:
            raise LaunchError("graph: it is still being captured; update it after the block")
        super()._update(step, changes)
        now = self[step]
        kernel = cast("CudaKernel", self._launches[step].kernel)
        with self.device.current():
            config, packet = now.config, node.packet
            packet.configure(config)
            if node.arena is not None:
                packet.block.write(now.bound.values)
                kernel.provide(packet.block, now, node.arena)
            _, function, extra = node.packet.row
            instance.set_kernel(
                *(node.handle, function, config.grid, config.block, config.shared_bytes, extra)
            )
        self._lanes.changed(step, before, changes)

    def __del__(self) -> None:
        if hasattr(self, "_lanes"):
            self._lanes.abandon()
