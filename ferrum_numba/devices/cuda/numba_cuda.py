"""What comes from numba.cuda: device arrays, streams and modules.

The only file that imports it.  It works with Numba's built-in implementation and with NVIDIA's
numba-cuda; where the two differ, handles are reduced to integers (`integer_handle`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda

from ...errors import DeviceError
from . import driver
from .objects import Stream
from .pool import Block
from .streams import integer_handle

_SHAPES = 256  # of arrays that are remembered


@lru_cache(maxsize=1)
def unusable() -> str | None:
    """Why no GPU can be used here; None where one can."""
    try:
        driver.initialise()
        # Not cuda.is_available(): that also asks for a compiler, which PTX does not need.
        if len(cuda.gpus):
            return None
        return "the driver sees no GPU"
    except DeviceError as error:
        return str(error)
    except Exception as error:  # Numba raises errors of several unrelated types here
        # Numba's text goes on for lines about environment variables; the first ones say what is.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:2]).rstrip(".")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unusable.cache_clear)


def gpu_count() -> int:
    """How many GPUs the driver sees."""
    return len(cuda.gpus)


def context() -> tuple[Any, AbstractContextManager[object]]:
    """The device of the current context, and a block within which numba frees nothing there."""
    current = cuda.current_context()
    return current.device, current.defer_cleanup()


def stream_of(own: Stream) -> Any:
    """A stream of ours as one of numba's, which keeps it alive."""
    stream = cuda.external_stream(own.handle)
    stream.owner = own
    return stream


def load(text: str) -> Any:
    """A module of the current context.  Raises an error of the implementation's own type."""
    return cuda.current_context().create_module_ptx(text)


def function(module: Any, entry: str) -> tuple[Any, int]:
    """A function of a module, and its handle for the driver.

    Raises an error of the implementation's own type: numba-cuda compiles here, not in `load`.
    """
    found = module.get_function(entry)
    handle = integer_handle(found.handle)
    if type(found.handle).__name__ == "CUkernel":  # numba-cuda's, of no context
        handle = driver.function_of(handle)
    return found, handle


class ArrayMaker:
    """Makes arrays of numba.cuda over memory of ours.

    numba's own constructors take longer than a launch; an array like one before is a copy of that,
    over other memory.
    """

    def __init__(self, current: Callable[[], AbstractContextManager[object]]) -> None:
        """current: makes the GPU's context current within a block."""
        self._current = current
        self._known: dict[tuple[tuple[int, ...], np.dtype[Any]], tuple[Any, Any]] = {}

    def make(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Any:
        """An array in C order that keeps the block alive."""
        known = self._known.get((shape, dtype))
        if known is None:
            known = self._first(block, shape, dtype, nbytes)
        like, memory = known
        kind: Any = type(like)
        array = kind.__new__(kind)
        vars(array).update(vars(like))
        place = type(memory.device_pointer)(block.address)
        array.gpu_data = type(memory)(memory.context, place, nbytes, owner=block)
        return array

    def _first(
        self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int
    ) -> tuple[Any, Any]:
        """An array of this shape without memory, and a piece of memory."""
        with self._current():
            flat = bytes_at(block.address, nbytes, None)
        ends = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        strides = tuple(end * dtype.itemsize for end in ends)
        like = type(flat)(shape, strides, dtype, gpu_data=flat.gpu_data)
        like.gpu_data = None
        if len(self._known) >= _SHAPES:
            self._known.clear()
        self._known[shape, dtype] = like, flat.gpu_data
        return like, flat.gpu_data


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array without elements; the context is current."""
    return cuda.device_array(shape, dtype)


def bytes_at(address: int, nbytes: int, owner: object) -> Any:
    """Device memory as an array of numba.cuda of bytes, which keeps its owner alive."""
    place = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}
    return cuda.from_cuda_array_interface(place, owner=owner, sync=False)
