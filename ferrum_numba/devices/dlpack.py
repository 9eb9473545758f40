"""Arrays of other libraries through DLPack: where one lies, read with ctypes, nothing copied.

Sources: dlpack.h of DLPack 1.0; `__dlpack__` and `__dlpack_device__` of the Python array API.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ArrayReference
from ..dtypes import dtype_named
from ..errors import AbiError

_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_MAJOR = 1  # DLPACK_MAJOR_VERSION
_READ_ONLY, _COPIED = 1, 2  # DLPACK_FLAG_BITMASK_READ_ONLY, DLPACK_FLAG_BITMASK_IS_COPIED
_NO_ORDERING, _LEGACY_DEFAULT = -1, 1  # streams as DLPack names them
# DLDataTypeCode -> how NumPy and ml_dtypes name such a type of a number of bits.
_NAMES = {0: "int{}", 1: "uint{}", 2: "float{}", 4: "bfloat{}", 5: "complex{}", 6: "bool"} | dict(
    enumerate(
        (
            "float8_e3m4",
            "float8_e4m3",
            "float8_e4m3b11fnuz",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        ),
        start=7,
    )
)


class _Tensor(ctypes.Structure):
    """DLTensor; strides are in elements, NULL for C order."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("type_code", c_uint8),
        ("type_bits", c_uint8),
        ("type_lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _VersionedTensor(ctypes.Structure):
    """DLManagedTensorVersioned.  The older DLManagedTensor begins with the tensor itself."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes, _pointer_of.restype = (ctypes.py_object, c_char_p), c_void_p
_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.argtypes, _name_of.restype = (ctypes.py_object,), c_char_p


def is_offered(array: object) -> bool:
    """True if `array` speaks the protocol at all."""
    return hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__")


def is_of_jax(array: object) -> bool:
    """True for an array of JAX: never to be written, which its DLPack does not say."""
    return hasattr(array, "block_until_ready")


def is_computed(array: Any) -> bool:
    """True if an array of JAX is known to be computed."""
    is_ready = getattr(array, "is_ready", None)
    return is_ready is not None and bool(is_ready())


def device_of(name: str, array: Any) -> str:
    """The device of a DLPack array: "cpu", "cuda:<ordinal>", or DLPack's number of another one.

    Raises AbiError for one that does not say.
    """
    try:
        kind, ordinal = array.__dlpack_device__()
    except Exception as error:  # such as torch's for a tensor without memory
        raise AbiError(
            name, f"{type(array).__name__} does not say where it lies: {error}"
        ) from error
    if kind in (_CPU, _CUDA_HOST):
        return "cpu"
    return f"cuda:{ordinal}" if kind in (_CUDA, _CUDA_MANAGED) else f"DLPack device {int(kind)}"


def require_own_sign(name: str, array: object) -> None:
    """Raise AbiError for a tensor of torch that is the negative of what lies in its memory, such as
    the imaginary part of a conjugate.
    """
    is_neg = getattr(array, "is_neg", None)
    if is_neg is not None and is_neg():
        raise AbiError(
            name,
            "numbers as they lie in memory",
            "a tensor of torch that is negated where it is read",
            "pass its resolve_neg()",
        )


def describe(name: str, array: Any) -> ArrayReference:
    """Describe the elements of a DLPack array.  The array itself keeps them alive.

    Nothing is waited for: see `Written`.  Raises AbiError for an array that cannot be exported, or
    only as a copy, and for elements that are no whole bytes.
    """
    require_own_sign(name, array)
    try:
        capsule = _export(name, array, _NO_ORDERING)
    except AbiError:  # JAX takes it for a stream that it does not know
        capsule = _export(name, array, _LEGACY_DEFAULT)
    tensor, flags = _opened(name, array, capsule)
    if flags & _COPIED:
        raise AbiError(name, f"{type(array).__name__} gives DLPack a copy of itself only")
    readonly = bool(flags & _READ_ONLY) or is_of_jax(array)
    return _reference(name, tensor, device_of(name, array), readonly)


def _opened(name: str, array: object, capsule: object) -> tuple[_Tensor, int]:
    """The tensor in a capsule, and its flags.  Raises AbiError for what is no such capsule."""
    try:
        kind = _name_of(capsule)
        address = _pointer_of(capsule, kind)
    except ValueError:
        kind = None
    if kind == b"dltensor":
        return _Tensor.from_address(address), 0
    if kind == b"dltensor_versioned":
        versioned = _VersionedTensor.from_address(address)
        if versioned.major == _MAJOR:
            return versioned.tensor, versioned.flags
    raise AbiError(
        name,
        (
            f"a DLPack capsule of version {_MAJOR}.x or older, that nobody has taken a "
            f"tensor out of, from {type(array).__name__}"
        ),
        f"{capsule!r:.80}",
    )


class _Exchange(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.3: functions of C for arrays of a type of a library."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("previous", c_void_p),
        ("allocate", c_void_p),
        ("export", c_void_p),
        ("adopt", c_void_p),
        ("borrow", c_void_p),  # fills a DLTensor that the caller has; -1 with a Python error set
        ("stream", c_void_p),
    )


class Likeness:
    """A tensor's device, type, shape and strides as its library's C function fills them in.

    function: the address of that, which is int(PyObject *, DLTensor *).  place: of 64-bit words, as
    a DLTensor has them: device; dimensions and type; extents; strides.
    """

    def __init__(self, function: int, tensor: _Tensor) -> None:
        self.function = function
        head = (c_uint64 * 3).from_buffer_copy(tensor)
        extents, strides = tensor.shape[: tensor.ndim], tensor.strides[: tensor.ndim]
        self._words = (c_int64 * (2 + 2 * tensor.ndim))(*head[1:], *extents, *strides)
        self.place = ctypes.addressof(self._words)

    @classmethod
    def of(cls, array: object) -> Likeness | None:
        """Likeness of an array; None where its library has no such function for it."""
        capsule = getattr(type(array), "__dlpack_c_exchange_api__", None)
        if capsule is None:
            return None
        table = _Exchange.from_address(_pointer_of(capsule, b"dlpack_exchange_api"))
        if table.major != _MAJOR or not table.borrow:
            return None
        tensor = _Tensor()
        fill = ctypes.PYFUNCTYPE(c_int32, ctypes.py_object, c_void_p)(table.borrow)
        try:
            if fill(array, ctypes.addressof(tensor)) or not tensor.strides:
                return None
        except Exception:  # each library has its own type for what it cannot export
            return None
        return cls(table.borrow, tensor)


@dataclass(frozen=True, eq=False)
class Written:
    """Lets a CUDA stream go on only once `array`'s library has written the array."""

    array: Any

    def __call__(self, stream: int) -> None:
        # A capsule that nobody takes the tensor out of frees it again; what stays is the order.
        _export("array", self.array, stream or _LEGACY_DEFAULT)


def host_view(array: Any, reference: ArrayReference) -> NDArray[Any]:
    """A DLPack array in host memory as a NumPy array over the same memory."""
    dtype = dtype_named(reference.dtype)
    opaque = dtype.kind == "V"  # of ml_dtypes: the array interface has no name for it
    memory = _Memory(array, reference, f"|V{dtype.itemsize}" if opaque else dtype.str)
    return np.asarray(memory).view(dtype)


class _Memory:
    """Keeps `owner` alive for as long as a NumPy array uses its memory."""

    def __init__(self, owner: object, reference: ArrayReference, typestr: str) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "shape": reference.shape,
            "strides": reference.strides,
            "typestr": typestr,
            "data": (reference.address, reference.readonly),
        }


def _export(name: str, array: Any, stream: int) -> object:
    try:
        on_host = array.__dlpack_device__()[0] == _CPU
        streams = {} if on_host else {"stream": stream}
        try:
            return array.__dlpack__(**streams, max_version=(1, 0))
        except TypeError:  # a producer from before DLPack 1.0
            return array.__dlpack__(**streams)
    except Exception as error:  # each library has its own type for what it cannot export
        raise AbiError(
            name, f"{type(array).__name__} does not give its memory through DLPack: {error}"
        ) from error


def _reference(name: str, tensor: _Tensor, device: str, readonly: bool) -> ArrayReference:
    shape = tuple(tensor.shape[: tensor.ndim])
    itemsize = tensor.type_bits // 8
    if tensor.type_code not in _NAMES or tensor.type_lanes != 1 or tensor.type_bits % 8:
        raise AbiError(
            name,
            "elements of whole bytes",
            (
                f"DLPack type code {tensor.type_code} of {tensor.type_bits} bits in "
                f"{tensor.type_lanes} lanes"
            ),
        )
    strides = None
    if tensor.strides:
        strides = tuple(step * itemsize for step in tensor.strides[: tensor.ndim])
    return ArrayReference(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=strides,
        dtype=_NAMES[tensor.type_code].format(tensor.type_bits),
        itemsize=itemsize,
        available=extent(shape, strides, itemsize),
        device=device,
        readonly=readonly,
    )


def extent(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> int:
    """Bytes from the first element's address to the end of the furthest one.  Strides in bytes."""
    if 0 in shape:
        return 0
    if strides is None:
        return math.prod(shape) * itemsize
    return itemsize + sum(max((n - 1) * s, 0) for n, s in zip(shape, strides, strict=True))
