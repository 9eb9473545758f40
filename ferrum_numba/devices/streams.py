"""Streams of any library: their handles, and one waiting for another without the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import DeviceError
from . import driver

DEFAULT_STREAMS = (0, 1, 2)  # handles that are never destroyed: default, legacy, one a thread


def is_fleeting(stream: Any, handle: int) -> bool:
    """Whether a stream is given as a number, which does not keep it from being destroyed."""
    return isinstance(stream, int) and handle not in DEFAULT_STREAMS


def stream_handle(stream: Any) -> int:
    """The driver's handle of a stream: numba's, another library's, an integer, None for stream 0.

    Raises DeviceError for an object that is no stream.
    """
    if stream is None:
        return 0
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    for attribute in ("handle", "cuda_stream", "ptr"):  # numba, torch, CuPy
        if hasattr(stream, attribute):
            return integer_handle(getattr(stream, attribute))
    raise DeviceError(
        f"stream: expected a CUDA stream (numba, __cuda_stream__, torch, CuPy or an integer "
        f"handle), found {type(stream).__name__}"
    )


def integer_handle(handle: Any) -> int:
    """A driver handle as an integer, whether it is a ctypes or a cuda.bindings object."""
    if hasattr(handle, "value"):
        handle = handle.value
    return int(handle or 0)


@dataclass(frozen=True)
class Behind:
    """Lets a stream go on only once `producer`, another one, has done what it was given so far.

    producer: a handle as the CUDA array interface spells it, where 1 is the default stream.
    """

    producer: int

    def __call__(self, stream: int) -> None:
        producer = 0 if self.producer == 1 else self.producer
        if producer != stream:
            mark = driver.Event()
            mark.record(producer)
            mark.hold(stream)


def order(stream: int, waits: Iterable[Callable[[int], None]]) -> None:
    """Let `stream` wait for the streams that still write a launch's arrays; the host does not.

    A stream that is being captured is left alone: a wait for work outside of the graph would break
    the capture.  What a graph reads is ordered where the graph is launched.
    """
    if not driver.is_capturing(stream):
        for wait in waits:
            wait(stream)
