"""A device that computes wrong results."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_numba.devices.cpu import CpuDevice


class FaultyCpu(CpuDevice):
    """A CPU device whose memory turns over bit 3 of every packed word."""

    def to_device(self, array: Any) -> Any:
        values = super().to_device(array)
        return values ^ np.int32(8) if values.dtype == np.int32 else values
