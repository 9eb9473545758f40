"""Machine code from bytes or from a file, by how it begins."""

from __future__ import annotations

from pathlib import Path

from ..errors import PtxError
from ..regular_file import read_regular
from . import cubin, fatbin

_MARKS = (cubin.MARK, fatbin.MARK)


def is_machine_code(source: object) -> bool:
    """True for bytes, and for the path of a file that begins as a cubin or a fatbin does."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return True
    if not isinstance(source, (str, Path)) or "\n" in str(source):
        return False
    try:
        return read_regular(source, 4) in _MARKS
    except (OSError, ValueError):
        return False


def read_code(source: bytes | str | Path) -> cubin.Cubin | fatbin.Fatbin:
    """A cubin or a fatbin, given as bytes or as a path.  Raises PtxError for anything else."""
    data = read_regular(source) if isinstance(source, (str, Path)) else bytes(source)
    if data[:4] == cubin.MARK:
        return cubin.Cubin(data)
    if data[:4] == fatbin.MARK:
        return fatbin.Fatbin(data)
    raise PtxError(
        "code", "a cubin or a fatbin", f"bytes that begin with {data[:8]!r}", "give PTX as text"
    )
