"""The CUDA driver's launch functions, in Python: kernels run on the CPU, at once.

For machines without a GPU: what the package does between a caller and the driver is the same there.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, c_float, c_int, c_size_t, c_uint, c_uint8, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba.abi import MapForm
from ferrum_numba.abi.map_form import ELEMENTS, SWIZZLES
from ferrum_numba.devices import tensor_map
from ferrum_numba.devices.cuda.conditions import _Params
from ferrum_numba.devices.cuda.launch_record import _Config
from ferrum_numba.devices.cuda.objects import _KernelNode
from ferrum_numba.emulator import Job, Program

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, NOT_READY = 0, 1, 2, 400, 600
CAPTURE_UNSUPPORTED, CAPTURE_IMPLICIT = 900, 906
GLOBAL, RELAXED = 0, 2  # CUstreamCaptureMode
_FREE = 1 << 40  # bytes of the GPU
# What a thread may not call while any thread captures globally, unless it is relaxed itself.
UNSAFE = (
    "cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocFromPoolAsync", "cuMemFreeAsync",
    "cuMemPoolTrimTo", "cuEventQuery", "cuEventSynchronize", "cuEventDestroy_v2", "cuStreamQuery",
    "cuStreamSynchronize", "cuStreamDestroy_v2", "cuGraphDestroy", "cuGraphExecDestroy",
)  # fmt: skip
# Function, grid, block, shared bytes, parameter block.
Work = tuple[int, tuple[int, ...], tuple[int, ...], int, bytes]


@dataclass
class Branch:
    """A conditional node: its condition, whether it repeats, and its body."""

    condition: int
    repeats: bool
    body: Graph


@dataclass
class Graph:
    """A graph, or an instance of one: its nodes, and what is told when it is gone."""

    number: int
    kernels: dict[int, Work | Branch] = field(default_factory=dict)
    ties: list[tuple[int, int]] = field(default_factory=list)
    last: Any = None


@dataclass(eq=False)
class ForeignCapture:
    """A capture of another library's; broken_by: the calls that would have invalidated it."""

    blocking: bool
    broken_by: list[str] = field(default_factory=list)


class EmulatedDriver:
    """Stands for `driver.library()`: has the functions that launches need, by their names."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1000)
        self._programs: dict[int, tuple[Program, int]] = {}
        self._memory: dict[int, np.ndarray] = {}
        self._pooled: list[np.ndarray] = []  # freed, and not given back
        self._own = threading.local()  # the thread's capture mode
        self._foreign: list[ForeignCapture] = []
        self.capacity = 1 << 34  # bytes of memory
        self.lags = False  # whether work takes its time: no event is ever done
        self._host: dict[int, np.ndarray] = {}  # pinned
        self._copying: list[tuple[int, int, int]] = []  # to, from, bytes: not yet read
        self._finishing = threading.Lock()
        self._captures: dict[int, Graph] = {}  # by stream
        self._graphs: dict[int, Graph] = {}  # instances, too
        self._ties: dict[int, tuple[int, int]] = {}
        self._conditions: dict[int, int] = {}  # the values of conditions, by handle
        self._testers: set[int] = set()  # functions that set one
        self.encoded = 0  # tensor maps
        self.destroyed: set[int] = set()  # streams
        self.misused: list[int] = []  # of them; a GPU's driver may crash then
        for name, types, function in self._functions():
            called = self._guarded(name, function) if name in UNSAFE else function
            setattr(self, name, CFUNCTYPE(c_int, *types)(called))

    def add(self, text: str, entry: str, threads: int) -> int:
        """A function of a kernel that takes CTAs of at most `threads`."""
        number = next(self._numbers)
        if "cudaGraphSetConditional" in text:  # which no other kernel calls
            self._testers.add(number)
        else:
            self._programs[number] = Program.compile(text, entry), threads
        return number

    @contextmanager
    def foreign_capture(self, *, blocking: bool = False) -> Iterator[ForeignCapture]:
        """Another library captures a stream globally; blocking: one that the default waits for."""
        capture = ForeignCapture(blocking)
        self._foreign.append(capture)
        try:
            yield capture
        finally:
            self._foreign.remove(capture)

    def _guarded(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if getattr(self._own, "mode", GLOBAL) != RELAXED and self._foreign:
                return self._invalidate(name)
            return function(*arguments)

        return call

    def _invalidate(self, name: str, only_blocking: bool = False) -> int:
        for capture in self._foreign:
            if capture.blocking or not only_blocking:
                capture.broken_by.append(name)
        return CAPTURE_UNSUPPORTED

    def _functions(self) -> list[tuple[str, tuple[Any, ...], Callable[..., int]]]:
        p, n = c_void_p, c_uint64
        return [
            ("cuLaunchKernelEx", (p, p, p, p), self._launch),
            ("cuDriverGetVersion", (p,), lambda out: _put_int(out, 12_040)),
            ("cuFuncSetAttribute", (p, c_int, c_int), self._done),
            ("cuMemAlloc_v2", (p, n), self._allocate),
            ("cuMemFree_v2", (n,), lambda address: self._done(self._memory.pop(address))),
            ("cuDeviceGetAttribute", (p, c_int, c_int), lambda out, *_: _put_int(out, 1)),
            ("cuMemPoolCreate", (p, p), lambda out, _: self._new(out)),
            ("cuMemPoolSetAttribute", (p, c_int, p), self._done),
            ("cuMemPoolGetAttribute", (p, c_int, p), lambda _, __, out: _put(out, self.reserved)),
            ("cuMemPoolTrimTo", (p, n), lambda *_: self._done(self._pooled.clear())),
            ("cuMemAllocFromPoolAsync", (p, n, p, p), lambda out, n, *_: self._allocate(out, n)),
            ("cuMemFreeAsync", (n, p), self._free_to_pool),
            ("cuStreamQuery", (p,), self._done),
            ("cuMemGetInfo_v2", (p, p), lambda free, _: _put(free, _FREE)),
            ("cuMemsetD8Async", (n, c_uint8, n, p), self._fill),
            ("cuStreamCreate", (p, c_uint), lambda out, _: self._new(out)),
            ("cuMemHostAlloc", (p, n, c_uint), self._allocate_host),
            ("cuMemFreeHost", (p,), lambda at: self._done(self._host.pop(at))),
            ("cuMemcpyHtoDAsync_v2", (n, p, n, p), self._copy_later),
            ("cuStreamSynchronize", (p,), lambda _: self._finish_copies()),
            ("cuStreamDestroy_v2", (p,), self._done),
            ("cuEventCreate", (p, c_uint), lambda out, _: self._new(out)),
            ("cuEventRecord", (p, p), lambda _, stream: self._record(stream)),
            ("cuEventQuery", (p,), lambda _: NOT_READY if self.lags else SUCCESS),
            ("cuEventSynchronize", (p,), self._wait),
            ("cuEventElapsedTime", (p, p, p), self._elapsed),
            ("cuEventDestroy_v2", (p,), self._done),
            ("cuThreadExchangeStreamCaptureMode", (p,), self._exchange),
            ("cuCtxGetStreamPriorityRange", (p, p), self._priorities),
            ("cuStreamIsCapturing", (p, p), self._is_capturing),
            ("cuStreamGetCaptureInfo_v3", (p,) * 7, self._capture_info),
            ("cuStreamBeginCapture_v2", (p, c_int), self._begin),
            ("cuStreamEndCapture", (p, p), self._end),
            ("cuGraphGetNodes", (p, p, p), self._nodes),
            ("cuGraphInstantiateWithFlags", (p, p, n), self._instantiate),
            ("cuGraphExecKernelNodeSetParams_v2", (p, p, p), self._set_kernel),
            ("cuGraphLaunch", (p, p), self._launch_graph),
            ("cuGraphConditionalHandleCreate", (p, p, p, c_uint, c_uint), self._create_condition),
            ("cuGraphAddNode", (p, p, p, n, p), self._add_node),
            ("cuStreamUpdateCaptureDependencies", (p, p, n, c_uint), self._done),
            ("cuStreamBeginCaptureToGraph", (p, p, p, p, n, c_int), self._begin_in),
            ("cuGraphDestroy", (p,), self._destroy),
            ("cuGraphExecDestroy", (p,), self._destroy),
            ("cuTensorMapEncodeTiled", (p, c_int, c_uint, n, *(p,) * 4, *(c_int,) * 4), self._map),
            ("cuUserObjectCreate", (p, p, p, c_uint, c_uint), self._create_tie),
            ("cuGraphRetainUserObject", (p, p, c_uint, c_uint), self._tie),
        ]

    def _done(self, *_: object) -> int:
        return SUCCESS

    def _new(self, out: int) -> int:
        return _put(out, next(self._numbers))

    def _launch(self, config: int, function: int, _: object, extra: int) -> int:
        given = _Config.from_address(config)
        work = _work(function, given, given.shared_bytes, extra)
        graph = self._captures.get(given.stream or 0)
        if function not in self._testers and np.prod(work[2]) > self._programs[function][1]:
            return INVALID_VALUE
        if graph is None:
            return self._run(work)
        graph.kernels[next(self._numbers)] = work
        return SUCCESS

    def _run(self, work: Work) -> int:
        function, grid, block, shared_bytes, parameters = work
        if function in self._testers:
            condition, place = np.frombuffer(parameters, np.uint64)
            self._conditions[int(condition)] = c_int.from_address(int(place)).value
            return SUCCESS
        job = Job(
            grid=grid,  # type: ignore[arg-type]
            block=block,  # type: ignore[arg-type]
            shared_bytes=shared_bytes,
            parameter_block=parameters,
        )
        self._programs[function][0].run(job)
        return SUCCESS

    @property
    def reserved(self) -> int:
        """Bytes of memory that are allocated, or freed and kept by the pool."""
        return sum(memory.nbytes for memory in [*self._memory.values(), *self._pooled])

    def _exchange(self, place: int) -> int:
        mode = getattr(self._own, "mode", GLOBAL)
        self._own.mode, c_int.from_address(place).value = c_int.from_address(place).value, mode
        return SUCCESS

    def _wait(self, _: int) -> int:
        self.lags = False
        return self._finish_copies()

    def _allocate_host(self, out: int, nbytes: int, _: int) -> int:
        memory = np.full(nbytes, 0xAB, np.uint8)
        self._host[memory.ctypes.data] = memory
        return _put(out, memory.ctypes.data)

    def _copy_later(self, to: int, source: int, nbytes: int, _: object) -> int:
        self._copying.append((to, source, nbytes))
        return SUCCESS

    def _finish_copies(self) -> int:
        with self._finishing:
            while self._copying:
                ctypes.memmove(*self._copying[0])
                del self._copying[0]
        return SUCCESS

    def _record(self, stream: int | None) -> int:
        if stream in (None, 0, 1) and any(capture.blocking for capture in self._foreign):
            return self._invalidate("cuEventRecord", only_blocking=True)
        return self._look(stream)

    def _free_to_pool(self, address: int, _: int) -> int:
        self._pooled.append(self._memory.pop(address))
        return SUCCESS

    def _allocate(self, out: int, nbytes: int) -> int:
        if self.reserved + nbytes > self.capacity:
            return OUT_OF_MEMORY
        memory = np.empty(nbytes, np.uint8)
        memory[: 1 << 20] = 0xAB  # not zeros, by chance
        self._memory[memory.ctypes.data] = memory
        return _put(out, memory.ctypes.data)

    def _fill(self, address: int, value: int, nbytes: int, _: object) -> int:
        ctypes.memset(address, value, nbytes)
        return SUCCESS

    def _elapsed(self, out: int, earlier: int, later: int) -> int:
        c_float.from_address(out).value = later - earlier  # milliseconds
        return SUCCESS

    def _priorities(self, least: int, greatest: int) -> int:
        c_int.from_address(least).value, c_int.from_address(greatest).value = 0, -5
        return SUCCESS

    def _look(self, stream: int | None) -> int:
        if stream in self.destroyed:
            self.misused.append(stream or 0)
        return SUCCESS

    def _is_capturing(self, stream: int | None, out: int) -> int:
        self._look(stream)
        if not stream and any(capture.blocking for capture in self._foreign):
            return CAPTURE_IMPLICIT
        return _put_int(out, (stream or 0) in self._captures)

    def _capture_info(self, stream: int | None, status: int, *outs: int) -> int:
        number, graph_at, nodes, _, count = outs
        graph = self._captures.get(stream or 0)
        c_int.from_address(status).value = graph is not None
        if graph is not None:
            graph.last = (c_uint64 * 1)(*list(graph.kernels)[-1:])
            _put(number, graph.number)
            _put(graph_at, graph.number)
            _put(nodes, ctypes.addressof(graph.last))
            _put(count, min(len(graph.kernels), 1))
        return SUCCESS

    def _begin(self, stream: int, _: int) -> int:
        graph = Graph(next(self._numbers))
        self._captures[stream] = self._graphs[graph.number] = graph
        return SUCCESS

    def _end(self, stream: int, out: int) -> int:
        return _put(out, self._captures.pop(stream).number)

    def _nodes(self, graph: int, _: object, count: int) -> int:
        return _put(count, len(self._graphs[graph].kernels))

    def _instantiate(self, out: int, graph: int, _: int) -> int:
        number = next(self._numbers)
        self._graphs[number] = Graph(number, dict(self._graphs[graph].kernels))
        return _put(out, number)

    def _set_kernel(self, instance: int, node: int, params: int) -> int:
        given = _KernelNode.from_address(params)
        kernels = self._graphs[instance].kernels
        if node not in kernels:
            return INVALID_HANDLE
        kernels[node] = _work(given.function, given, given.shared_bytes, given.extra)
        return SUCCESS

    def _launch_graph(self, instance: int, _: object) -> int:
        self._conditions = dict.fromkeys(self._conditions, 0)
        self._run_all(self._graphs[instance])
        return SUCCESS

    def _run_all(self, graph: Graph) -> None:
        for node in graph.kernels.values():
            if isinstance(node, Branch):
                while self._conditions[node.condition]:
                    self._run_all(node.body)
                    if not node.repeats:
                        break
            else:
                self._run(node)

    def _create_condition(self, out: int, *_: object) -> int:
        self._conditions[handle := next(self._numbers)] = 0
        return _put(out, handle)

    def _add_node(self, out: int, graph: int, *given: int) -> int:
        params = _Params.from_address(given[-1])
        body = Graph(next(self._numbers))
        self._graphs[body.number] = body
        self._graphs[graph].kernels[node := next(self._numbers)] = Branch(
            params.handle, params.kind == 1, body
        )
        body.last = c_uint64(body.number)
        params.bodies = ctypes.addressof(body.last)
        return _put(out, node)

    def _begin_in(self, stream: int, graph: int, *_: object) -> int:
        self._captures[stream] = self._graphs[graph]
        return SUCCESS

    def _destroy(self, graph: int) -> int:
        for word, function in self._graphs.pop(graph).ties:
            CFUNCTYPE(None, c_void_p)(function)(word)
        return SUCCESS

    def _create_tie(self, out: int, word: int, function: int, *_: int) -> int:
        self._ties[number := next(self._numbers)] = word, function
        return _put(out, number)

    def _map(self, out: int, element: int, rank: int, address: int, *given: int) -> int:
        """A tensor map in the form that kernels on the CPU take, of element strides of 1."""
        kinds = (c_uint64, c_uint64, c_uint, c_uint)
        lists = zip(kinds, given[:4], (rank, rank - 1, rank, rank), strict=True)
        extents, strides, box, steps = (list((k * n).from_address(at)) for k, at, n in lists)
        dtype = next(name for name, (number, _) in ELEMENTS.items() if number == element)
        itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        if out % 64 or steps != [1] * rank or address % 16:
            return INVALID_VALUE
        form = MapForm(
            dtype=dtype,
            itemsize=itemsize,
            shape=tuple(extents[::-1]),
            strides=(*strides[::-1], itemsize),
            box=tuple(box[::-1]),
            swizzle=SWIZZLES[given[5]],
        )
        ctypes.memmove(out, tensor_map.encode("cpu", form, address), 128)
        self.encoded += 1
        return SUCCESS

    def _tie(self, graph: int, tie: int, *_: int) -> int:
        self._graphs[graph].ties.append(self._ties.pop(tie))
        return SUCCESS


def _put_int(address: int, value: int) -> int:
    c_int.from_address(address).value = value
    return SUCCESS


def _put(address: int, value: int) -> int:
    c_uint64.from_address(address).value = value
    return SUCCESS


def _work(function: int, config: Any, shared_bytes: int, extra: int) -> Work:
    """A launch as it is now, its parameter block copied as the driver does."""
    words = (c_uint64 * 5).from_address(extra)
    if (words[0], words[2], words[4]) != (1, 2, 0):  # CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END
        raise fe.LaunchError(f"extra: found {list(words)}")
    block = ctypes.string_at(words[1], c_size_t.from_address(words[3]).value)
    return function, tuple(config.grid), tuple(config.block), shared_bytes, block
