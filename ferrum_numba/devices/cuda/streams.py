"""Streams of any library: their handles, and one waiting for another without the host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import DeviceError
from . import driver
from .objects import Event

PER_THREAD = 2  # CU_STREAM_PER_THREAD: one handle, and a stream for each thread
_LARGEST = 2**64 - 1
_PROTOCOL = 0  # the version of __cuda_stream__


def is_fleeting(stream: Any, handle: int) -> bool:
    """True if the stream may vanish before its work can be waited for.

    A number does not keep its stream from being destroyed, except for the default streams; and
    the one of a thread is another one in another thread.
    """
    return handle == PER_THREAD or (isinstance(stream, int) and handle > PER_THREAD)


def order_of(handle: int) -> tuple[int, int]:
    """The key of an order of launches: a stream's handle, and its thread where it is of one."""
    return handle, threading.get_ident() if handle == PER_THREAD else 0


def stream_handle(stream: Any) -> int:
    """The driver's handle of a stream: numba's, another library's, an integer, None for stream 0.

    Raises DeviceError for an object that is no stream.
    """
    if stream is None:
        return 0
    handle = stream if isinstance(stream, int) else _handle_of(stream)
    number: int = handle if type(handle) is int else _number(handle)
    # The driver would crash on another one, or cut it to that of another stream.
    if not 0 <= number <= _LARGEST:
        found = str(stream) if type(stream) is int else type(stream).__name__
        if handle is not None and handle is not stream:
            found += f" with the handle {handle!r:.80}"
        raise DeviceError(
            "stream",
            "a CUDA stream (numba, __cuda_stream__, torch, CuPy or an integer handle)",
            found,
        )
    return number


def _handle_of(stream: Any) -> Any:
    """The handle that an object offers; None where it is no stream."""
    kind = type(stream).__name__
    # The driver takes an event's handle for a stream's, and crashes.
    if kind.endswith("Event") or kind == "type":
        return None
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        pair = protocol() if callable(protocol) else protocol  # older ones are a pair
        try:
            version, handle = pair
        except (TypeError, ValueError):
            version = None
        if version != _PROTOCOL:
            raise DeviceError(
                "stream",
                f"__cuda_stream__ of {kind} to give ({_PROTOCOL}, handle)",
                f"{pair!r:.80}",
            )
        return handle
    for attribute in ("handle", "cuda_stream", "ptr"):  # numba, torch, CuPy
        if hasattr(stream, attribute):
            return getattr(stream, attribute)
    return None


def _number(handle: Any) -> int:
    """A library's object for a handle as an integer; a negative one where it is none."""
    if handle is None or isinstance(handle, (bool, str, bytes, float)):
        return -1
    try:
        return integer_handle(handle)
    except (TypeError, ValueError):
        return -1


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

    @property
    def stream(self) -> int:
        """The producer as launches name it, where 0 is the default stream."""
        return 0 if self.producer == 1 else self.producer

    def __call__(self, stream: int) -> None:
        if self.stream != stream:
            mark = Event()
            mark.record(self.stream)
            mark.hold(stream)


def others(stream: int, waits: Iterable[Callable[[int], None]]) -> list[Callable[[int], None]]:
    """Waits for more than the stream's own order."""
    return [w for w in waits if not (isinstance(w, Behind) and w.stream == stream)]


def order(stream: int, waits: Iterable[Callable[[int], None]]) -> None:
    """Let `stream` wait for the streams that still write a launch's arrays; the host does not.

    A stream that is being captured is left alone: a wait for work outside of the graph would break
    the capture.  What a graph reads is ordered where the graph is launched.
    """
    waits = others(stream, waits)
    if waits and not driver.is_capturing(stream):
        for wait in waits:
            wait(stream)
