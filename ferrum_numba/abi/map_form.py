"""The form of a tensor map: all that a map says of an array, but where it lies.

Source: CUDA Driver API reference, "Tensor Map Object Management".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import AbiError

STEP = 16  # bytes, of which addresses, strides and a box's rows are multiples
SWIZZLES = (None, 32, 64, 128)  # bytes; in the order of their numbers, PTX's and the driver's
PROMOTIONS = (None, 64, 128, 256)  # bytes; in the order of the driver's numbers
# By dtype: the element's number in the driver's terms (CUtensorMapDataType), and in PTX's.
ELEMENTS = {
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
MOST_DIMENSIONS = 5
_LARGEST_BOX, _MOST_ELEMENTS, _LARGEST_STRIDE = 256, 1 << 32, 1 << 40


@dataclass(frozen=True)
class MapForm:
    """An array as the hardware is told of it.  Raises AbiError for what it does not take.

    shape, box: elements of each dimension.  strides: bytes from one element to the next of each.
    swizzle, l2, fill: see `TensorMap`.
    """

    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int | None = None
    l2: int | None = None
    fill: str = "zeros"

    def __post_init__(self) -> None:
        rank, itemsize = len(self.shape), self.itemsize
        if len(self.box) != rank or not all(1 <= n <= _LARGEST_BOX for n in self.box):
            told = f"{rank} numbers from 1 to {_LARGEST_BOX}, one a dimension"
            raise AbiError("box", told, self.box)
        if not 1 <= rank <= MOST_DIMENSIONS or not all(
            1 <= n <= _MOST_ELEMENTS for n in self.shape
        ):
            told = "1 to 5 dimensions, none of them empty, nor longer than 2**32"
            raise AbiError("array", told, list(self.shape))
        if self.dtype not in ELEMENTS:
            raise AbiError("array", f"a dtype among {', '.join(ELEMENTS)}", self.dtype)
        outer = self.strides[:-1]
        if self.strides[-1] != itemsize or any(
            s % STEP or not 0 <= s < _LARGEST_STRIDE for s in outer
        ):
            raise AbiError(
                "array",
                f"rows without gaps, which begin multiples of {STEP} bytes apart",
                f"strides of {list(self.strides)} bytes",
                "copy it into rows that are padded",
            )
        for name, value, known in (
            ("swizzle", self.swizzle, SWIZZLES),
            ("l2", self.l2, PROMOTIONS),
            ("fill", self.fill, ("zeros", "nan")),
        ):
            if value not in known:
                raise AbiError(name, " or ".join(map(repr, known)), repr(value))
        row = self.box[-1] * itemsize
        if row % STEP or (self.swizzle and row > self.swizzle):
            most = f", at most {self.swizzle} with this swizzle" if self.swizzle else ""
            told = f"rows of a multiple of {STEP} bytes{most}"
            raise AbiError("box", told, f"{self.box[-1]} x {itemsize} bytes")
        if self.fill == "nan" and not self.dtype.startswith(("float", "bfloat")):
            raise AbiError("fill", f"'zeros' for {self.dtype}", "'nan'")
