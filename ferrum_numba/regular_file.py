"""Content of files that others name: a pipe would wait for its writer, a device may do anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_regular(path: str | Path, nbytes: int = -1) -> bytes:
    """The first bytes of a regular file, all where nbytes is -1.  Raises OSError, ValueError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"expected a regular file, found a device or pipe: {str(path)!r}")
        return file.read(nbytes)
