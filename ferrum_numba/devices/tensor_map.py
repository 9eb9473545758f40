"""Tensor maps that the host makes, for kernels that take one by value (`.align 64 .b8[128]`).

A kernel copies boxes of an array by its map (cp.async.bulk.tensor).  Triton's host descriptors are
such parameters, with the array's shape and strides behind them.
Source: CUDA Driver API reference, "Tensor Map Object Management"; PTX ISA, "Tensor-map".
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..abi import ArrayReference
from ..errors import AbiError
from ..pickling import NotPickled
from . import arrays, dlpack

NBYTES = 128
_MOST_DIMENSIONS, _LARGEST_BOX, _STEP = 5, 256, 16
# By dtype: the element's number in the driver's terms (CUtensorMapDataType), and in PTX's.
_ELEMENTS = {
    "uint8": (0, 0),
    "int8": (0, 0),
    "uint16": (1, 1),
    "int16": (1, 1),
    "uint32": (2, 2),
    "int32": (3, 3),
    "uint64": (4, 4),
    "int64": (5, 5),
    "float16": (6, 6),
    "float32": (7, 7),
    "float64": (8, 9),
    "bfloat16": (9, 10),
}
_SWIZZLES = {None: 0, 32: 1, 64: 2, 128: 3}
_PROMOTIONS = {None: 0, 64: 1, 128: 2, 256: 3}


class TensorMap(NotPickled):
    """The way in which boxes of an array are copied; pass it to a kernel's `.b8[128]` parameter.

        fe.TensorMap(x, (64, 64), swizzle=128)

    It is made for the device on which the array lies, and keeps the array alive.  Work that still
    writes the array has to be ordered before the launch, as on one stream.

    tensor_map_of: the array.
    """

    def __init__(
        self,
        array: Any,
        box: int | Sequence[int],
        *,
        swizzle: int | None = None,
        fill: str = "zeros",
        l2: int | None = None,
    ) -> None:
        """array: of 1 to 5 dimensions, elements of the last one next to each other, rows a
        multiple of 16 bytes apart.
        box: elements of each dimension, 1 to 256, its rows a multiple of 16 bytes.
        swizzle: bytes over which rows are swizzled in shared memory: 32, 64 or 128; None: not.
        fill: of what is outside of the array: "zeros" or "nan".
        l2: bytes that are promoted to the L2 cache: 64, 128 or 256; None: none.

        Raises AbiError for what no tensor map can describe.
        """
        self.tensor_map_of = array
        there = _describe(array)
        self.shape, self.dtype, self.device = there.shape, there.dtype, there.device
        self.box, self.swizzle, self.fill, self.l2 = _box(box, there), swizzle, fill, l2
        self.strides = _strides(there)
        _check(self, there)
        encode = _for_cpu if there.device == "cpu" else _for_gpu
        self._data = encode(self, there.address)

    def tobytes(self) -> bytes:
        """The 128 bytes that a kernel takes; on a GPU their form is the driver's own."""
        return self._data

    @property
    def facts(self) -> dict[str, Any]:
        """Fields: shape, strides in bytes, box, dtype, swizzle, fill, L2 promotion, device."""
        names = ("shape", "strides", "box", "dtype", "swizzle", "fill", "l2", "device")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        swizzle = f", swizzle {self.swizzle}" if self.swizzle else ""
        return (
            f"<TensorMap of {self.dtype} {list(self.shape)} on {self.device}, box "
            f"{list(self.box)}{swizzle}>"
        )


def _describe(array: Any) -> ArrayReference:
    on_gpu = arrays.interface_of(array) is not None
    if not on_gpu and not isinstance(array, np.ndarray) and dlpack.is_offered(array):
        on_gpu = dlpack.device_of("array", array) != "cpu"
    if not on_gpu:
        return arrays.describe("array", array)
    from .cuda import arrays as gpu_arrays
    from .cuda import driver

    found = gpu_arrays.describe("array", array, "cuda")
    return replace(found, device=f"cuda:{driver.device_of(found.address) or 0}")


def _box(box: int | Sequence[int], there: ArrayReference) -> tuple[int, ...]:
    given = (box,) if isinstance(box, (int, np.integer)) else tuple(box)
    try:
        found = tuple(map(operator.index, given))
    except TypeError:
        found = ()
    if len(found) != len(there.shape) or not all(1 <= n <= _LARGEST_BOX for n in found):
        raise AbiError(
            "box", f"{len(there.shape)} numbers from 1 to {_LARGEST_BOX}, one a dimension", given
        )
    return found


def _strides(there: ArrayReference) -> tuple[int, ...]:
    """Bytes from one element to the next of each dimension."""
    if there.strides is not None:
        return tuple(there.strides)
    found = [there.itemsize]
    for extent in reversed(there.shape[1:]):
        found.insert(0, found[0] * extent)
    return tuple(found)


def _check(this: TensorMap, there: ArrayReference) -> None:
    """Raise AbiError for what the hardware does not take."""
    row, itemsize = this.box[-1] * there.itemsize, there.itemsize
    if not 1 <= len(there.shape) <= _MOST_DIMENSIONS or 0 in there.shape:
        raise AbiError("array", "1 to 5 dimensions, none of them empty", list(there.shape))
    if there.dtype not in _ELEMENTS:
        raise AbiError("array", f"a dtype among {', '.join(_ELEMENTS)}", there.dtype)
    if this.strides[-1] != itemsize or any(s % _STEP or s < 0 for s in this.strides[:-1]):
        raise AbiError(
            "array",
            f"rows without gaps, which begin multiples of {_STEP} bytes apart",
            f"strides of {list(this.strides)} bytes",
            "copy it into rows that are padded",
        )
    if there.address % _STEP:
        raise AbiError("array", f"an address that {_STEP} divides", hex(there.address))
    for name, value, known in (
        ("swizzle", this.swizzle, _SWIZZLES),
        ("l2", this.l2, _PROMOTIONS),
        ("fill", this.fill, ("zeros", "nan")),
    ):
        if value not in known:
            raise AbiError(name, " or ".join(map(repr, known)), repr(value))
    if row % _STEP or (this.swizzle and row > this.swizzle):
        most = f", at most {this.swizzle} with this swizzle" if this.swizzle else ""
        raise AbiError(
            "box",
            f"rows of a multiple of {_STEP} bytes{most}",
            f"{this.box[-1]} x {itemsize} bytes",
        )
    if this.fill == "nan" and not there.dtype.startswith(("float", "bfloat")):
        raise AbiError("fill", f"'zeros' for {there.dtype}", "'nan'")


def _for_cpu(this: TensorMap, address: int) -> bytes:
    """The map as the CPU device's tensormap.replace writes it."""
    from ..emulator.runtime.tensors import FIELDS, MARK, MARK_AT

    if this.fill != "zeros":
        raise AbiError("fill", "'zeros' on the CPU device", f"{this.fill!r}")
    data = bytearray(NBYTES)

    def put(name: str, *values: int) -> None:
        first, bits, _ = FIELDS[name]
        for index, value in enumerate(values):
            at = first + index * bits // 8
            data[at : at + bits // 8] = value.to_bytes(bits // 8, "little")

    put("global_address", address)
    put("global_stride", *this.strides[-2::-1])
    put("global_dim", *this.shape[::-1])
    put("box_dim", *this.box[::-1])
    put("element_stride", *(1,) * len(this.box))
    put("rank", len(this.shape) - 1)
    put("elemtype", _ELEMENTS[this.dtype][1])
    put("swizzle_mode", _SWIZZLES[this.swizzle])
    data[MARK_AT : MARK_AT + 4] = MARK.to_bytes(4, "little")
    return bytes(data)


def read_fields(data: bytes) -> dict[str, Any] | None:
    """The fields of a map in the CPU device's form; None for other bytes, the driver's own too."""
    if len(data) != NBYTES:
        return None
    from ..emulator.runtime.tensors import FIELDS, MARK, MARK_AT

    if data[MARK_AT : MARK_AT + 4] != MARK.to_bytes(4, "little"):
        return None

    def get(name: str, count: int) -> list[int]:
        first, bits, _ = FIELDS[name]
        size = bits // 8
        starts = range(first, first + count * size, size)
        return [int.from_bytes(data[at : at + size], "little") for at in starts]

    rank = min(get("rank", 1)[0] + 1, _MOST_DIMENSIONS)
    (kind,), (swizzle,) = get("elemtype", 1), get("swizzle_mode", 1)
    kinds = {number: dtype for dtype, (_, number) in reversed(_ELEMENTS.items())}
    return {
        "address": get("global_address", 1)[0],
        "shape": get("global_dim", rank)[::-1],
        "strides": get("global_stride", rank - 1)[::-1],
        "box": get("box_dim", rank)[::-1],
        "dtype": kinds.get(kind, str(kind)),
        "swizzle": {number: nbytes for nbytes, number in _SWIZZLES.items()}.get(swizzle, swizzle),
    }


def _for_gpu(this: TensorMap, address: int) -> bytes:
    from .cuda import driver

    return driver.encode_tensor_map(
        _ELEMENTS[this.dtype][0],
        address,
        this.shape[::-1],
        this.strides[-2::-1],
        this.box[::-1],
        _SWIZZLES[this.swizzle],
        _PROMOTIONS[this.l2],
        this.fill == "nan",
    )
