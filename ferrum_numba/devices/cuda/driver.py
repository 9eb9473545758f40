"""The few CUDA driver calls that numba.cuda does not offer, or offers at a cost, through ctypes.

Independent of which numba.cuda implementation is installed: handles cross this border as integers.
Source of the prototypes: CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint8, c_uint64, c_void_p
from functools import lru_cache

from ...errors import DeviceError, LaunchError
from ..chip import Chip

_PROTOTYPES = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuModuleLoadDataEx": (POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleUnload": (c_void_p,),
    "cuFuncGetParamInfo": (c_void_p, c_size_t, POINTER(c_size_t), POINTER(c_size_t)),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuLinkCreate_v2": (c_uint, POINTER(c_int), POINTER(c_void_p), POINTER(c_void_p)),
    "cuLinkAddData_v2": (
        *(c_void_p, c_int, c_char_p, c_size_t, c_char_p, c_uint),
        *(POINTER(c_int), POINTER(c_void_p)),
    ),
    "cuLinkComplete": (c_void_p, POINTER(c_void_p), POINTER(c_size_t)),
    "cuLinkDestroy": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuStreamIsCapturing": (c_void_p, POINTER(c_int)),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxGetDevice": (POINTER(c_int),),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamGetCtx": (c_void_p, POINTER(c_void_p)),
    "cuFuncGetAttribute": (POINTER(c_int), c_int, c_void_p),
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": (POINTER(c_int), c_void_p, c_int, c_size_t),
    "cuOccupancyMaxActiveClusters": (POINTER(c_int), c_void_p, c_void_p),
    "cuLaunchKernelEx": (c_void_p,) * 4,
    "cuCtxGetStreamPriorityRange": (POINTER(c_int), POINTER(c_int)),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemPoolCreate": (POINTER(c_void_p), c_void_p),
    "cuMemPoolSetAttribute": (c_void_p, c_int, POINTER(c_uint64)),
    "cuMemPoolGetAttribute": (c_void_p, c_int, POINTER(c_uint64)),
    "cuMemPoolTrimTo": (c_void_p, c_size_t),
    "cuMemAllocFromPoolAsync": (POINTER(c_uint64), c_size_t, c_void_p, c_void_p),
    "cuMemFreeAsync": (c_uint64, c_void_p),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuTensorMapEncodeTiled": (
        *(c_void_p, c_int, c_uint, c_uint64, POINTER(c_uint64), POINTER(c_uint64)),
        *(POINTER(c_uint), POINTER(c_uint), c_int, c_int, c_int, c_int),
    ),
    "cuStreamQuery": (c_void_p,),
    "cuMemsetD8Async": (c_uint64, c_uint8, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuThreadExchangeStreamCaptureMode": (POINTER(c_int),),
    "cuUserObjectCreate": (POINTER(c_void_p), c_void_p, c_void_p, c_uint, c_uint),
    "cuGraphRetainUserObject": (c_void_p, c_void_p, c_uint, c_uint),
    "cuStreamGetCaptureInfo_v2": (c_void_p,) * 6,
    "cuStreamGetCaptureInfo_v3": (c_void_p,) * 7,
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuStreamBeginCaptureToGraph": (*(c_void_p,) * 4, c_size_t, c_int),
    "cuStreamUpdateCaptureDependencies": (c_void_p, c_void_p, c_size_t, c_uint),
    "cuGraphConditionalHandleCreate": (c_void_p, c_void_p, c_void_p, c_uint, c_uint),
    "cuGraphAddNode": (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p),
    "cuGraphGetNodes": (c_void_p, POINTER(c_void_p), POINTER(c_size_t)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphExecKernelNodeSetParams_v2": (c_void_p, c_void_p, c_void_p),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}
_POINTER_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
# CU_DEVICE_ATTRIBUTE_...: rates in kHz, a width in bits, a size in bytes.
_CLOCK_RATE, _SMS, _MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH = 13, 16, 36, 37
_THREADS_OF_SM, _SHARED_OF_SM = 39, 81
NEVER_CAPTURED = (0, 1)  # the legacy default stream, by both of its handles
CAPTURE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_CAPTURE_IMPLICIT = 906  # CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
SUCCESS, _NOT_INITIALISED = 0, 3
# What a launch is told in a thread that has no context, or that of another device:
# CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE.
OTHER_CONTEXT = (201, 400)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The driver library, its functions declared.  Raises DeviceError where there is none."""
    name = os.environ.get("NUMBA_CUDA_DRIVER") or (
        "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    )
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(
            "libcuda", f"the CUDA driver library {name} cannot be loaded: {error}"
        ) from None
    for function, arguments in _PROTOTYPES.items():
        if hasattr(driver, function):  # older ones do not have all
            getattr(driver, function).argtypes = arguments
            getattr(driver, function).restype = c_int
    return driver


def error_name(code: int) -> str:
    """The driver's own words: `CUDA_ERROR_INVALID_VALUE (invalid argument)`."""
    name, text = c_char_p(), c_char_p()
    library().cuGetErrorName(code, ctypes.byref(name))
    library().cuGetErrorString(code, ctypes.byref(text))
    return f"{(name.value or str(code).encode()).decode()} ({(text.value or b'unknown').decode()})"


def initialise() -> None:
    """cuInit, which may be called any number of times.  Raises DeviceError where it is refused."""
    code = library().cuInit(0)
    if code == _NOT_INITIALISED:  # what a fork of a process that had called it is told
        raise DeviceError(
            "process",
            "this process was forked from one that uses CUDA, which the driver does not allow",
            remedy='start it with multiprocessing\'s "spawn" method',
        )
    if code != SUCCESS:
        raise DeviceError("cuInit", error_name(code))


def version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports."""
    number = c_int()
    check(library().cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    return number.value // 1000, number.value % 1000 // 10


def device_of(address: int) -> int | None:
    """The ordinal of the device on which an address lies; None for one of no device."""
    ordinal = c_int()
    code = library().cuPointerGetAttribute(ctypes.byref(ordinal), _POINTER_DEVICE_ORDINAL, address)
    return ordinal.value if code == SUCCESS else None


def retain_primary_context(ordinal: int) -> int:
    """The context of a device that all libraries share, kept for this process."""
    context = c_void_p()
    code = library().cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal)
    check(code, "cuDevicePrimaryCtxRetain")
    return context.value or 0


def push_context(context: int) -> None:
    """Make a context current in this thread; the one before comes back with `pop_context`."""
    check(library().cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")


def has_context() -> bool:
    """True if any context is current in this thread."""
    context = c_void_p()
    code = library().cuCtxGetCurrent(ctypes.byref(context))
    return code == SUCCESS and bool(context.value)


def pop_context() -> None:
    """Undo `push_context`."""
    library().cuCtxPopCurrent_v2(ctypes.byref(c_void_p()))


def current_device() -> int | None:
    """The ordinal of the device whose context is current in this thread; None without one."""
    ordinal = c_int()
    code = library().cuCtxGetDevice(ctypes.byref(ordinal))
    return ordinal.value if code == SUCCESS else None


def synchronize() -> None:
    """Wait for all work of the current context.  Raises LaunchError for work that failed."""
    check(library().cuCtxSynchronize(), "cuCtxSynchronize")


def cause_of_death() -> str | None:
    """The driver's error that ended the current context; None while it can be used."""
    code = library().cuMemGetInfo_v2(ctypes.byref(c_size_t()), ctypes.byref(c_size_t()))
    return None if code == SUCCESS else error_name(code)


def free_bytes() -> int:
    """Bytes of the current context's GPU that nobody holds."""
    free = c_size_t()
    code = library().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(c_size_t()))
    check(code, "cuMemGetInfo")
    return free.value


def _device_attribute(ordinal: int, which: int) -> int:
    number = c_int()
    code = library().cuDeviceGetAttribute(ctypes.byref(number), which, ordinal)
    check(code, f"cuDeviceGetAttribute({which})")
    return number.value


def chip(ordinal: int) -> Chip:
    """The chip of a GPU, with the bandwidth that its memory has on paper."""
    khz, bits = (_device_attribute(ordinal, n) for n in (_MEMORY_CLOCK_RATE, _MEMORY_BUS_WIDTH))
    return Chip(
        sms=_device_attribute(ordinal, _SMS),
        bandwidth=khz * bits / 4e3,  # at both edges of its clock
        clock=_device_attribute(ordinal, _CLOCK_RATE) / 1e3,
        shared=_device_attribute(ordinal, _SHARED_OF_SM),
    )


def sms(ordinal: int) -> tuple[int, int]:
    """The number of SMs of a device, and of threads that each has room for."""
    return _device_attribute(ordinal, _SMS), _device_attribute(ordinal, _THREADS_OF_SM)


@lru_cache(maxsize=1)
def launcher() -> Callable[[int, int, None, int], int]:
    """cuLaunchKernelEx itself: takes a LaunchRecord's row, returns the driver's code."""
    if not hasattr(library(), "cuLaunchKernelEx"):
        raise DeviceError(
            "the CUDA driver is too old",
            "one with cuLaunchKernelEx (CUDA 11.8, driver 520)",
            f"CUDA {version()[0]}.{version()[1]}",
            "update the driver",
        )
    function: Callable[[int, int, None, int], int] = library().cuLaunchKernelEx
    return function


def refusal(code: int, what: str) -> LaunchError:
    """The error for a launch that the driver refused; what: the launch in one line."""
    stream = "; is the stream one of this device, and still there?" if code in OTHER_CONTEXT else ""
    return LaunchError("cuLaunchKernelEx", f"{error_name(code)}: {what}{stream}")


def priorities() -> tuple[int, int]:
    """The highest and the lowest priority of the current context's streams, as numbers."""
    least, greatest = c_int(), c_int()
    code = library().cuCtxGetStreamPriorityRange(ctypes.byref(least), ctypes.byref(greatest))
    check(code, "cuCtxGetStreamPriorityRange")
    return greatest.value, least.value


def tensor_map_encoder(
    element: int,
    extents: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    swizzle: int,
    promotion: int,
    nan: bool,
) -> Callable[[int], bytes]:
    """Makes the driver's tensor maps of arrays, by address; the last dimension comes first, strides
    without its own.

    element, swizzle, promotion: by their numbers in CUDA's headers.  Raises LaunchError where the
    driver takes no such map, DeviceError where it is too old for any.  For one thread at a time.
    """
    if not hasattr(library(), "cuTensorMapEncodeTiled"):
        raise DeviceError(
            "the CUDA driver is too old", "one with tensor maps (CUDA 12)", "an older one"
        )
    rank, space, place = len(extents), (c_uint8 * (128 + 64))(), c_uint64()
    at = -(-ctypes.addressof(space) // 64) * 64
    call = library().cuTensorMapEncodeTiled
    # Spelt out in the types that the call has, so that it converts nothing.
    ones = (1,) * rank
    lists = (*((c_uint64, n) for n in (extents, strides)), *((c_uint, n) for n in (box, ones)))
    given = (
        *(c_void_p(at), c_int(element), c_uint(rank), place),
        *(ctypes.cast((kind * rank)(*numbers), POINTER(kind)) for kind, numbers in lists),
        *map(c_int, (0, swizzle, promotion, nan)),
    )

    def make(address: int) -> bytes:
        place.value = address
        code = call(*given)
        if code in OTHER_CONTEXT and not has_context():
            # It stays current, as CUDA's own runtime leaves it: a launch is most likely next.
            push_context(retain_primary_context(device_of(address) or 0))
            code = call(*given)
        if code:
            check(code, "cuTensorMapEncodeTiled")
        return ctypes.string_at(at, 128)

    make.space = space  # type: ignore[attr-defined]  # keeps it in memory
    return make


@contextmanager
def outside_of_captures() -> Iterator[None]:
    """Let the thread do within the block what would break a capture, such as to free memory."""
    mode = c_int(CAPTURE_RELAXED)
    exchange = library().cuThreadExchangeStreamCaptureMode
    check(exchange(ctypes.byref(mode)), "cuThreadExchangeStreamCaptureMode")
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


class _Answer(threading.local):
    """A number for the driver to write, and its place: one a thread, made once."""

    def __init__(self) -> None:
        self.number = c_int()
        self.place = ctypes.byref(self.number)


_answer = _Answer()


def is_capturing(stream: int) -> bool:
    """True if launches on this stream are recorded into a graph instead of run."""
    if stream in NEVER_CAPTURED:
        return False
    answer = _answer
    code = library().cuStreamIsCapturing(stream, answer.place)
    if code:
        check(code, "cuStreamIsCapturing")
    return answer.number.value != 0


def may_record(stream: int) -> bool:
    """False while an event behind a stream's work would become part of a capture, or break one.

    The default stream says so while one that waits for it is being captured; to ask breaks nothing.
    """
    status = c_int()
    code = library().cuStreamIsCapturing(stream, ctypes.byref(status))
    if code == _CAPTURE_IMPLICIT:
        return False
    check(code, "cuStreamIsCapturing")
    return status.value == 0


def check(code: int, call: str) -> None:
    """Raise LaunchError unless the driver returned success."""
    if code != SUCCESS:
        raise LaunchError(call, error_name(code))
