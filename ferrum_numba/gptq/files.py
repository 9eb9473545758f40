"""Files: only regular ones are read, and one that is written takes its place whole."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

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
            file,
            "a regular file",
            found,
            "put the file itself there",
            code="checkpoint-file-missing",
        )
    handle = FileIO(str(file), opener=lambda name, flags: os.open(name, flags | _NO_WAIT))
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise CheckpointError(
            file,
            "a regular file",
            "one that has just been replaced",
            "put the file itself there",
            code="checkpoint-file-missing",
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
                file,
                f"at most {MAX_JSON_BYTES} bytes of JSON",
                size,
                "download the file again",
                code="checkpoint-unreadable",
            )
        text = handle.read(size)
    try:
        return json.loads(text)  # bytes: the byte order mark, if any, says which UTF
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError(
            file,
            "JSON",
            f"what cannot be read ({error})",
            "download the file again",
            code="checkpoint-unreadable",
        ) from error


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Write a file beside `file`, which takes its place once it is whole.

    Where the block ends by an exception, Ctrl-C included, `file` stays as it was. What is no
    regular file, such as /dev/stdout, is written to directly.
    """
    if file.exists() and not file.is_file():
        with file.open("wb") as handle:
            yield handle
        return
    file = Path(os.path.realpath(file))  # a link stays a link
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as handle:
            yield handle
        if file.exists():
            shutil.copymode(file, beside)
        beside.replace(file)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Write a text whole or not at all, lone surrogates as escapes."""
    with replacing(file) as handle:
        handle.write(text.encode("utf-8", errors="backslashreplace"))


def write_json(file: Path, content: object) -> None:
    """Write a JSON file as producers do: indented, keys in the order given."""
    write_text(file, json.dumps(content, indent=2) + "\n")


@contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, made if it is not there, and empty again where the block is not done.

    Raises CheckpointError if anything lies in it.
    """
    folder = Path(folder)
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            folder, "no such path, or an empty directory", "something there", "name another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            for file in folder.iterdir():
                file.unlink()
            if not existed:
                folder.rmdir()
        raise
