"""PTX text: read from a file, without comments, or no PTX at all."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import PtxError
from ..regular_file import read_regular

# What people pass instead of PTX, by how it begins.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x7fELF", "an ELF file, perhaps a cubin: take the PTX that it was assembled from"),
    (b"\x50\xed\x55\xba", "a fatbin: take the PTX that is in it (cuobjdump -ptx)"),
    (b"\x1f\x8b", "compressed by gzip: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it first"),
    (b"PK\x03\x04", "a zip file, perhaps a recording or a wheel: take the .ptx out of it"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8 or ASCII"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8 or ASCII"),
    (b"BC\xc0\xde", "LLVM bitcode, an earlier stage of the compiler: take the PTX"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with git lfs pull"),
    (b"; ModuleID", "LLVM IR, an earlier stage of the compiler: take the PTX"),
    (b"target triple", "LLVM IR, an earlier stage of the compiler: take the PTX"),
    (b"module", "an MLIR module, an earlier stage of Triton: take the PTX"),
    (b"#loc", "an MLIR module, an earlier stage of Triton: take the PTX"),
    (b"#blocked", "an MLIR module, an earlier stage of Triton: take the PTX"),
    (b"<", "HTML or XML, perhaps the page of an error: fetch the file again"),
    (b"{", "JSON, perhaps the sidecar: take the .ptx beside it"),
    (b"#include", "C++ source: compile it, as by nvcc -ptx"),
    (b'extern "C"', "C++ source: compile it, as by nvcc -ptx"),
    (b"__global__", "C++ source: compile it, as by nvcc -ptx"),
    (b"import ", "Python source: compile it first"),
    (b"from ", "Python source: compile it first"),
    (b"@triton", "Python source: compile it first"),
)

# A comment without an end reaches to the end of the text.
_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)|\"[^\"\n]*\"", re.DOTALL)


def read_ptx(source: str | Path) -> str:
    """PTX text, from text or from the path of a file.  Raises PtxError."""
    if not isinstance(source, (str, Path)):
        raise PtxError("ptx", "a path or text", f"{type(source).__name__}")
    if isinstance(source, str) and ("\n" in source or ".version" in source):
        return source
    shown = str(source)[:200]
    try:
        data = read_regular(source)
    except IsADirectoryError:
        raise PtxError(f"{shown}", "a .ptx file", "a folder", "name one in it") from None
    except (OSError, ValueError) as error:
        raise PtxError(shown, f"cannot be read as PTX: {error}") from None
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except ValueError:
        raise PtxError(shown, f"not PTX: {not_ptx(data)}") from None
    if ".version" not in text:
        raise PtxError(shown, f"not PTX: {not_ptx(text)}")
    return text


def without_comments(text: str) -> str:
    """PTX whose comments and strings (paths, pragmas) are gone; lines stay what they are."""
    return _COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def refuse(line: int, text: str, problem: str) -> PtxError:
    """The error that names a line of PTX and shows it."""
    shown, place = " ".join(text.split())[:160], f"PTX line {line}"
    error = PtxError(f"{place}: {problem}\n    {shown}", where=place)
    error.field, error.found, error.data = "ptx", shown, {"line": line, "text": shown}
    return error


def not_ptx(start: str | bytes) -> str:
    """Name the kind of a file that is no PTX by its first bytes, and say what to do."""
    data = start[:256].encode() if isinstance(start, str) else start[:256]
    stripped = data.lstrip()
    if not stripped:
        return "it is empty: fetch or compile it again"
    for mark, kind in _KINDS:
        if stripped.startswith(mark):
            return f"it is {kind}"
    if b"\0" in data or len(data.decode(errors="ignore").encode()) < len(data) - 3:
        return "it is a binary file: pass the text of a .ptx file"
    shown = stripped[:40].decode(errors="replace").split("\n")[0]
    return f"it begins with {shown!r}: pass the text of a .ptx file"
