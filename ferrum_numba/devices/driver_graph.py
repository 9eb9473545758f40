"""The driver's calls for captures and graphs, through ctypes; handles are integers.

Source of the prototypes: CUDA Driver API reference, "Stream Management" and "Graph Management".
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p

from ..errors import LaunchError
from .driver import Owned, check, error_name, library

# CU_STREAM_CAPTURE_MODE_RELAXED: Python may free any array in the meantime, which is harmless.
_CAPTURE_RELAXED = 2
_CAPTURE_ACTIVE, _CAPTURE_INVALIDATED = 1, 2  # CUstreamCaptureStatus
_NO_DESTRUCTOR_SYNC, _MOVE = 1, 1  # CU_USER_OBJECT_..., CU_GRAPH_USER_OBJECT_MOVE


class _KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS (version 2)."""

    _fields_ = (
        ("function", c_void_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("kernel_params", c_void_p),
        ("extra", c_void_p),
        ("kernel", c_void_p),
        ("context", c_void_p),
    )


class CaptureState:
    """A capture that is under way on a stream.

    number: of the capture, unique in the process.  graph: what it is recorded into.
    last: the nodes that the stream's next operation will depend on.
    """

    def __init__(self, stream: int) -> None:
        status, number = c_int(), c_uint64()
        graph, nodes, edges, count = c_void_p(), c_void_p(), c_void_p(), c_size_t()
        pointers = [ctypes.byref(v) for v in (status, number, graph, nodes, edges, count)]
        if hasattr(library(), "cuStreamGetCaptureInfo_v3"):
            code = library().cuStreamGetCaptureInfo_v3(stream, *pointers)
        else:  # before CUDA 12.3: edges say nothing
            del pointers[4]
            code = library().cuStreamGetCaptureInfo_v2(stream, *pointers)
        check(code, "cuStreamGetCaptureInfo")
        self.active = status.value == _CAPTURE_ACTIVE
        self.invalidated = status.value == _CAPTURE_INVALIDATED
        self.number, self.graph = number.value, graph.value or 0
        self.last: list[int] = []
        if self.active and nodes.value:
            self.last = list((c_uint64 * count.value).from_address(nodes.value))


def begin_capture(stream: int) -> None:
    """Record into a graph what the stream is given from now on, instead of running it."""
    check(library().cuStreamBeginCapture_v2(stream, _CAPTURE_RELAXED), "cuStreamBeginCapture")


def end_capture(stream: int) -> int:
    """The graph that was recorded.  Raises LaunchError for a capture that was broken."""
    graph = c_void_p()
    check(library().cuStreamEndCapture(stream, ctypes.byref(graph)), "cuStreamEndCapture")
    return graph.value or 0


def discard(graph: int) -> None:
    """Let go of a graph that nobody wants."""
    library().cuGraphDestroy(graph)


def tie(graph: int, flag: c_uint64, mark: int) -> None:
    """Have the native function at `mark` set `flag` once neither the graph nor any of its
    instances is left."""
    handle = c_void_p()
    code = library().cuUserObjectCreate(
        ctypes.byref(handle), ctypes.addressof(flag), mark, 1, _NO_DESTRUCTOR_SYNC
    )
    check(code, "cuUserObjectCreate")
    check(library().cuGraphRetainUserObject(graph, handle, 1, _MOVE), "cuGraphRetainUserObject")


def node_count(graph: int) -> int:
    """How many nodes a graph has."""
    count = c_size_t()
    check(library().cuGraphGetNodes(graph, None, ctypes.byref(count)), "cuGraphGetNodes")
    return count.value


class Instance(Owned):
    """A graph made ready to be launched, as often as wanted.  It takes the graph over."""

    def __init__(self, graph: int) -> None:
        super().__init__()
        self.graph = graph
        self._destroy = library().cuGraphExecDestroy, library().cuGraphDestroy
        handle = c_void_p()
        self.handle = 0
        code = library().cuGraphInstantiateWithFlags(ctypes.byref(handle), graph, 0)
        check(code, "cuGraphInstantiate")
        self.handle = handle.value or 0
        self._launch = library().cuGraphLaunch

    def launch(self, stream: int) -> None:
        """Run all of it on a stream.  Raises LaunchError."""
        code = self._launch(self.handle, stream)
        if code:
            raise LaunchError(f"cuGraphLaunch: {error_name(code)}")

    def set_kernel(
        self,
        node: int,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        extra: int,
    ) -> None:
        """Other parameters for a kernel; launches from now on use them.

        extra: the address of cuLaunchKernel's `extra`; what it names is copied.
        """
        params = _KernelNode(function, grid, block, shared_bytes, None, extra)
        code = library().cuGraphExecKernelNodeSetParams_v2(
            self.handle, node, ctypes.addressof(params)
        )
        check(code, "cuGraphExecKernelNodeSetParams")

    def __del__(self) -> None:
        if not self.ours:
            return  # a fork has no driver to give it back to, and the driver does not notice
        destroy_instance, destroy_graph = self._destroy
        if self.handle:
            destroy_instance(self.handle)
        destroy_graph(self.graph)
