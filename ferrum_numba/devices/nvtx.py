"""NVTX ranges around launches, plans and layers, for profilers such as Nsight Systems.

Off they cost nothing; on, every launch goes the way that observers see.  Recording and ranges do
not go together.
Source: NVTX reference, "nvtxRangePushA", "nvtxRangePop".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ..errors import DeviceError
from . import nvidia_packages, observer
from .invocation import Invocation, Launchable
from .observer import Markable, RefusedLaunch, Repeated

VARIABLE = "FERRUM_NVTX"
_NAMES = ("libnvToolsExt.so.1", "libnvtx3interop.so.1", "nvToolsExt64_1.dll")


class Ranges:
    """An observer that marks what it sees."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.nvtxRangePushA.argtypes = (ctypes.c_char_p,)
        self._push: Callable[[bytes], int] = library.nvtxRangePushA
        self._pop: Callable[[], int] = library.nvtxRangePop

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._push(name.encode())
        try:
            yield
        finally:
            self._pop()

    def launch(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        x, y, z = invocation.config.grid
        with self.span(f"{kernel.signature.entry} {x}x{y}x{z}"):
            kernel._enqueue(invocation, stream)

    def admits(self, launch: Repeated, record: Markable, graph: bool) -> bool:
        return False

    def failed(self, number: int, error: Exception) -> None:
        """Do nothing: the error says it."""

    def refused(self, launch: RefusedLaunch) -> None:
        """Do nothing: there was no launch."""


@contextmanager
def nvtx_ranges() -> Iterator[None]:
    """A block in which launches, plans and layers of this process are NVTX ranges.

    $FERRUM_NVTX=1 has them from the start.  Raises DeviceError where no NVTX library is installed,
    and while launches are recorded.
    """
    begin()
    mine = observer.current
    try:
        yield
    finally:
        observer.end(mine)


def begin() -> None:
    """Begin with ranges, for good."""
    if observer.current is not None:
        kind = type(observer.current).__name__
        raise DeviceError("nvtx", f"launches go through a {kind} already", remedy="end that first")
    observer.begin(Ranges(_library()))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    for name in [*nvidia_packages.files(*(f"*/lib/{name}" for name in _NAMES)), *_NAMES]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        "nvtx", f"one of {', '.join(_NAMES)}", "none", "install nvidia-nvtx, or a CUDA toolkit"
    )
