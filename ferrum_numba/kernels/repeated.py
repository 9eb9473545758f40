"""Launches of shipped builds that differ in their arrays alone: marshalled once, then moved."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..devices import Device, PreparedLaunch
from .catalogue import Artefact, launch_config

_KEPT = 4096  # prepared launches of a thread; a model has about ten for each number of rows


class Launches:
    """Launches on one device; any number of threads may use it.

    An array that differs from the one before at the same place, and is alike, costs an address.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._own = threading.local()

    def __call__(
        self, build: Artefact, stream: Any, sizes: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        """Launch a build on `stream`.

        sizes: its integers and floats by name; arrays: its arrays, None for NULL.  Raises AbiError
        as `Kernel.launch` does, LaunchError where the device refuses.
        """
        known: dict[Any, PreparedLaunch] = self._own.__dict__.setdefault("known", {})
        given = tuple(name for name, array in arrays.items() if array is not None)
        key = (build, tuple(sizes.values()), given)
        call = known.get(key)
        if call is None:
            grid = {n: v for n, v in sizes.items() if type(v) is int and v > 0}
            config = launch_config(build.sidecar, **grid)
            if len(known) >= _KEPT:
                known.clear()
            call = known[key] = build.kernel(self.device).prepare(config, **sizes, **arrays)
        call.launch(stream, **{name: arrays[name] for name in given})


@cache
def launches_on(device: Device) -> Launches:
    """The launches of a device."""
    return Launches(device)
