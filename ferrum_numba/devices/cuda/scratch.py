"""Scratch memory on a GPU, and what captured graphs use: an arena for each stream and branch."""

from __future__ import annotations

import threading
from ctypes import c_uint64

from ..scratch import Allocate, ScratchArena
from . import captures, native
from .captures import CaptureState
from .in_flight import InFlight
from .pool import Block, Pool
from .streams import order_of


class CudaScratch:
    """The scratch arenas of one device; its context is current where they are asked for.

    A graph may be launched on any stream, so what is captured into it gets memory that is the
    graph's own: whoever captured it, and for as long as it or an instance of it exists.  So long it
    also holds the arrays that captured launches were given.
    """

    def __init__(self, pool: Pool, in_flight: InFlight) -> None:
        self._pool = pool
        in_flight.hold_captured = self.hold
        self._streams: dict[tuple[int, int], ScratchArena] = {}
        self._graphs: dict[int, GraphMemory] = {}
        self._lock = threading.Lock()

    def arena(self, stream: int) -> ScratchArena:
        """The arena of the launches that come next on a stream, or in its capture."""
        capture = CaptureState(stream)
        if capture.active:
            return self._of_graph(capture).arena(stream)
        key = order_of(stream)
        found = self._streams.get(key)
        return found or self._streams.setdefault(key, ScratchArena(self._allocate))

    def hold(self, stream: int, objects: object) -> bool:
        """Let the graph that a stream is captured into hold these; False where there is none."""
        capture = CaptureState(stream)
        if capture.active:
            self._of_graph(capture).held.append(objects)
        return capture.active

    def forget(self) -> None:
        """Let go of what belonged to graphs that are gone."""
        with self._lock:
            gone = [n for n, graph in self._graphs.items() if graph.gone.value]
            graphs = [self._graphs.pop(n) for n in gone]
        graphs.clear()  # outside the lock: what is freed there may run any code

    def of_graph(self, stream: int) -> GraphMemory:
        """The memory of the graph that a stream is captured into."""
        return self._of_graph(CaptureState(stream))

    def _of_graph(self, capture: CaptureState) -> GraphMemory:
        self.forget()
        with self._lock:
            if capture.number not in self._graphs:
                self._graphs[capture.number] = GraphMemory(capture.graph, self._allocate)
            return self._graphs[capture.number]

    def _allocate(self, nbytes: int, zeroed: bool) -> tuple[int, Block]:
        block = self._pool.allocate(nbytes, " of scratch")
        if zeroed:
            self._pool.zero(block, nbytes)
        return block.address, block


class GraphMemory:
    """The arenas of a graph, by the stream that each branch was captured from.

    held: the arguments of its launches.
    """

    def __init__(self, graph: int, allocate: Allocate) -> None:
        self.gone = c_uint64(0)
        self._allocate = allocate
        self._streams: dict[int, ScratchArena] = {}
        self.held: list[object] = []
        captures.tie(graph, self.gone, native.marker())

    def arena(self, stream: int) -> ScratchArena:
        """The arena of the launches that are captured from a stream."""
        return self._streams.get(stream) or self._streams.setdefault(
            stream, ScratchArena(self._allocate)
        )
