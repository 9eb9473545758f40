"""NumPy's dtypes by name, and those that only ml_dtypes has, such as bfloat16.

ml_dtypes takes 8 MB of a process; it is loaded where such a dtype is first asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def dtype_named(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """`np.dtype(dtype)`, for names of ml_dtypes, too.  Raises TypeError for what is none."""
    try:
        return np.dtype(dtype)
    except TypeError:
        if not isinstance(dtype, str):
            raise
    import ml_dtypes

    kind = getattr(ml_dtypes, dtype, None)
    return np.dtype(kind if isinstance(kind, type) and issubclass(kind, np.generic) else dtype)


def largest(dtype: np.dtype[Any]) -> float:
    """The largest finite number of a float dtype."""
    if dtype.isbuiltin == 1:
        return float(np.finfo(dtype).max)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).max)
