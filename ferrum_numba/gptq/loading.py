"""Layers of a checkpoint onto a device, several at a time: one is checked while another is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..devices import Device, given_or_open
from .checkpoint import PARTS, Checkpoint
from .linear import GptqLinear

_THREADS = 4  # one layer is checked while others are read and copied
_AHEAD = 8  # layers that the system is told of before they are read

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load_layers(
    path: str | Path | Checkpoint,
    names: Iterable[str] | None = None,
    *,
    device: Device | None = None,
    dtype: npt.DTypeLike = np.float16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, GptqLinear]:
    """The layers of a checkpoint by name, in the order asked; all of 4 bits where `names` is left
    out.

    progress: called with (layers loaded, layers in all), from one thread at a time.  Raises
    CheckpointError as `GptqLinear.load` does, for the first layer that cannot be loaded.
    """
    checkpoint = path if isinstance(path, Checkpoint) else Checkpoint.open(path)
    if names is None:
        names = (name for name, spec in checkpoint.layers.items() if spec.bits == 4)
    wanted, there = list(names), given_or_open(device)
    done, lock = 0, threading.Lock()

    def load(number: int) -> GptqLinear:
        nonlocal done
        name = wanted[number]
        announce(number + _AHEAD)
        layer = GptqLinear.load(checkpoint, name, device=there, dtype=dtype)
        with lock:
            done += 1
            progress(done, len(wanted))
        return layer

    def announce(number: int) -> None:
        for name in wanted[number : number + 1]:
            checkpoint.announce(f"{name}.{part}" for part in PARTS)

    for number in range(_AHEAD):
        announce(number)
    return dict(zip(wanted, at_a_time(load, range(len(wanted)), _THREADS), strict=True))


def at_a_time(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """The results in order, so many items at a time; after an error, or Ctrl-C, none is begun."""
    with ThreadPoolExecutor(threads, thread_name_prefix="loading") as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)
