"""The tensors of safetensors files: read, mapped, compared and written.

Small values are read with seek and read, which costs a tensor's own bytes; faulting pages in
through a memory map of a cold file costs many times as much for the many small `g_idx`. Large ones
can be mapped: they go to a GPU, or are computed with, from where the system keeps the file's pages.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices.file_pages import FilePages
from ..errors import CheckpointError
from .files import open_regular, replacing
from .safetensors_header import (
    BITS,
    LENGTH_BYTES,
    NUMPY_DTYPES,
    FileState,
    StoredTensor,
    digest_of,
    header_text,
    read_up_to,
    truncated,
    unreadable,
)

_DATA_ALIGN = 64
_CHUNK_BYTES = 1 << 20
_MAPPED_BYTES = 1 << 20  # of a tensor, from which on it is mapped where that is asked for


def read_tensors(
    tensors: Mapping[str, StoredTensor], *, mapped: bool = False
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """(name, values) of `tensors`, each read once into a new C-ordered array.

    In the order of the files and of the bytes in them, whatever the order asked. Raises
    CheckpointError for a file that is not as it was when its header was read.
    mapped: tensors from 1 MiB on are the file's pages, which nobody may write. What another program
    writes to the file later may show, and where it cuts the file short, the system ends the process
    that looks there.
    """
    by_place = sorted(tensors.items(), key=lambda item: (str(item[1].file), item[1].begin))
    for file, stored in groupby(by_place, key=lambda item: item[1].file):
        try:
            with open_regular(file) as handle:
                for number, (name, tensor) in enumerate(stored):
                    if not number:  # nothing is allocated for what is not there
                        _check_state(handle, name, tensor)
                    reads = _map if mapped and tensor.nbytes >= _MAPPED_BYTES else _read
                    yield name, reads(handle, name, tensor)
        except OSError as error:
            raise unreadable(file, error) from error


def announce(tensors: Iterable[StoredTensor]) -> None:
    """Tell the system that these are read soon, so that the disk works ahead of who reads them."""
    if not hasattr(os, "posix_fadvise"):
        return
    by_place = sorted(tensors, key=lambda tensor: (str(tensor.file), tensor.begin))
    for file, stored in groupby(by_place, key=lambda tensor: tensor.file):
        with suppress(OSError, CheckpointError), open_regular(file) as handle:
            for tensor in stored:
                extent = (handle.fileno(), tensor.begin, tensor.nbytes)
                os.posix_fadvise(*extent, os.POSIX_FADV_WILLNEED)


def same_bytes(name: str, a: StoredTensor, b: StoredTensor) -> bool:
    """True if the tensor `name` is the same in two files, type, shape and bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    try:
        with open_regular(a.file) as first, open_regular(b.file) as second:
            for handle, tensor in ((first, a), (second, b)):
                _check_state(handle, name, tensor)
                handle.seek(tensor.begin)
            for left in range(a.nbytes, 0, -_CHUNK_BYTES):
                count = min(left, _CHUNK_BYTES)
                if read_up_to(first, count) != read_up_to(second, count):
                    return False
    except OSError as error:
        raise unreadable(a.file, error) from error
    return True


def write_file(
    file: Path,
    header: Mapping[str, tuple[str, tuple[int, ...]]],
    arrays: Iterable[npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write tensors one after the other, so that no more than one array need exist at a time.

    header: name -> (dtype by its safetensors name, shape), in the order of `arrays`. A tensor may
    come in several arrays, one after the other. The file is there once it is whole. Returns
    its bytes. Raises CheckpointError where the arrays do not fill what the header announces, or the
    disk does.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in header.items():
        end = offset + math.prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Aligns the data further than the format asks of writers, so that kernels read mapped pages.
    text += b" " * (-(LENGTH_BYTES + len(text)) % _DATA_ALIGN)
    written = 0
    try:
        with replacing(file) as handle:
            handle.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            for array in arrays:
                flat = np.ascontiguousarray(array).reshape(-1)
                written += handle.write(flat.view(np.uint8).data)
            if written != offset:
                raise CheckpointError(
                    file, f"{offset} bytes of tensors, as the header announces", written
                )
    except OSError as error:
        raise CheckpointError(
            file, f"room for {offset} bytes", f"that it cannot be written ({error})"
        ) from error
    return LENGTH_BYTES + len(text) + offset


def _check_state(handle: FileIO, name: str, tensor: StoredTensor) -> None:
    """Refuse a file that is another than the one whose header was read: its offsets are stale."""
    found = FileState.of(handle)
    if found[:4] == tensor.state[:4]:
        return
    if found[2:4] == tensor.state[2:4]:  # of the same size and time, under another number
        handle.seek(0)
        if digest_of(header_text(handle, found.st_size, tensor.file)) == tensor.state.digest:
            return
    if found.st_size < tensor.begin + tensor.nbytes:
        raise truncated(tensor.file, name, tensor.begin + tensor.nbytes, found.st_size)
    what = "another file in its place" if found[:2] != tensor.state[:2] else "it written to since"
    raise CheckpointError(
        name,
        "the file as it was when its header was read",
        f"{what} ({tensor.state.st_size} bytes then, {found.st_size} now)",
        "open the checkpoint again once nothing writes to it",
        where=tensor.file,
    )


def _dtype(name: str, tensor: StoredTensor) -> np.dtype[Any]:
    if tensor.dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            name,
            f"a dtype among {', '.join(NUMPY_DTYPES)}",
            f"{tensor.dtype}, which NumPy does not have",
            where=tensor.file,
            code="tensor-type",
        )
    return NUMPY_DTYPES[tensor.dtype]


def _map(handle: FileIO, name: str, tensor: StoredTensor) -> npt.NDArray[Any]:
    """The file's pages as an array, which keeps them mapped."""
    dtype = _dtype(name, tensor)
    pages = FilePages.map(handle.fileno(), tensor.begin, tensor.nbytes)
    _check_state(handle, name, tensor)
    return pages.view(dtype).reshape(tensor.shape)


def _read(handle: FileIO, name: str, tensor: StoredTensor) -> npt.NDArray[Any]:
    array = np.empty(tensor.shape, _dtype(name, tensor))
    rest = memoryview(array.reshape(-1).view(np.uint8).data)
    handle.seek(tensor.begin)
    while len(rest):
        count = handle.readinto(rest)
        if not count:
            raise truncated(tensor.file, name, tensor.begin + tensor.nbytes, handle.tell())
        rest = rest[count:]
    _check_state(handle, name, tensor)  # after, for it may be written to meanwhile
    return array
