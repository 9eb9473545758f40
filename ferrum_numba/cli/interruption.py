"""Ctrl-C: the first ends a command in order, a second one at once, neither with a traceback."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from ..start import EXIT_CODE as EXIT_CODE
from ..start import leave

_TWICE = 3.0  # seconds within which a second Ctrl-C means the first was not enough
_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides

_last = -_TWICE


def listen() -> None:
    """Take Ctrl-C from now on, unless the process was started so that it ignores it."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, leave):
        signal.signal(signal.SIGINT, _interrupt)


def leaving() -> None:
    """A command has ended by Ctrl-C: nothing is worth waiting for when it comes again."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, _leave)


def end() -> NoReturn:
    """End the process, but unload nothing: threads that do not listen are still in native code."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_CODE)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _last
    before, _last = _last, time.monotonic()
    if _last - before < _TWICE:
        _leave(number, frame)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
    os._exit(EXIT_CODE)
