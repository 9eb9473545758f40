"""The header of a safetensors file, which is checked before anything else is read.

A file is eight bytes (the header's length, unsigned, little-endian), the header (JSON: name ->
dtype, shape, data_offsets), then the tensors' bytes without overlap or hole, in C order. Source:
the format section of the safetensors README.

It is read here rather than by the safetensors package: what a header claims is compared with the
file before a byte is allocated for it, and the message says which tensor, what was expected and
what was found.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..digest import sha256
from ..dtypes import dtype_named
from ..errors import CheckpointError
from .files import open_regular

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_NUMPY_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}


class _NumpyDtypes(Mapping[str, np.dtype[Any]]):
    """A dtype is made when it is asked for: not every process needs bfloat16's library."""

    def __getitem__(self, name: str) -> np.dtype[Any]:
        return dtype_named(_NUMPY_NAMES[name])

    def __contains__(self, name: object) -> bool:
        return name in _NUMPY_NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(_NUMPY_NAMES)

    def __len__(self) -> int:
        return len(_NUMPY_NAMES)


NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = _NumpyDtypes()
"""The dtypes that are read and written here, by the format's name."""

# Other dtypes only have to be measured: layers of other methods can stand beside GPTQ's.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "C64": 64,
}

LENGTH_BYTES = 8
METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_DIMENSIONS = 64
_MAX_DIGITS = 20  # of 2^64
_AGAIN = "download the file again"
# What stands under such a name in the wild, by its first bytes.
_OTHER_KINDS = {
    b"version ": "a Git LFS pointer; download the file that it stands for (git lfs pull)",
    b"GGUF": "a GGUF file, whose quantisation is another; take the model's GPTQ checkpoint",
    b"PK\x03\x04": "a zip file, such as torch.save writes; convert it to safetensors",
    b"\x80\x02": "a pickle, such as torch.save wrote; convert it to safetensors",
    b"<": "a page of the web, where a download was refused; download the file again",
}


class FileState(NamedTuple):
    """Identity of a file's contents, which changes when it is written to: see os.stat_result.

    digest  of the header, for file systems that number a file anew when they have forgotten it
    """

    st_dev: int
    st_ino: int
    st_size: int
    st_mtime_ns: int
    digest: bytes = b""

    @classmethod
    def of(cls, handle: FileIO) -> FileState:
        """The state of an open file, without the digest."""
        status = os.fstat(handle.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class StoredTensor(NamedTuple):
    """A tensor as a header describes it; a tuple, since there can be 300,000 of them.

    dtype   by its safetensors name ("I32", "BF16")
    begin   its first byte, from the start of the file
    nbytes  of it, which dtype and shape agree with
    state   of the file when its header was read
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int
    state: FileState


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of `file` by name, in the order of their bytes, and its metadata.

    Reads the header alone. Raises CheckpointError that names the file, and the tensor where it is
    one, for everything in which the header contradicts itself, the format or the file's size.
    """
    try:
        with open_regular(file) as handle:
            state = FileState.of(handle)
            text = header_text(handle, state.st_size, file)
            state = state._replace(digest=digest_of(text))
    except OSError as error:
        raise unreadable(file, error) from error
    data = LENGTH_BYTES + len(text)
    header = _parse(text, file)
    metadata = _metadata(header.pop(METADATA, {}), file)
    tensors = {name: _tensor(name, entry, file, data, state) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1][3:5]))  # begin, nbytes
    _check_layout(tensors, file, data, state.st_size)
    return tensors, metadata


def unreadable(file: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not give."""
    return CheckpointError(
        file,
        "a safetensors file",
        f"one that cannot be read ({error})",
        code="checkpoint-unreadable",
    )


def digest_of(text: bytes) -> bytes:
    """Digest of a header, 16 bytes."""
    return sha256(text).digest()[:16]


def header_text(handle: FileIO, size: int, file: Path) -> bytes:
    """The header of an open file of `size` bytes, from its start.  Raises CheckpointError."""
    prefix = handle.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        raise CheckpointError(
            file,
            f"a safetensors file, which has at least {LENGTH_BYTES} bytes",
            size,
            _AGAIN,
            code="checkpoint-unreadable",
        )
    length = int.from_bytes(prefix, "little")
    most = min(MAX_HEADER_BYTES, size - LENGTH_BYTES)
    if not 2 <= length <= most:
        for begins, found in _OTHER_KINDS.items():
            if prefix.startswith(begins):
                raise CheckpointError(
                    file, "a safetensors file", found, code="checkpoint-unreadable"
                )
        raise CheckpointError(
            file,
            "a safetensors file",
            (
                f"a header length of {length} bytes, where 2..{most} are possible in a file of "
                f"{size}"
            ),
            _AGAIN,
            code="checkpoint-unreadable",
        )
    text = read_up_to(handle, length)
    if len(text) < length:
        raise truncated(file, "the header", length, len(text))
    return text


def read_up_to(handle: FileIO, count: int) -> bytes:
    """Read so many bytes from where the file stands, or fewer at its end."""
    parts = []
    while count and (part := handle.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class _Repeated(dict[str, Any]):
    """A JSON object in which the key `key` stood more than once."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) == len(pairs):
        return entry
    repeated = _Repeated(entry)
    counts = Counter(key for key, _ in pairs)
    repeated.key = next(key for key, count in counts.items() if count > 1)
    return repeated


def _integer(digits: str) -> int | str:
    """An int, or the digits of one that no file can hold: turning those into one takes long."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    """The header's JSON. An object of it in which a key stands twice is a `_Repeated`.

    Keys that stand twice and numbers of any length are looked for only where there may be some:
    that takes several times as long as all the rest.
    """
    try:
        if text[:1] != b"{":
            raise ValueError(f"begins with {text[:8]!r}")
        header = _plain(text)
        if header is None:
            header = json.loads(
                text.decode("utf-8"),
                object_pairs_hook=_object,
                parse_int=_integer,
                parse_constant=_no_constant,
            )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError(
            file,
            "a safetensors file",
            f"a header that is no JSON object ({error})",
            _AGAIN,
            code="checkpoint-unreadable",
        ) from error
    assert isinstance(header, dict)
    if isinstance(header, _Repeated):
        raise CheckpointError(
            header.key,
            "once in the header",
            "twice, so that the file does not say which is meant",
            _AGAIN,
            where=file,
            code="checkpoint-header-wrong",
        )
    return header


def _plain(text: bytes) -> dict[str, Any] | None:
    """The header's JSON where no key can stand twice, which their numbers tell; else None."""
    if not hasattr(sys, "get_int_max_str_digits"):  # a number may take for ever to be read
        return None
    try:
        header: dict[str, Any] = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except ValueError:
        return None
    tensors = len(header) - (METADATA in header)
    counts = {text.count(f'"{field}"'.encode()) for field in _FIELDS}
    once = text.count(f'"{METADATA}"'.encode()) <= 1
    return header if once and counts == {tensors} else None


def _no_constant(name: str) -> Any:
    raise ValueError(f"found {name}, which JSON does not have")


def _metadata(value: object, file: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(
            "__metadata__",
            "a JSON object of texts in the header",
            _shown(value),
            where=file,
            code="checkpoint-header-wrong",
        )
    return dict(value)


def _tensor(name: str, entry: object, file: Path, data: int, state: FileState) -> StoredTensor:
    dtype: Any
    shape: Any
    offsets: Any
    if type(entry) is dict and len(entry) == 3:
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if _is_sound(dtype, shape, offsets):
            begin, end = offsets
            return StoredTensor(file, dtype, tuple(shape), data + begin, end - begin, state)
    where = f"{file}: {name}"
    if type(entry) is not dict or entry.keys() != _FIELDS:
        raise CheckpointError(
            where,
            "a JSON object of dtype, shape and data_offsets, each once",
            _shown(entry),
            _AGAIN,
            code="checkpoint-header-wrong",
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(
            where,
            f"dtype to be one of {', '.join(BITS)}",
            _shown(dtype),
            _AGAIN,
            code="checkpoint-header-wrong",
        )
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(
            where,
            f"shape to be a list of up to {_MAX_DIMENSIONS} sizes of at least 0",
            _shown(shape),
            _AGAIN,
            code="checkpoint-header-wrong",
        )
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            where,
            "data_offsets [begin, end] with 0 <= begin <= end",
            _shown(offsets),
            _AGAIN,
            code="checkpoint-header-wrong",
        )
    begin, end = offsets
    nbytes = -(-math.prod(shape) * BITS[dtype] // 8)
    raise CheckpointError(
        where,
        f"data_offsets to span {nbytes} bytes, as {dtype} {shape} takes",
        f"{end - begin} ({begin}..{end})",
        _AGAIN,
        code="checkpoint-header-wrong",
    )


def _is_sound(dtype: Any, shape: Any, offsets: Any) -> bool:
    """True if an entry's values have the right types and agree: all that `_tensor` asks, fast."""
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list:
        return False
    if dtype not in BITS or len(shape) > _MAX_DIMENSIONS or len(offsets) != 2:
        return False
    bits = BITS[dtype]
    for size in shape:
        if type(size) is not int or not 0 <= size < 1 << 63:
            return False
        bits *= size
    begin, end = offsets
    if type(begin) is not int or type(end) is not int:
        return False
    return 0 <= begin <= end < 1 << 63 and bits == (end - begin) * 8


def _is_counts(value: object) -> bool:
    """True if value is a list of integers from 0, each within 64 bits."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(tensors: Mapping[str, StoredTensor], file: Path, data: int, size: int) -> None:
    """Check that the tensors fill the file in the order of their bytes: no overlap, no hole."""
    end, before = data, "the header"
    for name, tensor in tensors.items():
        if tensor.begin != end:
            what = "overlap" if tensor.begin < end else "hole"
            raise CheckpointError(
                name,
                f"its bytes to begin at {end - data}, where those of {before} end",
                (
                    f"{tensor.begin - data}: {('an' if what == 'overlap' else 'a')} {what} of "
                    f"{abs(tensor.begin - end)} bytes"
                ),
                _AGAIN,
                where=file,
                code="checkpoint-header-wrong",
            )
        end, before = tensor.begin + tensor.nbytes, name
    if end == size:
        return
    if end > size:
        cut = next(name for name, tensor in tensors.items() if tensor.begin + tensor.nbytes > size)
        raise truncated(file, cut, end, size)
    raise CheckpointError(
        file,
        f"{end} bytes, as the header says",
        f"{size}: {size - end} bytes at the end belong to no tensor",
        _AGAIN,
        code="checkpoint-header-wrong",
    )


def truncated(file: Path, what: str, expected: int, found: int) -> CheckpointError:
    """The error for a file that ends before what it should hold; sizes of the file, in bytes."""
    return CheckpointError(
        what,
        f"a file of {expected} bytes, as the header says",
        f"{found}: the file is cut short, or the header is wrong",
        _AGAIN,
        where=file,
        code="checkpoint-cut-short",
    )


def _shown(value: object) -> str:
    """A value for a message, and no more of it than a message takes."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
