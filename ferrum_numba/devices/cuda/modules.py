"""Modules of the driver and their functions, and what it says of these; handles are integers.

Source of the prototypes: CUDA Driver API reference, "Module Management", "Execution Control",
"Occupancy".
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_void_p

from ...errors import LaunchError
from . import driver

_FUNC_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER(_SIZE_BYTES)
_LINK_PTX = 1  # CU_JIT_INPUT_PTX
# CU_FUNC_ATTRIBUTE_...
_FUNC_ATTRIBUTES = {"max_threads": 0, "shared": 1, "constant": 2, "local": 3, "registers": 4}


class _Log:
    """Options with which the driver's compiler says what is wrong.  text: what it said."""

    count = 2

    def __init__(self) -> None:
        size = 16384
        self._buffer = ctypes.create_string_buffer(size)
        self.names = (c_int * 2)(_JIT_ERROR_LOG, _JIT_ERROR_LOG_BYTES)
        self.values = (c_void_p * 2)(ctypes.addressof(self._buffer), size)

    def check(self, code: int, call: str) -> None:
        """Raise LaunchError, with the log, unless the driver returned success."""
        if code != driver.SUCCESS:
            text = self._buffer.value.decode(errors="replace").strip()
            raise LaunchError(call, f"{driver.error_name(code)}{': ' if text else ''}{text}")


def load_module(code: bytes) -> int:
    """A module of the current context: of PTX, which the driver compiles, or of a cubin.

    Raises LaunchError, with the compiler's log, where the driver refuses it.
    """
    module, log = c_void_p(), _Log()
    found = driver.library().cuModuleLoadDataEx(
        ctypes.byref(module), code, log.count, log.names, log.values
    )
    log.check(found, "cuModuleLoadDataEx")
    return module.value or 0


def function_of(module: int, entry: str) -> int:
    """A function of a module.  Raises LaunchError where it has none of that name."""
    function = c_void_p()
    code = driver.library().cuModuleGetFunction(ctypes.byref(function), module, entry.encode())
    driver.check(code, f"cuModuleGetFunction({entry})")
    return function.value or 0


def parameter_places(function: int, count: int) -> tuple[int, ...] | None:
    """The offsets at which a function takes its parameters; None where the driver does not say.

    An assembler aligns a parameter by its address among the GPU's constants, which begin at no
    multiple of 64, so that one with `.align 64` lies elsewhere than the PTX ISA lays it.
    """
    if not hasattr(driver.library(), "cuFuncGetParamInfo"):  # before CUDA 12.4
        return None
    found = []
    for index in range(count):
        offset = c_size_t()
        code = driver.library().cuFuncGetParamInfo(function, index, ctypes.byref(offset), None)
        driver.check(code, f"cuFuncGetParamInfo({index})")
        found.append(offset.value)
    return tuple(found)


def compile_ptx(text: str) -> bytes:
    """The cubin that the driver's linker makes of PTX for the current context's GPU.

    Raises LaunchError, with its log.
    """
    state, image, nbytes, log = c_void_p(), c_void_p(), c_size_t(), _Log()
    code = text.encode() + b"\0"
    found = driver.library().cuLinkCreate_v2(log.count, log.names, log.values, ctypes.byref(state))
    log.check(found, "cuLinkCreate")
    try:
        found = driver.library().cuLinkAddData_v2(
            *(state, _LINK_PTX, code, len(code), b"ptx", 0, None, None)
        )
        log.check(found, "cuLinkAddData")
        found = driver.library().cuLinkComplete(state, ctypes.byref(image), ctypes.byref(nbytes))
        log.check(found, "cuLinkComplete")
        return ctypes.string_at(image.value or 0, nbytes.value)
    finally:
        driver.library().cuLinkDestroy(state)


def allow_shared(function: int, nbytes: int) -> None:
    """Let a function have this much dynamic shared memory, beyond the 48 KiB of the start."""
    code = driver.library().cuFuncSetAttribute(function, _FUNC_MAX_DYNAMIC_SHARED, nbytes)
    driver.check(code, f"cuFuncSetAttribute(max dynamic shared memory, {nbytes})")


def attributes(function: int) -> dict[str, int]:
    """Attributes of a function: max_threads (of a CTA), registers (of a thread), and bytes of
    shared (static, of a CTA), constant and local (of a thread) memory."""
    found = {}
    number = c_int()
    for name, which in _FUNC_ATTRIBUTES.items():
        code = driver.library().cuFuncGetAttribute(ctypes.byref(number), which, function)
        driver.check(code, f"cuFuncGetAttribute({name})")
        found[name] = number.value
    return found


def resident_ctas(function: int, threads: int, shared_bytes: int) -> int:
    """The number of CTAs, of so many threads and dynamic shared bytes, that an SM holds at once."""
    number = c_int()
    code = driver.library().cuOccupancyMaxActiveBlocksPerMultiprocessor(
        ctypes.byref(number), function, threads, shared_bytes
    )
    driver.check(code, "cuOccupancyMaxActiveBlocksPerMultiprocessor")
    return number.value


def resident_clusters(function: int, config: int) -> int:
    """The number of clusters that the GPU holds at once; config: a CUlaunchConfig's address."""
    number = c_int()
    code = driver.library().cuOccupancyMaxActiveClusters(ctypes.byref(number), function, config)
    driver.check(code, "cuOccupancyMaxActiveClusters")
    return number.value
