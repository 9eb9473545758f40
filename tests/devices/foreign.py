"""Arrays that are not NumPy's: of real libraries, and stand-ins that have one protocol only."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import ml_dtypes
import numpy as np
import pytest

LIBRARIES = ["torch", "cupy", "jax"]


class DlpackOnly:
    """A NumPy array that shows nothing but DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class OldDlpack(DlpackOnly):
    """A producer from before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> Any:
        return self._array.__dlpack__()


class Capsule:
    """A DLPack producer spelt out field by field, without strides."""

    class _Versioned(ctypes.Structure):
        _fields_ = (
            ("version", ctypes.c_uint32 * 2),
            ("manager_ctx", ctypes.c_void_p),
            ("deleter", ctypes.c_void_p),
            ("flags", ctypes.c_uint64),
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int32 * 2),
            ("ndim", ctypes.c_int32),
            ("code", ctypes.c_uint8),
            ("bits", ctypes.c_uint8),
            ("lanes", ctypes.c_uint16),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.c_void_p),
            ("byte_offset", ctypes.c_uint64),
        )

    def __init__(
        self,
        memory: np.ndarray,
        code: int,
        bits: int,
        *,
        lanes: int = 1,
        flags: int = 0,
        device: tuple[int, int] = (1, 0),
        byte_offset: int = 0,
        major: int = 1,
    ) -> None:
        """memory: its shape is the tensor's; byte_offset is taken off the address again."""
        self.shape = memory.shape
        self._memory, self._device = memory, device
        self._extents = (ctypes.c_int64 * memory.ndim)(*memory.shape)
        self._tensor = self._Versioned(
            (major, 0), None, None, flags, memory.ctypes.data - byte_offset, device, memory.ndim,
            code, bits, lanes, self._extents, None, byte_offset,
        )  # fmt: skip
        self._new = ctypes.pythonapi.PyCapsule_New
        self._new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self._new.restype = ctypes.py_object

    def __dlpack__(self, *, max_version: tuple[int, int], stream: int | None = None) -> Any:
        return self._new(ctypes.addressof(self._tensor), b"dltensor_versioned", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def on_gpu(library: str, array: np.ndarray) -> Any:
    """A copy of `array` as the library's own array on its current GPU.  Skips where it is not."""
    if library == "torch":
        torch = pytest.importorskip("torch")
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(array).cuda()
    if library == "cupy":
        return pytest.importorskip("cupy").asarray(array)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is not JAX's alone
    jax = pytest.importorskip("jax")
    return jax.device_put(array, jax.devices("gpu")[0])


def to_numpy(array: Any) -> np.ndarray:
    """An array of `on_gpu` or of numba as NumPy's."""
    if type(array).__module__.startswith("torch"):
        array = array.cpu()
        if str(array.dtype) == "torch.bfloat16":  # not one of NumPy's
            return array.view(pytest.importorskip("torch").int16).numpy().view(ml_dtypes.bfloat16)
        return array.numpy()
    for copy in ("get", "copy_to_host"):  # CuPy, numba
        if hasattr(array, copy):
            return getattr(array, copy)()
    return np.asarray(array)
