"""Token ids as callers give them, checked."""

from __future__ import annotations

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
        raise AbiError(f"{name}: expected at least one token, found none; begin with the bos token")
    if array.ndim not in dimensions or array.dtype.kind not in "iu":
        raise AbiError(
            f"{name}: expected a {expected} array of integers, found {array.dtype.name} "
            f"{list(array.shape)}; encode text with Tokenizer.encode"
        )
    wrong = array[(array < 0) | (array >= vocab)]
    if wrong.size:
        raise AbiError(
            f"{name}: expected ids from 0 to {vocab - 1}, the model's vocabulary, found "
            f"{int(wrong.flat[0])}; take the model's own tokenizer"
        )
    return np.ascontiguousarray(array, np.int32)
