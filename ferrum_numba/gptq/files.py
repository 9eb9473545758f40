"""Files of a checkpoint: only regular ones are read."""

from __future__ import annotations

import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MAX_JSON_BYTES = 100_000_000
"""The safetensors format's own limit for its header; an index lists what headers hold."""

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe that takes the file's place must not wait either


def open_regular(file: Path) -> FileIO:
    """Open a regular file for reading. Raises CheckpointError for anything else, OSError as is."""
    if not file.is_file():  # opening a pipe would wait for its writer, a device may do anything
        found = "a directory" if file.is_dir() else "a device or pipe"
        if not file.exists():
            found = "a link to nothing" if file.is_symlink() else "nothing"
        raise CheckpointError(
            f"{file}: expected a regular file, found {found}; put the file itself there"
        )
    handle = FileIO(str(file), opener=lambda name, flags: os.open(name, flags | _NO_WAIT))
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise CheckpointError(
            f"{file}: expected a regular file, found one that has just been replaced; "
            "put the file itself there"
        )
    return handle


def read_json(file: Path) -> Any:
    """The content of a JSON file in UTF-8, or in any other UTF whose byte order mark it has.

    Raises CheckpointError for what is no regular file, too large, or no JSON; OSError as is.
    """
    with open_regular(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{file}: expected at most {MAX_JSON_BYTES} bytes of JSON, found {size}; "
                "download the file again"
            )
        text = handle.read(size)
    try:
        return json.loads(text)  # bytes: the byte order mark, if any, says which UTF
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError(
            f"{file}: expected JSON, found what cannot be read ({error}); download the file again"
        ) from error
