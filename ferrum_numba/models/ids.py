"""Token ids and numbers as callers give them, checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AbiError

Ids = npt.NDArray[np.int32]


def checked_ids(name: str, ids: Any, vocab: int, dimensions: Sequence[int] = (1,)) -> Ids:
    """`ids` as int32 in C order.  Raises AbiError that begins with `name`.

    dimensions: how many the array may have.
    """
    array = np.asarray(ids)
    expected = " or ".join(f"{d}-dimensional" for d in dimensions)
    if array.size == 0:
        raise AbiError(name, "at least one token", "none", "begin with the bos token")
    if array.ndim not in dimensions or array.dtype.kind not in "iu":
        found = f"{array.dtype.name} {list(array.shape)}"
        remedy = "encode text with Tokenizer.encode"
        raise AbiError(name, f"a {expected} array of integers", found, remedy)
    wrong = array[(array < 0) | (array >= vocab)]
    if wrong.size:
        expected = f"ids from 0 to {vocab - 1}, the model's vocabulary"
        raise AbiError(name, expected, int(wrong.flat[0]), "take the model's own tokenizer")
    return np.ascontiguousarray(array, np.int32)


def integer(value: object) -> int | None:
    """The integer that `value` is, or None."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
