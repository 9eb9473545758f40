"""Objects of the driver's that are given back with their Python object.

Source of the prototypes: CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import c_float, c_int, c_uint, c_uint8, c_void_p
from typing import Any

import numpy as np

from ...errors import LaunchError
from . import driver, modules

_EVENT_TIMED, _EVENT_DISABLE_TIMING = 0, 2  # CU_EVENT_...
_STREAM_NON_BLOCKING = 1


class Owned:
    """Something of the driver's that is given back with this object, in the process that made it.

    A forked child has a copy of the object and nothing of the driver's: giving back would crash it.
    Finalisers run anywhere, amid another library's capture, too, which giving back must not break.
    """

    _process = 0  # where Ctrl-C came before it was made
    # At hand when the interpreter ends, as modules are not.
    _getpid, _byref, _number = staticmethod(os.getpid), staticmethod(ctypes.byref), c_int
    _relaxed = driver.CAPTURE_RELAXED

    def __init__(self) -> None:
        self._process = os.getpid()
        self._exchange = driver.library().cuThreadExchangeStreamCaptureMode

    def _give_back(self, *calls: tuple[Callable[[int], int], Any]) -> None:
        """Make these calls of the driver, of a function and a handle, unless this is a fork."""
        if self._getpid() == self._process:
            mode = self._number(self._relaxed)
            self._exchange(self._byref(mode))
            for function, handle in calls:
                function(handle)
            self._exchange(self._byref(mode))


class Stream(Owned):
    """A stream of the current context.

    blocking: whether it waits for the default stream's work, and that for its own.
    """

    handle = 0

    def __init__(self, *, blocking: bool = False) -> None:
        super().__init__()
        handle = c_void_p()
        self._destroy = driver.library().cuStreamDestroy_v2
        code = driver.library().cuStreamCreate(
            ctypes.byref(handle), 0 if blocking else _STREAM_NON_BLOCKING
        )
        driver.check(code, "cuStreamCreate")
        self.handle = handle.value or 0

    def synchronize(self) -> None:
        """Wait until its work is done.  Raises LaunchError for work that failed."""
        driver.check(driver.library().cuStreamSynchronize(self.handle), "cuStreamSynchronize")

    def __del__(self) -> None:
        if self.handle:
            self._give_back((self._destroy, self.handle))


class LoadedCode(Owned):
    """Code that the driver has loaded into the current context; see `modules.load_module`."""

    _handle = 0

    def __init__(self, code: bytes) -> None:
        super().__init__()
        self._unload = driver.library().cuModuleUnload
        self._handle = modules.load_module(code)

    def function(self, entry: str) -> int:
        """The handle of a function, valid as long as this object lives."""
        return modules.function_of(self._handle, entry)

    def __del__(self) -> None:
        if self._handle:
            self._give_back((self._unload, self._handle))


class PinnedMemory(Owned):
    """Host memory that a GPU copies from by itself, while the host goes on.

    bytes: all of it, uint8.
    """

    _address = c_void_p()

    def __init__(self, nbytes: int) -> None:
        """Raises LaunchError where the system pins no more."""
        super().__init__()
        self._address = c_void_p()
        self._free = driver.library().cuMemFreeHost
        code = driver.library().cuMemHostAlloc(ctypes.byref(self._address), nbytes, 0)
        driver.check(code, f"cuMemHostAlloc({nbytes})")
        self.address = self._address.value or 0
        self.bytes = np.ctypeslib.as_array((c_uint8 * nbytes).from_address(self.address))

    def __del__(self) -> None:
        if self._address:
            self._give_back((self._free, self._address))


class Event(Owned):
    """A mark in a stream, to learn whether the work before it is done, and when."""

    _handle = c_void_p()

    def __init__(self, *, timed: bool = False) -> None:
        """timed: whether the device notes when the mark is reached, which costs a little."""
        super().__init__()
        self._handle = c_void_p()
        self._destroy = driver.library().cuEventDestroy_v2
        flags = _EVENT_TIMED if timed else _EVENT_DISABLE_TIMING
        code = driver.library().cuEventCreate(ctypes.byref(self._handle), flags)
        driver.check(code, "cuEventCreate")

    def record(self, stream: int) -> None:
        """Put the mark behind everything that the stream has been given."""
        driver.check(driver.library().cuEventRecord(self._handle, stream), "cuEventRecord")

    def hold(self, stream: int) -> None:
        """Let what the stream is given from now on wait until the mark is reached."""
        driver.check(
            driver.library().cuStreamWaitEvent(stream, self._handle, 0), "cuStreamWaitEvent"
        )

    @property
    def done(self) -> bool:
        """True once the stream has reached the mark; in a lost context it never does."""
        return bool(driver.library().cuEventQuery(self._handle) == 0)

    def synchronize(self) -> None:
        """Wait until the mark is reached.  Raises LaunchError for work that failed."""
        driver.check(driver.library().cuEventSynchronize(self._handle), "cuEventSynchronize")

    def seconds_since(self, earlier: Event) -> float:
        """The seconds between two timed marks, by the device's clock; waits for this one."""
        self.synchronize()
        milliseconds = c_float()
        code = driver.library().cuEventElapsedTime(
            ctypes.byref(milliseconds), earlier._handle, self._handle
        )
        driver.check(code, "cuEventElapsedTime")
        return milliseconds.value / 1e3

    def __del__(self) -> None:
        if self._handle:
            self._give_back((self._destroy, self._handle))


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


class Instance(Owned):
    """A graph made ready to be launched, as often as wanted.  It takes the graph over."""

    def __init__(self, graph: int) -> None:
        super().__init__()
        self.graph = graph
        self._destroy = driver.library().cuGraphExecDestroy, driver.library().cuGraphDestroy
        handle = c_void_p()
        self.handle = 0
        code = driver.library().cuGraphInstantiateWithFlags(ctypes.byref(handle), graph, 0)
        driver.check(code, "cuGraphInstantiate")
        self.handle = handle.value or 0
        self._launch = driver.library().cuGraphLaunch

    def launch(self, stream: int) -> None:
        """Run all of it on a stream.  Raises LaunchError."""
        code = self._launch(self.handle, stream)
        if code:
            raise LaunchError("cuGraphLaunch", driver.error_name(code))

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
        code = driver.library().cuGraphExecKernelNodeSetParams_v2(
            self.handle, node, ctypes.addressof(params)
        )
        driver.check(code, "cuGraphExecKernelNodeSetParams")

    def __del__(self) -> None:
        destroy_instance, destroy_graph = self._destroy
        instance = [(destroy_instance, self.handle)] if self.handle else []
        self._give_back(*instance, (destroy_graph, self.graph))
