"""Arrays of any library on a GPU: where one lies, and a cheap cache key of it.

A library says so by `__cuda_array_interface__` or by DLPack.

Source: the CUDA Array Interface, versions 2 and 3, in Numba's documentation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ...abi import ArrayReference
from ...errors import AbiError
from .. import dlpack
from ..arrays import interface_of
from ..dlpack import extent
from .streams import Behind

_TWO_BYTES = np.dtype("V2")
_readers: dict[type, Callable[[Any], object]] = {}


def describe(name: str, array: Any, device: str) -> ArrayReference:
    """Where an array lies; that it lies on `device` is taken on trust.

    Nothing is waited for: the reference's `ready` does that.  Raises AbiError for what is no array
    of a GPU, and for one whose library does not give its memory.
    """
    interface = interface_of(array)
    if interface is not None:
        try:
            reference = _describe(name, array, interface, device)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            kind = type(array).__name__
            raise AbiError(
                f"{name}: the __cuda_array_interface__ of {kind} cannot be read: {error!r}"
            ) from error
    elif dlpack.is_offered(array) and dlpack.device_of(name, array) != "cpu":
        reference = replace(
            dlpack.describe(name, array), device=device, ready=dlpack.Written(array)
        )
    else:
        raise AbiError(f"{name}: expected an array on {device}, found {_found(array)}")
    if dlpack.is_of_jax(array):  # its interface names no stream, though one may still compute it
        reference = replace(reference, ready=dlpack.Written(array))
    return reference


def _describe(name: str, array: Any, interface: dict[str, Any], device: str) -> ArrayReference:
    if interface.get("mask") is not None:
        raise AbiError(f"{name}: expected an array without a mask, found one with a mask")
    shape, strides = _integers(interface["shape"]), interface.get("strides")
    strides = _integers(strides) if strides is not None else None
    dtype, itemsize, native = _type(interface["typestr"])
    if not native:
        raise AbiError(f"{name}: expected native byte order, found {interface['typestr']}")
    # The interface has no name for bfloat16: most leave it at two bytes, older torch says float16.
    if dtype == "float16":
        own = getattr(array, "dtype", None)
        if not isinstance(own, np.dtype) and str(own) == "torch.bfloat16":
            dtype = "bfloat16"
    place, readonly = interface["data"]
    address, stream = operator.index(place or 0), interface.get("stream")
    if address < 0 or (shape and min(shape) < 0):
        raise AbiError(f"{name}: expected memory, found shape {shape} at address {address}")
    if stream is not None and (not isinstance(stream, int) or stream < 1):
        raise AbiError(
            f"{name}: expected a stream from 1 on in its __cuda_array_interface__, or None, "
            f"found {stream!r:.80}"
        )
    return ArrayReference(
        address=address,
        shape=shape,
        strides=strides,
        dtype=dtype,
        itemsize=itemsize,
        available=extent(shape, strides, itemsize),
        device=device,
        readonly=readonly,
        ready=Behind(stream) if stream is not None else None,
    )


def _integers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


@lru_cache(maxsize=64)
def _type(typestr: str) -> tuple[str, int, bool]:
    """NumPy's name of a type, its bytes, and whether their order is this machine's.

    To spell the name takes NumPy longer than a launch.
    """
    dtype = np.dtype(typestr)
    if typestr is None or dtype.hasobject or dtype.kind in "SUMm":  # NumPy: None is float64
        raise TypeError(f"typestr {typestr!r} is of no numbers")
    name = "bfloat16" if dtype == _TWO_BYTES else dtype.name
    return name, dtype.itemsize, dtype.isnative


def _found(array: object) -> str:
    """Say what is no array of a GPU, and what to do with it."""
    if isinstance(array, np.ndarray):
        return "a NumPy array; copy it with device.to_device(array)"
    if dlpack.is_offered(array):
        kind = type(array).__name__
        return f"an array in host memory ({kind}); copy it with device.to_device(array)"
    return f"{array!r:.80} ({type(array).__name__})"


def cache_key(value: object) -> object:
    """Cache key of an argument; of an array its place, shape, strides and type.

    Arrays with equal keys need not be looked at again, but their stream may have to be waited for
    again.  Arrays of which nothing is known that is cheap never have equal keys.
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
