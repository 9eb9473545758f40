"""Captures of streams into graphs, through ctypes; handles are integers.

Source of the prototypes: CUDA Driver API reference, "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int, c_size_t, c_uint64, c_void_p

from ...errors import LaunchError
from . import driver

_CAPTURE_ACTIVE, _CAPTURE_INVALIDATED = 1, 2  # CUstreamCaptureStatus
_REPLACE = 1  # CU_STREAM_SET_CAPTURE_DEPENDENCIES
_PATIENCE = 10.0  # seconds that a wait waits for captures: they only record launches
_NO_DESTRUCTOR_SYNC, _MOVE = 1, 1  # CU_USER_OBJECT_..., CU_GRAPH_USER_OBJECT_MOVE


class CaptureState:
    """A capture that is under way on a stream.

    number: of the capture, unique in the process.  graph: what it is recorded into.
    last: the nodes that the stream's next operation will depend on.
    """

    def __init__(self, stream: int) -> None:
        status, number = c_int(), c_uint64()
        graph, nodes, edges, count = c_void_p(), c_void_p(), c_void_p(), c_size_t()
        pointers = [ctypes.byref(v) for v in (status, number, graph, nodes, edges, count)]
        if hasattr(driver.library(), "cuStreamGetCaptureInfo_v3"):
            code = driver.library().cuStreamGetCaptureInfo_v3(stream, *pointers)
        else:  # before CUDA 12.3: edges say nothing
            del pointers[4]
            code = driver.library().cuStreamGetCaptureInfo_v2(stream, *pointers)
        driver.check(code, "cuStreamGetCaptureInfo")
        self.active = status.value == _CAPTURE_ACTIVE
        self.invalidated = status.value == _CAPTURE_INVALIDATED
        self.number, self.graph = number.value, graph.value or 0
        self.last: list[int] = []
        if self.active and nodes.value:
            self.last = list((c_uint64 * count.value).from_address(nodes.value))


def begin_capture(stream: int, graph: int = 0) -> None:
    """Record into a graph what the stream is given from now on, instead of running it.

    graph: an empty one that is there; a new one where it is left out.
    Relaxed: other threads, and finalisers in this one, may do what they like meanwhile.
    """
    if graph:
        code = driver.library().cuStreamBeginCaptureToGraph(
            stream, graph, None, None, 0, driver.CAPTURE_RELAXED
        )
    else:
        code = driver.library().cuStreamBeginCapture_v2(stream, driver.CAPTURE_RELAXED)
    driver.check(code, "cuStreamBeginCapture")


def follow(stream: int, node: int) -> None:
    """Let what a captured stream is given from now on come after a node of its graph."""
    nodes = (c_uint64 * 1)(node)
    code = driver.library().cuStreamUpdateCaptureDependencies(stream, nodes, 1, _REPLACE)
    driver.check(code, "cuStreamUpdateCaptureDependencies")


def end_capture(stream: int) -> int:
    """The graph that was recorded.  Raises LaunchError for a capture that was broken."""
    graph = c_void_p()
    driver.check(
        driver.library().cuStreamEndCapture(stream, ctypes.byref(graph)), "cuStreamEndCapture"
    )
    return graph.value or 0


def discard(graph: int) -> None:
    """Let go of a graph that nobody wants."""
    driver.library().cuGraphDestroy(graph)


def tie(graph: int, flag: c_uint64, mark: int) -> None:
    """Have the native function at `mark` set `flag` once neither the graph nor any of its
    instances is left."""
    handle = c_void_p()
    code = driver.library().cuUserObjectCreate(
        ctypes.byref(handle), ctypes.addressof(flag), mark, 1, _NO_DESTRUCTOR_SYNC
    )
    driver.check(code, "cuUserObjectCreate")
    driver.check(
        driver.library().cuGraphRetainUserObject(graph, handle, 1, _MOVE), "cuGraphRetainUserObject"
    )


def node_count(graph: int) -> int:
    """The number of nodes of a graph."""
    count = c_size_t()
    driver.check(
        driver.library().cuGraphGetNodes(graph, None, ctypes.byref(count)), "cuGraphGetNodes"
    )
    return count.value


class CaptureLock:
    """Keeps waits for the whole device out of captures, which they would invalidate.

    Any number of captures hold it at a time, or any number of waits; both are blocks.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._captures = self._waits = 0

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """A capture, once nobody waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waits)
            self._captures += 1
        try:
            yield
        finally:
            with self._changed:
                self._captures -= 1
                self._changed.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait, once nobody captures.  Raises LaunchError where somebody does not stop to."""
        with self._changed:
            self._waits += 1
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._captures, _PATIENCE):
                    raise LaunchError(
                        "synchronize",
                        "another thread has been capturing a graph on this device for "
                        f"{_PATIENCE:.0f} s, which waiting would break",
                        remedy="end its block first, or wait for a stream alone "
                        "(stream.synchronize())",
                    )
            yield
        finally:
            with self._changed:
                self._waits -= 1
                self._changed.notify_all()
