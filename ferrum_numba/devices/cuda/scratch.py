"""Scratch memory on a GPU: an arena for each stream, and for each branch of a captured graph."""

from __future__ import annotations

import threading
from ctypes import c_uint64

from ..scratch import Allocate, ScratchArena
from . import captures, native
from .captures import CaptureState
from .pool import Block, Pool
from .streams import order_of


class CudaScratch:
    """The scratch arenas of one device; its context is current where they are asked for.

    A graph may be launched on any stream, so what is captured into it gets memory that is the
    graph's own: whoever captured it, and for as long as it or an instance of it exists.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._streams: dict[tuple[int, int], ScratchArena] = {}
        self._graphs: dict[int, _OfGraph] = {}
        self._lock = threading.Lock()

    def arena(self, stream: int) -> ScratchArena:
        """The arena of the launches that come next on a stream, or in its capture."""
        capture = CaptureState(stream)
        if capture.active:
            return self._of_graph(capture).arena(stream)
        key = order_of(stream)
        found = self._streams.get(key)
        return found or self._streams.setdefault(key, ScratchArena(self._allocate))

    def _of_graph(self, capture: CaptureState) -> _OfGraph:
        with self._lock:
            if capture.number not in self._graphs:
                self._graphs = {n: g for n, g in self._graphs.items() if not g.gone.value}
                self._graphs[capture.number] = _OfGraph(capture.graph, self._allocate)
            return self._graphs[capture.number]

    def _allocate(self, nbytes: int, zeroed: bool) -> tuple[int, Block]:
        block = self._pool.allocate(nbytes, " of scratch")
        if zeroed:
            self._pool.zero(block, nbytes)
        return block.address, block


class _OfGraph:
    """The arenas of a graph, by the stream that each branch was captured from."""

    def __init__(self, graph: int, allocate: Allocate) -> None:
        self.gone = c_uint64(0)
        self._allocate = allocate
        self._streams: dict[int, ScratchArena] = {}
        captures.tie(graph, self.gone, native.marker())

    def arena(self, stream: int) -> ScratchArena:
        return self._streams.get(stream) or self._streams.setdefault(
            stream, ScratchArena(self._allocate)
        )
