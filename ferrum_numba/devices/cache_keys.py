"""Cache keys of arguments: whether a launch has been given the same, or the same elsewhere.

The key of an array is (layout, address), each read in the cheapest way that its library offers.  An
array of an equal layout is described in the same words, its address aside: library, shape, strides,
dtype, who may write it, the stream that writes it.  Of any other value all is layout.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import dlpack
from .arrays import interface_of
from .tensor_map import TensorMap

Key = tuple[object, int]


class _Readers(dict[type, Callable[[Any], Key]]):
    """The reader of the keys of a type's values; made when it is first needed."""

    def __missing__(self, kind: type) -> Callable[[Any], Key]:
        self[kind] = reader = _reader(kind)
        return reader


readers = _Readers()


def cache_key(value: object) -> Key | int:
    """The cache key of an argument; an integer is its own."""
    return value if type(value) is int else readers[type(value)](value)


def _reader(kind: type) -> Callable[[Any], Key]:
    if issubclass(kind, (float, np.floating)):
        return _of_float
    if issubclass(kind, TensorMap):
        return _of_tensor_map
    if issubclass(kind, np.void):  # its fields may be written
        return _unknown
    if issubclass(kind, (int, np.generic, type(None))):
        return _of_scalar
    if issubclass(kind, np.ndarray):
        return _unknown if issubclass(kind, np.ma.MaskedArray) else _of_numpy
    if hasattr(kind, "device_ctypes_pointer"):
        return _of_numba
    if hasattr(kind, "data_ptr") and hasattr(kind, "stride"):
        return _of_torch
    if kind.__module__.partition(".")[0] == "cupy":
        return _of_cupy
    return _of_interface


def _unknown(value: object) -> Key:
    """A key that is equal to none."""
    return object(), 0


def _of_scalar(value: object) -> Key:
    return (type(value), value), 0


def _of_float(value: Any) -> Key:
    return (type(value), value, math.copysign(1.0, value)), 0  # -0.0 == 0.0


def _of_tensor_map(value: TensorMap) -> Key:
    return (TensorMap, value.tobytes()), 0


def _of_numpy(array: Any) -> Key:
    layout = np.ndarray, array.shape, array.strides, array.dtype, array.flags.writeable
    return layout, array.ctypes.data


def _of_numba(array: Any) -> Key:
    address = getattr(array, "ferrum_address", None)  # of this package's own: see ArrayMaker
    if address is None:
        try:
            address = array.device_ctypes_pointer.value or 0
        except ReferenceError:  # its context was closed
            return _unknown(array)
    return (type(array), array.shape, array.strides, array.dtype, array.stream), address


def _of_torch(array: Any) -> Key:
    """Key of a tensor, which knows its device."""
    # The strides alone would not tell a conjugate, but then it is complex, which nobody takes.
    try:
        strides = array.is_contiguous() or array.stride()
        where, grad = array.device, array.requires_grad
        return (array.shape, strides, array.dtype, where, grad), array.data_ptr()
    except (AttributeError, RuntimeError):  # a sparse or a nested one has none
        return _unknown(array)


def _of_cupy(array: Any) -> Key:
    """Of CuPy's array, which knows its device, too."""
    try:
        memory = array.data
        # The stream of its interface is whichever is current when that is asked for.
        stream = sys.modules["cupy"].cuda.get_current_stream().ptr
        layout = type(array), array.shape, array.strides, array.dtype, memory.device_id, stream
        return layout, memory.ptr
    except (AttributeError, LookupError):  # something else of CuPy's
        return _of_interface(array)


def _of_interface(array: Any) -> Key:
    interface = interface_of(array)
    if interface is None:
        return _unknown(array)
    try:
        # Of one before version 3 it is not known who still writes the array; JAX can be asked.
        known = interface["version"] >= 3 or (dlpack.is_of_jax(array) and dlpack.is_computed(array))
        if not known or interface.get("mask") is not None:
            return _unknown(array)
        address, readonly = interface["data"]
        fields = tuple(interface.get(key) for key in ("shape", "strides", "typestr", "stream"))
        # The interface has no name for bfloat16; see cuda/arrays.py.
        return (type(array), *fields, readonly, str(getattr(array, "dtype", ""))), address or 0
    except (AttributeError, LookupError, TypeError, ValueError):  # `describe` says what is wrong
        return _unknown(array)


# Of libraries that know on which device an array's memory lies, and that it is there.
trusted = frozenset((_of_torch, _of_cupy))
# Of arrays that are never made to be elsewhere, or of another form.
same_as_long_as_it_lives = frozenset((_of_numba,))
