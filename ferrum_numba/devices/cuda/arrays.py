"""Arrays of any library on a GPU: where one lies, by `__cuda_array_interface__` or by DLPack.

Source: the CUDA Array Interface, versions 2 and 3, in Numba's documentation.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
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


def describe(name: str, array: Any, device: str) -> ArrayReference:
    """Describe an array; that it lies on `device` is taken on trust.

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
                name, f"the __cuda_array_interface__ of {kind} cannot be read: {error!r}"
            ) from error
    elif dlpack.is_offered(array) and dlpack.device_of(name, array) != "cpu":
        reference = replace(
            dlpack.describe(name, array), device=device, ready=dlpack.Written(array)
        )
    else:
        raise AbiError(name, f"an array on {device}", _found(array))
    # Its interface names no stream, though one may still compute it.
    if dlpack.is_of_jax(array) and not dlpack.is_computed(array):
        reference = replace(reference, ready=dlpack.Written(array))
    return reference


def _describe(name: str, array: Any, interface: dict[str, Any], device: str) -> ArrayReference:
    if interface.get("mask") is not None:
        raise AbiError(name, "an array without a mask", "one with a mask")
    dlpack.require_own_sign(name, array)
    shape, strides = _integers(interface["shape"]), interface.get("strides")
    strides = _integers(strides) if strides is not None else None
    dtype, itemsize, native = _type(interface["typestr"])
    if not native:
        raise AbiError(name, "native byte order", interface["typestr"])
    # The interface has no name for bfloat16: most leave it at two bytes, older torch says float16.
    if dtype == "float16":
        own = getattr(array, "dtype", None)
        if not isinstance(own, np.dtype) and str(own) == "torch.bfloat16":
            dtype = "bfloat16"
    place, readonly = interface["data"]
    address, stream = operator.index(place or 0), interface.get("stream")
    if address < 0 or (shape and min(shape) < 0):
        raise AbiError(name, "memory", f"shape {shape} at address {address}")
    if stream is not None and (not isinstance(stream, int) or stream < 1):
        raise AbiError(
            name, "a stream from 1 on in its __cuda_array_interface__, or None", f"{stream!r:.80}"
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
