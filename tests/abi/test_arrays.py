"""Layouts of arrays, as far as a launch needs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ferrum_numba.devices.arrays import describe

BATCH = np.zeros((2, 6, 8), np.float16)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BATCH[0][:, 2:6], 8),
        (BATCH[0][::2], 16),
        (BATCH[:, :, 2:6], 8),
        (BATCH[:, :1, 2:6], 48),
        (BATCH[0][:, ::2], None),
        (BATCH[0][::-1, :4], None),
        (BATCH[:, :3], None),
        (BATCH[0].T, None),
        (np.broadcast_to(BATCH[0, 0], (3, 8)), 0),
    ],
)
def test_rows_that_lie_equally_far_apart(array: Any, expected: int | None) -> None:
    assert describe("x", array).row_stride == expected
