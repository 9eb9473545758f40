"""Cheap facts about an array of a GPU: where they are as before, so is its description."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .gpu_arrays import interface_of

_readers: dict[type, Callable[[Any], object]] = {}


def facts_of(value: object) -> object:
    """What tells two arguments apart; of an array its place, shape, strides and type.

    Arrays with equal facts need not be looked at again, but their stream may have to be waited for
    again.  Arrays of which nothing is known that is cheap never have equal facts.
    """
    kind = type(value)
    reader = _readers.get(kind)
    if reader is None:
        reader = _readers[kind] = _reader(value)
    return reader(value)


def _reader(value: object) -> Callable[[Any], object]:
    if isinstance(value, (float, np.floating)):
        return _of_float
    if value is None or isinstance(value, (int, np.generic)):
        return _itself
    if hasattr(value, "device_ctypes_pointer"):
        return _of_numba
    if hasattr(value, "data_ptr") and callable(getattr(value, "stride", None)):
        return _of_torch
    return _of_interface


def _itself(value: object) -> object:
    return type(value), value


def _of_float(value: Any) -> object:
    return type(value), value, math.copysign(1.0, value)  # -0.0 == 0.0


def _of_numba(array: Any) -> object:
    try:
        place = array.device_ctypes_pointer.value
    except ReferenceError:  # its context was closed
        return object()
    return place, array.shape, array.strides, array.dtype, array.stream


def _of_torch(array: Any) -> object:
    # The strides alone would not tell a conjugate, but then it is complex, which nobody takes.
    try:
        place = array.data_ptr(), array.shape, array.stride()
    except RuntimeError:  # a sparse or a nested one has none
        return object()
    return *place, array.dtype, array.device, getattr(array, "requires_grad", False)


def _of_interface(array: Any) -> object:
    interface = interface_of(array)
    if interface is None:
        return object()
    try:
        # Of one before version 3, such as JAX's, it is not known who still writes the array.
        if interface["version"] < 3 or interface.get("mask") is not None:
            return object()
        keys = ("data", "shape", "strides", "typestr", "stream")
        return tuple(interface.get(key) for key in keys)
    except (AttributeError, LookupError, TypeError):  # who describes the array says what is wrong
        return object()
