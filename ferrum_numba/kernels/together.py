"""Builds that are loaded together: compiling one takes a tenth of a second and more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..devices import Device
from .catalogue import Artefact

_THREADS = 8


def load_together(
    builds: Iterable[Artefact],
    device: Device,
    load: Callable[[Artefact], object] | None = None,
    *,
    wait: bool = True,
) -> None:
    """Load builds onto a device, side by side where it compiles so: eight at a time at most.

    load: what is done with each instead.  wait: until all are there, and their errors are raised;
    else the builds are loaded meanwhile, and whoever launches one waits for it, and hears its
    errors.
    """
    each = load or partial(_load, device)
    # The longest first: what is begun last should be short.
    longest = sorted(set(builds), key=lambda build: -len(build.text))
    threads = min(_THREADS, os.cpu_count() or 1) if device.compiles_side_by_side else 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="kernels")
    begun = [pool.submit(each, build) for build in longest]
    pool.shutdown(wait=False)
    if wait:
        for future in begun:
            future.result()


def _load(device: Device, build: Artefact) -> None:
    device.compile_ahead(build.text)
    build.kernel(device)
