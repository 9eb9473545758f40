"""Arrays of any library in host memory: NumPy's own, and DLPack's as views of theirs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ArrayReference
from ..errors import AbiError
from . import dlpack
from .dlpack import extent


def check_like(host: NDArray[Any], there: ArrayReference) -> None:
    """Raise AbiError where a NumPy array does not have shape and dtype of a device's array."""
    found = (tuple(host.shape), host.dtype.name)
    if found != (tuple(there.shape), there.dtype) or not there.contiguous:
        raise AbiError(
            "host",
            f"{there.dtype} {list(there.shape)}, as the device's contiguous array has it",
            f"{host.dtype.name} {list(host.shape)}",
            "convert it",
        )


def describe(name: str, array: object) -> ArrayReference:
    """Describe an array.  Raises AbiError for what is no array of numbers in host memory."""
    if not isinstance(array, np.ndarray):
        return _describe_foreign(name, array)
    _require_numbers(name, array)
    if not array.dtype.isnative:
        raise AbiError(name, "native byte order", array.dtype.str)
    return ArrayReference(
        address=array.ctypes.data,
        shape=array.shape,
        strides=array.strides,
        dtype=array.dtype.name,
        itemsize=array.itemsize,
        available=extent(array.shape, array.strides, array.itemsize),
        device="cpu",
        readonly=not array.flags.writeable,
    )


def view(name: str, array: Any) -> NDArray[Any]:
    """`array` as NumPy's, over the same memory.  Raises AbiError as `describe` does."""
    if isinstance(array, np.ndarray):
        _require_numbers(name, array)
        return array
    return dlpack.host_view(array, _describe_foreign(name, array))


def _require_numbers(name: str, array: NDArray[Any]) -> None:
    if array.dtype.hasobject or array.dtype.kind in "SUMm":  # text, dates
        raise AbiError(name, "an array of numbers", f"dtype {array.dtype}")
    if is_masked(type(array)):
        raise AbiError(
            name, "an array without a mask", "a masked one", "fill it first (array.filled(0))"
        )


def is_masked(kind: type) -> bool:
    """True for a type of masked arrays; numpy.ma, which takes 2 MB, is not loaded for this."""
    # None is masked where nobody has loaded it, or another thread is just loading it.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    return masked is not None and issubclass(kind, masked)


def _describe_foreign(name: str, array: Any) -> ArrayReference:
    """Describe an array of another library, which has to lie in host memory."""
    found = type(array).__name__
    offered = dlpack.is_offered(array)
    on_gpu = interface_of(array) is not None
    if offered:
        on_gpu = dlpack.device_of(name, array) != "cpu"
    if on_gpu:
        raise AbiError(
            name,
            "a NumPy array on the CPU device",
            f"a GPU array ({found})",
            "copy it with to_host() of its own device",
        )
    if not offered:
        raise AbiError(name, "a NumPy array", found)
    return dlpack.describe(name, array)


def interface_of(array: object) -> dict[str, Any] | None:
    """The interface, where the array has one and its library gives it."""
    try:
        return getattr(array, "__cuda_array_interface__", None)
    except Exception:  # such as torch's for a tensor that requires grad; DLPack says why
        return None
