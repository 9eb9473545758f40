"""Captures, and waits for the whole device, kept apart: one breaks the other, whatever thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LaunchError

_PATIENCE = 10.0  # seconds that a wait waits for captures: they only take launches down


class Gate:
    """Any number of captures at a time, or any number of waits; both are blocks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._captures = self._waits = 0

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """A capture, once nobody waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waits)
            self._captures += 1
        try:
            yield
        finally:
            with self._changed:
                self._captures -= 1
                self._changed.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait, once nobody captures.  Raises LaunchError where somebody does not stop to."""
        with self._changed:
            self._waits += 1
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._captures, _PATIENCE):
                    raise LaunchError(
                        "synchronize: another thread has been capturing a graph on this device "
                        f"for {_PATIENCE:.0f} s, which waiting would break; end its block first, "
                        "or wait for a stream alone (stream.synchronize())"
                    )
            yield
        finally:
            with self._changed:
                self._waits -= 1
                self._changed.notify_all()
