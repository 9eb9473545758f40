"""Plausible values of parameters: a fault that no rule forbids still looks wrong.

Nothing here is certain.  CUDA hands out addresses above 4 GiB and below 2**57, by cuMemAlloc mostly
at 0x7fXX_XXXX_XXXX, by virtual memory management from a few times 4 GiB on; sizes and strides of
kernels are small beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...abi.arrays import POINTEE_DTYPES, ArrayReference
from ...abi.block import Raw
from ...abi.signature import SCRATCH_ROLES, Parameter
from .notation import dtype_nbytes

_LOWEST, _HIGHEST = 1 << 32, 1 << 57
_SMALL = 1 << 20  # sizes and strides are mostly below, the low words of addresses mostly above
_LARGEST_SIZE = 1 << 28
_HOST_LIKE = range(0x5500, 0x8000)  # upper words of addresses in a process on Linux


def is_address(value: int) -> bool:
    """True if a pointer may well have this value; two small integers in its place do not pass."""
    high, low = divmod(value, 1 << 32)
    in_range = _LOWEST <= value < _HIGHEST
    return in_range and (high in _HOST_LIKE or not 0 < low < _SMALL)


def is_split_address(low: int, high: int) -> bool:
    """True if two 32-bit words are the halves of an address, which two integers hardly look like.

    low, high: as unsigned.
    """
    return high in _HOST_LIKE and low >= _SMALL


def is_two_integers(value: int) -> bool:
    """True if an 8-byte value is rather two small integers side by side."""
    high, low = divmod(value, 1 << 32)
    return 0 < low < _SMALL and 0 < high < _SMALL and high not in _HOST_LIKE


def is_float_bits(value: int) -> bool:
    """True if a 32-bit integer is rather a float of ordinary size, with few digits."""
    bits = value & 0xFFFF_FFFF
    exponent = bits >> 23 & 0xFF
    return 127 - 20 <= exponent <= 127 + 20 and bits & 0xFFF == 0 and bits >> 23 != 0


def alignment(parameter: Parameter) -> int:
    """Bytes to which the kernel's own accesses need an address aligned: those of an element."""
    dtype = POINTEE_DTYPES.get(parameter.c_type or "")
    return dtype_nbytes(dtype) if dtype else 1


def is_plausible(
    parameter: Parameter, value: Raw, arrays: Mapping[str, ArrayReference] | None = None
) -> bool:
    """True if a parameter may well have this value; arrays: those that addresses point into."""
    if isinstance(value, bytes):
        return True
    if isinstance(value, float):
        return value == 0 or (math.isfinite(value) and 1e-20 < abs(value) < 1e20)
    if parameter.role in SCRATCH_ROLES:
        return value == 0 or is_address(value)
    if parameter.is_pointer:
        if value == 0 and parameter.role == "argument":  # scratch, where no sidecar says so
            return True
        aligned = value % alignment(parameter) == 0
        if arrays:
            own = [arrays[parameter.name]] if parameter.name in arrays else arrays.values()
            return aligned and any(
                array.address <= value < array.address + max(array.available, 1) for array in own
            )
        return aligned and is_address(value)
    if parameter.role == "size":
        return 0 < value < _LARGEST_SIZE
    if parameter.size == 8:  # an address or an integer: nobody says
        return abs(value) < _LOWEST or is_address(value)
    return abs(value) < _LARGEST_SIZE
