"""The few CUDA driver calls that numba.cuda does not offer, or offers at a cost, through ctypes.

Independent of which numba.cuda implementation is installed: handles cross this border as integers.
Source of the prototypes: CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint64, c_void_p
from functools import lru_cache

from ..errors import DeviceError, LaunchError

_PROTOTYPES = {
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuKernelGetFunction": (POINTER(c_void_p), c_void_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuModuleLoadDataEx": (POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleUnload": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventDestroy_v2": (c_void_p,),
    "cuStreamIsCapturing": (c_void_p, POINTER(c_int)),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), c_void_p),
}
_POINTER_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_FUNC_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_EVENT_DISABLE_TIMING = 2
_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER(_SIZE_BYTES)
_SUCCESS, _NOT_READY = 0, 600


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    name = os.environ.get("NUMBA_CUDA_DRIVER") or (
        "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    )
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(f"the CUDA driver library {name} cannot be loaded: {error}") from None
    for function, arguments in _PROTOTYPES.items():
        if hasattr(library, function):  # cuKernelGetFunction: since CUDA 12.0
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = c_int
    return library


def error_name(code: int) -> str:
    """The driver's own words: `CUDA_ERROR_INVALID_VALUE (invalid argument)`."""
    name, text = c_char_p(), c_char_p()
    _library().cuGetErrorName(code, ctypes.byref(name))
    _library().cuGetErrorString(code, ctypes.byref(text))
    return f"{(name.value or str(code).encode()).decode()} ({(text.value or b'unknown').decode()})"


def version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports."""
    number = c_int()
    _check(_library().cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    return number.value // 1000, number.value % 1000 // 10


def device_of(address: int) -> int | None:
    """The ordinal of the device on which an address lies; None for one of no device."""
    ordinal = c_int()
    code = _library().cuPointerGetAttribute(ctypes.byref(ordinal), _POINTER_DEVICE_ORDINAL, address)
    return ordinal.value if code == _SUCCESS else None


def jit_log(text: str) -> str:
    """What the driver's compiler says to PTX that it refuses; needs a current context."""
    size = 16384
    buffer = ctypes.create_string_buffer(size)
    options = (c_int * 2)(_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES)
    values = (c_void_p * 2)(ctypes.addressof(buffer), size)
    module = c_void_p()
    code = _library().cuModuleLoadDataEx(ctypes.byref(module), text.encode(), 2, options, values)
    if code == _SUCCESS:
        _library().cuModuleUnload(module)
        return ""
    log = buffer.value.decode(errors="replace").strip()
    return f"{error_name(code)}: {log}" if log else error_name(code)


def function_of(kernel: int) -> int:
    """The CUfunction, in the current context, of a context-independent CUkernel."""
    function = c_void_p()
    code = _library().cuKernelGetFunction(ctypes.byref(function), kernel)
    _check(code, "cuKernelGetFunction")
    return function.value or 0


def allow_shared(function: int, nbytes: int) -> None:
    """Let a function have this much dynamic shared memory, beyond the 48 KiB of the start."""
    code = _library().cuFuncSetAttribute(function, _FUNC_MAX_DYNAMIC_SHARED, nbytes)
    _check(code, f"cuFuncSetAttribute(max dynamic shared memory, {nbytes})")


def launch(
    function: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    stream: int,
    kernel_params: ctypes.Array[c_void_p],
    what: str,
) -> None:
    """cuLaunchKernel.  Raises LaunchError with the driver's name for what is wrong."""
    code = _library().cuLaunchKernel(
        function, *grid, *block, shared_bytes, stream, kernel_params, None
    )
    if code != _SUCCESS:
        raise LaunchError(f"cuLaunchKernel: {error_name(code)}: {what}")


def is_capturing(stream: int) -> bool:
    """Whether launches on this stream are recorded into a graph instead of run."""
    status = c_int()
    _check(_library().cuStreamIsCapturing(stream, ctypes.byref(status)), "cuStreamIsCapturing")
    return status.value != 0


class Event:
    """A mark in a stream, to learn whether the work before it is done."""

    def __init__(self) -> None:
        self._handle = c_void_p()
        code = _library().cuEventCreate(ctypes.byref(self._handle), _EVENT_DISABLE_TIMING)
        _check(code, "cuEventCreate")

    def record(self, stream: int) -> None:
        """Put the mark behind everything that the stream has been given."""
        _check(_library().cuEventRecord(self._handle, stream), "cuEventRecord")

    @property
    def done(self) -> bool:
        """Whether the stream has reached the mark, or never will, since its context is lost."""
        return bool(_library().cuEventQuery(self._handle) != _NOT_READY)

    def __del__(self) -> None:
        if self._handle:
            _library().cuEventDestroy_v2(self._handle)


def _check(code: int, call: str) -> None:
    if code != _SUCCESS:
        raise LaunchError(f"{call}: {error_name(code)}")
