"""Device arrays and streams of numba.cuda.

The only file that imports it, whichever implementation that is (`implementation.py`); where they
differ, handles are reduced to integers (`integer_handle`).
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ...dtypes import dtype_named
from ...errors import DeviceError
from ..cache_keys import PoolLayout
from . import driver, implementation
from .objects import Stream
from .pool import Block, Pool


def _imported() -> Any:
    found = implementation.find()
    if found is None:
        raise DeviceError(
            "numba.cuda", "an implementation of it", "none", "install numba-cuda or numba-cuda-mlir"
        )
    return importlib.import_module(found.module)


cuda = _imported()

_SHAPES = 256  # of arrays that are remembered
_INTEGERS = int, np.integer


@lru_cache(maxsize=1)
def unusable() -> str | None:
    """Reason why no GPU can be used here; None where one can."""
    try:
        driver.initialise()
        # Not cuda.is_available(): that also asks for a compiler, which PTX does not need.
        if len(cuda.gpus):
            return None
        return "the driver sees no GPU"
    except DeviceError as error:
        return error.without(error.field)
    except Exception as error:  # Numba raises errors of several unrelated types here
        # Numba's text goes on for lines about environment variables; the first ones say what is.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return " ".join(lines[:2]).rstrip(".")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unusable.cache_clear)


def gpu_count() -> int:
    """The number of GPUs that the driver sees."""
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


def mapped(shape: int | Sequence[int], dtype: DTypeLike) -> Any:
    """Host memory that the current context's device reaches, as a NumPy array and one of numba's.

    Raises DeviceError where there is too little.
    """
    try:
        return cuda.mapped_array(shape, dtype_named(dtype))
    except Exception as error:  # each implementation has its own type for it
        raise DeviceError("mapped", f"allocating {shape} of {dtype}: {error}") from error


@dataclass(eq=False)
class _Form(PoolLayout):
    """The common part of arrays of a shape and dtype: attributes, and the types of their parts."""

    nbytes: int
    array: Any
    attributes: dict[str, Any]
    memory: Any
    place: Any
    context: Any


def _gpu_data(array: Any, name: str) -> Any:
    """`__getattr__` of an array in a pool's memory: numba's memory object, once it is asked for.

    numba's own kernels and copies take it; launches here take the address.
    """
    if name != "gpu_data":
        raise AttributeError(f"{type(array).__name__!r} object has no attribute {name!r}")
    form: _Form = array._form
    place = form.place(array.ferrum_address)
    array.gpu_data = form.memory(form.context, place, form.nbytes, owner=array._block)
    return array.gpu_data


@lru_cache(maxsize=1)
def _in_pool(array: Any) -> Any:
    """numba's type of arrays, for those in a pool's memory."""
    return type(array.__name__, (array,), {"__getattr__": _gpu_data})


class ArrayMaker:
    """Makes arrays of numba.cuda in memory of a pool.

    numba's own constructors take longer than a launch; an array like one before is a copy of that,
    over other memory.
    """

    def __init__(self, pool: Pool, current: Callable[[], AbstractContextManager[object]]) -> None:
        """current: makes the GPU's context current within a block."""
        self._pool, self._current = pool, current
        self._forms: dict[tuple[Any, Any], _Form] = {}  # by shape and dtype as they were given

    def make(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        """An array in C order, its contents undefined.  Raises DeviceError without memory."""
        key = shape if type(shape) is tuple else None, dtype
        form = self._forms.get(key)
        if form is None:
            extents = tuple(map(index, (shape,) if isinstance(shape, _INTEGERS) else shape))
            kind = dtype_named(dtype)
            nbytes = math.prod(extents) * kind.itemsize
            if min(extents, default=0) < 0:
                raise DeviceError("shape", "extents from 0 on", extents)
            if not nbytes:
                with self._current():
                    return cuda.device_array(extents, kind)
            block = self._pool.allocate(nbytes)
            form = self._form(block, extents, kind, nbytes)
            if key[0] is not None:
                self._forms[key] = form
        else:
            block = self._pool.allocate(form.nbytes)
        attributes = form.attributes.copy()
        attributes["_block"], attributes["ferrum_address"] = block, block.address
        array = form.array.__new__(form.array)
        array.__dict__ = attributes
        return array

    def _form(
        self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int
    ) -> _Form:
        with self._current():
            flat = bytes_at(block.address, nbytes, None)
        ends = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        strides = tuple(end * dtype.itemsize for end in ends)
        array, memory = type(flat)(shape, strides, dtype, gpu_data=flat.gpu_data), flat.gpu_data
        if len(self._forms) >= _SHAPES:
            self._forms.clear()
        attributes = vars(array)
        del attributes["gpu_data"]
        place = type(memory.device_pointer)
        own: Any = type(array)
        form = _Form(nbytes, _in_pool(own), attributes, type(memory), place, memory.context)
        attributes["_form"] = form
        return form


def bytes_at(address: int, nbytes: int, owner: object) -> Any:
    """Device memory as an array of numba.cuda of bytes, which keeps its owner alive."""
    place = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (address, False)}
    return cuda.from_cuda_array_interface(place, owner=owner, sync=False)
