"""Arrays as people write them: `float16[1, 4096]@0x7f2a40000000`, dtype, shape and address."""

from __future__ import annotations

import re
from math import prod

from ...abi.arrays import POINTEE_DTYPES, ArrayReference
from ...errors import AbiError

_ARRAY = re.compile(
    r"(?P<dtype>\w+)\s*\[(?P<shape>[\d\s,]*)\]\s*(?:@\s*(?P<address>0[xX][0-9a-fA-F]+|\d+))?"
)


def dtype_nbytes(dtype: str) -> int:
    """Bytes of an element of a dtype that kernels point to.  Raises AbiError for another."""
    if dtype not in POINTEE_DTYPES.values():
        known = ", ".join(POINTEE_DTYPES.values())
        raise AbiError("dtype", f"one of {known}", f"{dtype!r}")
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def is_array(text: str) -> bool:
    """True if text looks like an array, right or wrong, and not like a number."""
    return "[" in text


def read_array(name: str, text: str, free: int) -> ArrayReference:
    """The array that text describes, in C order; at address `free` where it names none.

    Raises AbiError, which names the parameter, for text that describes no array.
    """
    match = _ARRAY.fullmatch(text.strip())
    if match is None:
        raise AbiError(
            name,
            "an array such as float16[4, 4096]@0x7f0000000000 (the address may be left out)",
            f"{text!r}",
        )
    try:
        itemsize = dtype_nbytes(match["dtype"])
    except AbiError as error:
        raise AbiError(error.field, error.expected, error.found, error.remedy, where=name) from None
    shape = tuple(int(extent) for extent in match["shape"].split(",") if extent.strip())
    return ArrayReference(
        address=int(match["address"], 0) if match["address"] else free,
        shape=shape,
        strides=None,
        dtype=match["dtype"],
        itemsize=itemsize,
        available=prod(shape) * itemsize,
        device="",
    )


def show_array(array: ArrayReference) -> str:
    """dtype and shape, and the strides (bytes) where the elements do not lie in C order."""
    text = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
    return text if array.contiguous else f"{text} strides {array.strides} bytes"
