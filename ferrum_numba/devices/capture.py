"""Who takes a thread's launches instead of the device: a plan or a graph that is being recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LaunchError

if TYPE_CHECKING:
    from .base import Invocation, Kernel


class Taker(Protocol):
    """Takes what the thread that captures would launch."""

    def take(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        """A launch, marshalled and checked; its block may change once this returns."""


takers: dict[int, Taker] = {}  # by thread; empty nearly always, which is all that a launch looks at


def of_this_thread() -> Taker | None:
    """Who takes the launches of the calling thread; nearly always nobody."""
    return takers.get(threading.get_ident()) if takers else None


@contextmanager
def taken_by(taker: Taker) -> Iterator[None]:
    """Within the block the calling thread's launches go to `taker`."""
    thread = threading.get_ident()
    if thread in takers:
        raise LaunchError("capture: this thread is recording a plan or a graph already; end it")
    takers[thread] = taker
    try:
        yield
    finally:
        del takers[thread]
