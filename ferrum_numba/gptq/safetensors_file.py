"""The safetensors format: a header that is checked before anything else is read.

A file is eight bytes (the header's length, unsigned, little-endian), the header (JSON: name ->
dtype, shape, data_offsets), then the tensors' bytes without overlap or hole, in C order. Source:
the format section of the safetensors README.

Read here rather than by the safetensors package for two reasons. What a header claims is compared
with the file before a byte is allocated for it, and the message says which tensor, what was
expected and what was found. And values are read with seek and read, which costs a tensor's own
bytes; faulting pages in through a memory map of a cold file costs many times as much for the many
small `g_idx`.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from .files import open_regular

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
"""The dtypes that are read and written here, by the format's name."""

# Other dtypes only have to be measured: layers of other methods can stand beside GPTQ's.
_BITS = {name: dtype.itemsize * 8 for name, dtype in NUMPY_DTYPES.items()} | {
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

_LENGTH_BYTES = 8
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_DIMENSIONS = 64
_AGAIN = "download the file again"
# What stands under such a name in the wild, by its first bytes.
_OTHER_KINDS = {
    b"version ": "a Git LFS pointer; download the file that it stands for (git lfs pull)",
    b"GGUF": "a GGUF file, whose quantisation is another; take the model's GPTQ checkpoint",
    b"PK\x03\x04": "a zip file, such as torch.save writes; convert it to safetensors",
    b"\x80\x02": "a pickle, such as torch.save wrote; convert it to safetensors",
    b"<": "a page of the web, where a download was refused; download the file again",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a header describes it.

    dtype   by its safetensors name ("I32", "BF16")
    begin   its first byte, from the start of the file
    nbytes  of it, which dtype and shape agree with
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of `file` by name, in the order of their bytes, and its metadata.

    Reads the header alone. Raises CheckpointError that names the file, and the tensor where it is
    one, for everything in which the header contradicts itself, the format or the file's size.
    """
    try:
        with open_regular(file) as handle:
            size = os.fstat(handle.fileno()).st_size
            text = _header_text(handle, size, file)
    except OSError as error:
        raise _unreadable(file, error) from error
    header = _parse(text, file)
    metadata = _metadata(header.pop("__metadata__", _Entry()), file)
    data = _LENGTH_BYTES + len(text)
    tensors = {name: _tensor(name, entry, file, data) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)))
    _check_layout(tensors, file, data, size)
    return tensors, metadata


def read_tensors(tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """(name, values) of `tensors`, each read once into a new C-ordered array.

    In the order of the files and of the bytes in them, whatever the order asked.
    """
    by_place = sorted(tensors.items(), key=lambda item: (str(item[1].file), item[1].begin))
    for file, stored in groupby(by_place, key=lambda item: item[1].file):
        try:
            with open_regular(file) as handle:
                for name, tensor in stored:
                    yield name, _read(handle, name, tensor)
        except OSError as error:
            raise _unreadable(file, error) from error


def write_file(
    file: Path,
    header: Mapping[str, tuple[str, tuple[int, ...]]],
    arrays: Iterable[npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write tensors one after the other, so that no more than one array need exist at a time.

    header: name -> (dtype by its safetensors name, shape), in the order of `arrays`. A tensor may
    come in several arrays, one after the other. Returns the bytes of the file. Raises
    CheckpointError where the arrays do not fill what the header announces, or the disk does.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in header.items():
        end = offset + math.prod(shape) * _BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # aligns the data, as the format asks of writers
    written = 0
    try:
        with file.open("wb") as handle:
            handle.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            for array in arrays:
                flat = np.ascontiguousarray(array).reshape(-1)
                written += handle.write(flat.view(np.uint8).data)
    except OSError as error:
        raise CheckpointError(
            f"{file}: expected room for {offset} bytes, found that it cannot be written ({error})"
        ) from error
    if written != offset:
        raise CheckpointError(
            f"{file}: expected {offset} bytes of tensors, as the header announces, found {written}"
        )
    return _LENGTH_BYTES + len(text) + offset


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{file}: expected a safetensors file, found one that cannot be read ({error})"
    )


def _header_text(handle: FileIO, size: int, file: Path) -> bytes:
    prefix = handle.read(_LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise CheckpointError(
            f"{file}: expected a safetensors file, which has at least {_LENGTH_BYTES} bytes, found "
            f"{size}; {_AGAIN}"
        )
    length = int.from_bytes(prefix, "little")
    most = min(MAX_HEADER_BYTES, size - _LENGTH_BYTES)
    if not 2 <= length <= most:
        for begins, found in _OTHER_KINDS.items():
            if prefix.startswith(begins):
                raise CheckpointError(f"{file}: expected a safetensors file, found {found}")
        raise CheckpointError(
            f"{file}: expected a safetensors file, found a header length of {length} bytes, where "
            f"2..{most} are possible in a file of {size}; {_AGAIN}"
        )
    text = _read_up_to(handle, length)
    if len(text) < length:
        raise _truncated(file, "the header", length, len(text))
    return text


def _read_up_to(handle: FileIO, count: int) -> bytes:
    parts = []
    while count and (part := handle.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class _Entry(dict[str, Any]):
    """A JSON object that remembers a key that stood in it twice."""

    repeated: str | None = None


def _entry(pairs: list[tuple[str, Any]]) -> _Entry:
    entry = _Entry(pairs)
    if len(entry) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        entry.repeated = next(key for key, count in counts.items() if count > 1)
    return entry


def _integer(digits: str) -> int | str:
    """An int, or the digits of one that no file can hold: turning those into one takes long."""
    return int(digits) if len(digits) <= 20 else digits


def _parse(text: bytes, file: Path) -> _Entry:
    try:
        if text[:1] != b"{":
            raise ValueError(f"begins with {text[:8]!r}")
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_entry,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError(
            f"{file}: expected a safetensors file, found a header that is no JSON object "
            f"({error}); {_AGAIN}"
        ) from error
    assert isinstance(header, _Entry)
    if header.repeated is not None:
        raise CheckpointError(
            f"{file}: {header.repeated}: expected once in the header, found twice, so that the "
            f"file does not say which is meant; {_AGAIN}"
        )
    return header


def _no_constant(name: str) -> Any:
    raise ValueError(f"found {name}, which JSON does not have")


def _metadata(value: object, file: Path) -> dict[str, str]:
    if not isinstance(value, _Entry) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(
            f"{file}: __metadata__: expected a JSON object of texts in the header, found "
            f"{_shown(value)}"
        )
    return dict(value)


def _tensor(name: str, entry: object, file: Path, data: int) -> StoredTensor:
    where = f"{file}: {name}"
    if not isinstance(entry, _Entry) or set(entry) != _FIELDS or entry.repeated is not None:
        raise CheckpointError(
            f"{where}: expected a JSON object of dtype, shape and data_offsets, each once, found "
            f"{_shown(entry)}; {_AGAIN}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(
            f"{where}: expected dtype to be one of {', '.join(_BITS)}, found {_shown(dtype)}; "
            f"{_AGAIN}"
        )
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(
            f"{where}: expected shape to be a list of up to {_MAX_DIMENSIONS} sizes of at least 0, "
            f"found {_shown(shape)}; {_AGAIN}"
        )
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: expected data_offsets [begin, end] with 0 <= begin <= end, found "
            f"{_shown(offsets)}; {_AGAIN}"
        )
    begin, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if bits != (end - begin) * 8:
        raise CheckpointError(
            f"{where}: expected data_offsets to span {-(-bits // 8)} bytes, as {dtype} {shape} "
            f"takes, found {end - begin} ({begin}..{end}); {_AGAIN}"
        )
    return StoredTensor(file, dtype, tuple(shape), data + begin, end - begin)


def _is_counts(value: object) -> bool:
    """Whether value is a list of integers from 0, each within 64 bits."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(tensors: Mapping[str, StoredTensor], file: Path, data: int, size: int) -> None:
    """That the tensors, in the order of their bytes, fill the file: no overlap, hole or rest."""
    end, before = data, "the header"
    for name, tensor in tensors.items():
        if tensor.begin != end:
            what = "overlap" if tensor.begin < end else "hole"
            raise CheckpointError(
                f"{file}: {name}: expected its bytes to begin at {end - data}, where those of "
                f"{before} end, found {tensor.begin - data}: {'an' if what == 'overlap' else 'a'} "
                f"{what} of {abs(tensor.begin - end)} bytes; {_AGAIN}"
            )
        end, before = tensor.begin + tensor.nbytes, name
    if end == size:
        return
    if end > size:
        cut = next(name for name, tensor in tensors.items() if tensor.begin + tensor.nbytes > size)
        raise _truncated(file, cut, end, size)
    raise CheckpointError(
        f"{file}: expected {end} bytes, as the header says, found {size}: {size - end} bytes "
        f"at the end belong to no tensor; {_AGAIN}"
    )


def _truncated(file: Path, what: str, expected: int, found: int) -> CheckpointError:
    return CheckpointError(
        f"{file}: {what}: expected a file of {expected} bytes, as the header says, found {found}: "
        f"the file is cut short, or the header is wrong; {_AGAIN}"
    )


def _read(handle: FileIO, name: str, tensor: StoredTensor) -> npt.NDArray[Any]:
    if tensor.dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            f"{tensor.file}: {name}: expected a dtype among {', '.join(NUMPY_DTYPES)}, found "
            f"{tensor.dtype}, which NumPy does not have"
        )
    # The file may have shrunk since it was opened: nothing is allocated for what is not there.
    size = os.fstat(handle.fileno()).st_size
    if size < tensor.begin + tensor.nbytes:
        raise _truncated(tensor.file, name, tensor.begin + tensor.nbytes, size)
    array = np.empty(tensor.shape, NUMPY_DTYPES[tensor.dtype])
    rest = memoryview(array.reshape(-1).view(np.uint8).data)
    handle.seek(tensor.begin)
    while len(rest):
        count = handle.readinto(rest)
        if not count:
            raise _truncated(tensor.file, name, tensor.begin + tensor.nbytes, handle.tell())
        rest = rest[count:]
    return array


def _shown(value: object) -> str:
    """A value for a message, and no more of it than a message takes."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
