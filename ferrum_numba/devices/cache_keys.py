"""Cache keys of arguments: whether a launch has been given the same, or the same elsewhere.

The key of an array is (layout, address), each read in the cheapest way that its library offers.  An
array of an equal layout is described in the same words, its address aside: library, shape, strides,
dtype, who may write it, the stream that writes it.  Of any other value all is layout.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from . import dlpack
from .arrays import interface_of, is_masked
from .tensor_map import TensorMap

Key = tuple[object, int]
_KNOWN = 256  # arrays in one place that are remembered


class PoolLayout:
    """The layout that all arrays have in common which this package makes of one shape and dtype.

    Such an array has it as `_form`, and its address as `ferrum_address`.
    """


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
        return _unknown if is_masked(kind) else _of_numpy
    if hasattr(kind, "device_ctypes_pointer"):
        return _of_numba
    if hasattr(kind, "data_ptr") and hasattr(kind, "stride"):
        return _of_torch
    if kind.__module__.partition(".")[0] == "cupy" and hasattr(kind, "toDlpack"):
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
    form = array.__dict__.get("_form")
    if form is not None:
        return (form, array.stream), array.ferrum_address
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
        where, marks = array.device, (array.requires_grad, array.is_neg())
        return (array.shape, strides, array.dtype, where, marks), array.data_ptr()
    except (AttributeError, RuntimeError):  # a sparse or a nested one has none
        return _unknown(array)


def _of_cupy(array: Any) -> Key:
    layout, address = _of_cupy_memory(array)
    return (_cupy_stream()(), layout), address


def _of_cupy_memory(array: Any) -> Key:
    """Key of CuPy's array, which knows its device, too; the stream is not in it."""
    memory = array.data
    return (array.shape, array.strides, array.dtype, memory.device_id), memory.ptr


@cache
def _cupy_stream() -> Callable[[], int]:
    """Reads the stream of the interface of CuPy's arrays: whichever is current when it is asked."""
    current = sys.modules["cupy"].cuda.get_current_stream

    def stream() -> int:
        number: int = current().ptr
        return number

    return stream


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


def surroundings(
    kinds: Iterable[type], keys: Iterable[Key | int]
) -> set[tuple[Callable[[], object], object]]:
    """Parts that the layouts of such keys have in common, each with what reads it, so that it is
    read once for all.  Followers leave them out."""
    of_cupy = (key for kind, key in zip(kinds, keys, strict=True) if _is_of_cupy(kind, key))
    return {(_cupy_stream(), key[0][0]) for key in of_cupy}  # type: ignore[index]


def _is_of_cupy(kind: type, key: Key | int) -> bool:
    """True for the key of an array of CuPy, as far as it is one."""
    return kind is not int and readers[kind] is _of_cupy and isinstance(key[0], tuple)  # type: ignore[index]


# Reads where a tensor lies, by function and place of a Likeness; see cuda/native.py.
PlaceOf = Callable[[object, int, int], int]


def follower(
    value: Any, key: Key | int, holds: Callable[[int], bool] | None, place_of: PlaceOf | None
) -> Callable[[Any], int | None]:
    """A function that gives the address of a value whose key is this one but for the address.

    It gives None for any other value, and for an address that is not the device's; integers, and
    values that may not move, only have to be equal.
    value, key: what was there last.  holds: True for an address of the device; None where the value
    may not move.  place_of: reads tensors in native code; None where there is none.
    """
    if isinstance(key, int):
        return lambda value: key if type(value) is int and value == key else None
    kind, (layout, last) = type(value), key
    reader = readers[kind]
    if holds is None:
        return lambda value: last if type(value) is kind and reader(value) == key else None
    if isinstance(layout, tuple) and isinstance(layout[0], PoolLayout):
        return _follow_pooled(kind, *layout)
    if _is_of_cupy(kind, key):
        within = key[0][1]  # type: ignore[index]
        return _follow_lasting(kind, _of_cupy_memory, within, last, None, within[0])
    if reader is _of_numba:
        return _follow_lasting(kind, reader, layout, last, holds, None)
    if reader is _of_torch and place_of is not None and reader(value)[0] == layout:
        like = dlpack.Likeness.of(value)
        if like is not None:
            return _follow_tensors(kind, like, place_of)
    return _follow(kind, reader, layout, last, None if reader is _of_torch else holds)


def _follow_tensors(
    kind: Any, like: dlpack.Likeness, place_of: PlaceOf
) -> Callable[[Any], int | None]:
    """Follow torch's tensors. Native code reads all but that no gradient is wanted, and that the
    sign is that of the memory."""
    function, place_like = like.function, like.place

    def place(value: Any) -> int | None:
        if type(value) is not kind or value.requires_grad or value.is_neg():
            return None
        address = place_of(value, function, place_like)
        return address if address >= 0 else None

    place.like = like  # type: ignore[attr-defined]  # keeps its words in memory
    return place


def _follow(
    kind: type,
    reader: Callable[[Any], Key],
    layout: object,
    last: int,
    holds: Callable[[int], bool] | None,
) -> Callable[[Any], int | None]:
    """holds: None where the library knows on which device its memory lies, and that it is there."""

    def place(value: Any) -> int | None:
        nonlocal last
        if type(value) is not kind:
            return None
        found, address = reader(value)
        if found != layout:
            return None
        if address != last:
            if holds is not None and not holds(address):
                return None
            last = address
        return address

    return place


def _follow_pooled(kind: type, form: PoolLayout, stream: object) -> Callable[[Any], int | None]:
    """Follow arrays of this package, each of which holds its memory."""

    def place(value: Any) -> int | None:
        if type(value) is not kind:
            return None
        own = value.__dict__
        if own.get("_form") is not form or own["stream"] != stream:
            return None
        address: int = own["ferrum_address"]
        return address

    return place


def _follow_lasting(
    kind: type,
    reader: Callable[[Any], Key],
    layout: object,
    last: int,
    holds: Callable[[int], bool] | None,
    shape: object,
) -> Callable[[Any], int | None]:
    """Follow arrays that never move or change their form: each is read once.

    holds: as for `_follow`.  shape: where that may be set, what it has to be; else None.
    """
    known: dict[int, tuple[Callable[[], Any], int]] = {}  # by the array's id
    unknown = object, 0  # as if it was of an array that is gone

    def place(value: Any) -> int | None:
        nonlocal last
        reference, address = known.get(id(value), unknown)
        if reference() is not value or (shape is not None and value.shape != shape):
            if type(value) is not kind:
                return None
            now, address = reader(value)
            if now != layout:
                return None
            if len(known) >= _KNOWN:
                known.clear()
            known[id(value)] = weakref.ref(value), address
        if address != last:
            if holds is not None and not holds(address):
                return None
            last = address
        return address

    return place
