"""The check "order": a second run, with the warps in reverse order, must leave the same bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arrays import LaunchArray
from .check import Check, Kind


class Order(Check):
    """Adds nothing to the code: CheckedProgram runs it twice."""

    kinds = (Kind("order", "order"),)


def sample(ctas: int) -> list[int]:
    """A sixteenth of the CTAs, but at least four, with the first and the last of all."""
    count = min(ctas, max(4, -(-ctas // 16)))
    return sorted({round(i * (ctas - 1) / max(count - 1, 1)) for i in range(count)})


def copies(arrays: Sequence[LaunchArray]) -> list[NDArray[np.uint8]]:
    """The bytes of arrays."""
    return [
        np.frombuffer(ctypes.string_at(array.address, array.nbytes), np.uint8).copy()
        for array in arrays
    ]


def restore(arrays: Sequence[LaunchArray], copies: Sequence[NDArray[np.uint8]]) -> None:
    for array, copy in zip(arrays, copies, strict=True):
        ctypes.memmove(array.address, copy.ctypes.data, array.nbytes)
