"""Tensor maps that the host makes, for kernels that take one by value (`.align 64 .b8[128]`).

A kernel copies boxes of an array by its map (cp.async.bulk.tensor).  Triton's host descriptors are
such parameters, with the array's shape and strides behind them.
Source: CUDA Driver API reference, "Tensor Map Object Management"; PTX ISA, "Tensor-map".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ctypes import c_uint8, c_uint64
from dataclasses import replace
from typing import Any

import numpy as np

from ..abi import ArrayReference, MapForm, Sidecar
from ..abi.arrays import mapped
from ..abi.map_form import ELEMENTS, MOST_DIMENSIONS, PROMOTIONS, STEP, SWIZZLES
from ..abi.signature import MAP_NBYTES
from ..errors import AbiError
from ..pickling import NotPickled
from . import arrays, dlpack

_KNOWN = 64  # maps of an array in one place that are remembered


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
        self.device = there.device
        self._form = MapForm(
            dtype=there.dtype,
            itemsize=there.itemsize,
            shape=there.shape,
            strides=_strides(there),
            box=_box(box, there),
            swizzle=swizzle,
            l2=l2,
            fill=fill,
        )
        self._data = encode(there.device, self._form, there.address)

    def tobytes(self) -> bytes:
        """The 128 bytes that a kernel takes; on a GPU their form is the driver's own."""
        return self._data

    @property
    def facts(self) -> dict[str, Any]:
        """Fields: shape, strides in bytes, box, dtype, swizzle, fill, L2 promotion, device."""
        names = ("shape", "strides", "box", "dtype", "swizzle", "fill", "l2")
        return {name: getattr(self._form, name) for name in names} | {"device": self.device}

    def __repr__(self) -> str:
        form = self._form
        swizzle = f", swizzle {form.swizzle}" if form.swizzle else ""
        return (
            f"<TensorMap of {form.dtype} {list(form.shape)} on {self.device}, box "
            f"{list(form.box)}{swizzle}>"
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
        return tuple(map(operator.index, given))
    except TypeError:
        told = f"{len(there.shape)} numbers, one a dimension"
        raise AbiError("box", told, given) from None


def _strides(there: ArrayReference) -> tuple[int, ...]:
    """Bytes from one element to the next of each dimension."""
    if there.strides is not None:
        return tuple(there.strides)
    found = [there.itemsize]
    for extent in reversed(there.shape[1:]):
        found.insert(0, found[0] * extent)
    return tuple(found)


def encode(device: str, form: MapForm, address: int) -> bytes:
    """The bytes of an array's map for a device, by its name.  Raises AbiError."""
    if address % STEP:
        raise AbiError("array", f"an address that {STEP} divides", hex(address))
    return encoder(device, form)(address)


def encoder(device: str, form: MapForm) -> Callable[[int], bytes]:
    """Makes the maps of arrays of one form, which lie at addresses that 16 divides."""
    return _for_cpu(form) if device == "cpu" else _for_gpu(form)


def maps_of(
    sidecar: Sidecar, arrays: Mapping[str, ArrayReference], sizes: Mapping[str, int]
) -> dict[str, bytes]:
    """The maps that a sidecar asks for, in the CPU device's form; zeros where there can be none.

    sizes: the integers that the sidecar's rules read.
    """
    declarations, maps = {p.name: p for p in sidecar.params}, {}
    for name, declaration in declarations.items():
        if declaration.map is not None:
            maps[name] = bytes(MAP_NBYTES)
            with suppress(AbiError):
                found = mapped(declaration.map, declarations, arrays, sizes)
                if found is not None:
                    maps[name] = encode("cpu", found.form, arrays[found.of].address)
    return maps


class MappedPointer:
    """The field of an array's pointer in a block, with the tensor maps there that follow it."""

    def __init__(self, pointer: c_uint64, device: str, maps: Sequence[tuple[MapForm, int]]) -> None:
        """maps: of each its form, and where it lies."""
        self._pointer, self._device, self._maps = pointer, device, maps
        self._encoders: list[tuple[memoryview, Callable[[int], bytes]]] = []  # once it has moved
        self._known: dict[int, list[tuple[memoryview, bytes]]] = {}  # by address

    @property
    def value(self) -> int:
        """The address of the array."""
        return self._pointer.value

    @value.setter
    def value(self, address: int) -> None:
        if address == self._pointer.value:
            return
        for place, data in self._known.get(address) or self._make(address):
            place[:] = data
        self._pointer.value = address

    def _make(self, address: int) -> list[tuple[memoryview, bytes]]:
        if not self._encoders:
            memory = c_uint8 * MAP_NBYTES
            self._encoders = [
                (memoryview(memory.from_address(place)).cast("B"), encoder(self._device, form))
                for form, place in self._maps
            ]
        if len(self._known) >= _KNOWN:
            self._known.clear()
        made = self._known[address] = [(place, make(address)) for place, make in self._encoders]
        return made


Pointer = c_uint64 | MappedPointer


def _for_cpu(form: MapForm) -> Callable[[int], bytes]:
    """Makes maps as the CPU device's tensormap.replace writes them."""
    from ..emulator.runtime.tensors import FIELDS, MARK, MARK_AT

    if form.fill != "zeros":
        raise AbiError("fill", "'zeros' on the CPU device", f"{form.fill!r}")
    data = bytearray(MAP_NBYTES)

    def put(name: str, *values: int) -> None:
        first, bits, _ = FIELDS[name]
        for index, value in enumerate(values):
            at = first + index * bits // 8
            data[at : at + bits // 8] = value.to_bytes(bits // 8, "little")

    put("global_stride", *form.strides[-2::-1])
    put("global_dim", *form.shape[::-1])
    put("box_dim", *form.box[::-1])
    put("element_stride", *(1,) * len(form.box))
    put("rank", len(form.shape) - 1)
    put("elemtype", ELEMENTS[form.dtype][1])
    put("swizzle_mode", SWIZZLES.index(form.swizzle))
    data[MARK_AT : MARK_AT + 4] = MARK.to_bytes(4, "little")

    def make(address: int) -> bytes:
        put("global_address", address)
        return bytes(data)

    return make


def read_fields(data: bytes) -> dict[str, Any] | None:
    """The fields of a map in the CPU device's form; None for other bytes, the driver's own too."""
    if len(data) != MAP_NBYTES:
        return None
    from ..emulator.runtime.tensors import FIELDS, MARK, MARK_AT

    if data[MARK_AT : MARK_AT + 4] != MARK.to_bytes(4, "little"):
        return None

    def get(name: str, count: int) -> list[int]:
        first, bits, _ = FIELDS[name]
        size = bits // 8
        starts = range(first, first + count * size, size)
        return [int.from_bytes(data[at : at + size], "little") for at in starts]

    rank = min(get("rank", 1)[0] + 1, MOST_DIMENSIONS)
    (kind,), (swizzle,) = get("elemtype", 1), get("swizzle_mode", 1)
    kinds = {number: dtype for dtype, (_, number) in reversed(ELEMENTS.items())}
    return {
        "address": get("global_address", 1)[0],
        "shape": get("global_dim", rank)[::-1],
        "strides": get("global_stride", rank - 1)[::-1],
        "box": get("box_dim", rank)[::-1],
        "dtype": kinds.get(kind, str(kind)),
        "swizzle": SWIZZLES[swizzle] if swizzle < len(SWIZZLES) else swizzle,
    }


def _for_gpu(form: MapForm) -> Callable[[int], bytes]:
    from .cuda import driver

    return driver.tensor_map_encoder(
        ELEMENTS[form.dtype][0],
        form.shape[::-1],
        form.strides[-2::-1],
        form.box[::-1],
        SWIZZLES.index(form.swizzle),
        PROMOTIONS.index(form.l2),
        form.fill == "nan",
    )
