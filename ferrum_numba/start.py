"""Ctrl-C while the command line is being imported: a line, and the exit code of one who is told.

Importing the package takes tenths of a second, and the command line listens when that is done
(cli/interruption.py).  Other programs that import the package keep Python's way.  What comes before
this module, some hundredths of a second, is Python's; it imports little, so that it soon is there.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise

EXIT_CODE = 130  # 128 + SIGINT, as shells have it; 1 would read as a mismatch


def leave(number: int, frame: object) -> None:
    """End the process, in which nothing has begun yet."""
    os.write(2, b"interrupted\n")
    os._exit(EXIT_CODE)


def _is_command() -> bool:
    """True if the process is `ferrum-numba`, or `python -m ferrum_numba`."""
    (program,) = sys.argv[:1] or [""]
    if program == "-m":  # so it is as long as Python looks for the module
        return any(
            option.startswith("-") and option.endswith("m") and module == __package__
            for option, module in pairwise(sys.orig_argv)
        )
    name = program.replace("\\", "/").rpartition("/")[2]  # pathlib would take its time
    return name.removesuffix(".exe") == "ferrum-numba"


def guard() -> None:
    """Take Ctrl-C until the command line listens, unless the process ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, leave)
        except ValueError:  # in another thread than the first
            return


if _is_command():
    guard()
