"""Small arrays that the host keeps up to date on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices import Device


def write(device: Device, there: Any, host: npt.NDArray[Any]) -> None:
    """Overwrite a device array with a NumPy array of its shape, after all that was launched."""
    device.synchronize()
    if isinstance(there, np.ndarray):
        np.copyto(there, host)
    else:
        there.copy_to_device(host)
