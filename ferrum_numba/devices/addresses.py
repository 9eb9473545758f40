"""Tables of addresses: arrays that a kernel reaches through another array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from .device import Device


class AddressTable:
    """An int64 array of a device whose numbers are addresses in other arrays.

    array   what a launch is given
    arrays  by name, those that the addresses lead into; they live as long as the table, and the CPU
            device with checks lets launches that have `array` touch them
    """

    def __init__(
        self, device: Device, addresses: npt.NDArray[np.int64], arrays: Mapping[str, Any]
    ) -> None:
        self.array = device.to_device(np.ascontiguousarray(addresses, np.int64))
        self.arrays = dict(arrays)
        _tables[device.describe("addresses", self.array).address] = self


_tables: WeakValueDictionary[int, AddressTable] = WeakValueDictionary()


def reached_from(address: int) -> Mapping[str, Any]:
    """The arrays behind the table at an address; none where there is no table."""
    table = _tables.get(address)
    return {} if table is None else table.arrays
