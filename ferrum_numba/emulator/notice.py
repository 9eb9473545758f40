"""A line on the terminal, where the user has to wait."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 2.0  # seconds


@contextmanager
def notice(text: str) -> Iterator[None]:
    """Write a line to a terminal if what is done in the block takes more than two seconds."""
    if sys.stderr is None or not sys.stderr.isatty():  # a log has no reader who waits
        yield
        return
    timer = threading.Timer(_PATIENCE, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
