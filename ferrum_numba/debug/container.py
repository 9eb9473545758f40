"""The file of a recording: a zip whose members are read in the order in which they were written.

Writing goes through `zipfile`, unbuffered, so that what is in the file survives the process.
Reading walks from member to member and needs no directory at the end: a recording that a crash cut
short opens like any other, less its last, unfinished member.  Nothing in the file is executed, and
every length is checked before it is believed.

Source of the layout: PKWARE APPNOTE 6.3.10, 4.3.7 (local file header).
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordingError

FORMAT = {"format": "ferrum recording", "version": 1}  # as recording.json states it
MAX_TEXT_BYTES = 64 << 20  # of a PTX, a JSON or a run of launches, unpacked
MAX_ARRAY_BYTES = 1 << 31  # of one array
MAX_MEMBERS = 1_000_000
_MAX_RATIO = 256  # of unpacked bytes to stored ones: text comes to 30

_NAME = re.compile(
    r"recording\.json|ptx/[0-9a-f]{64}\.ptx|sidecars/[0-9a-f]{64}\.json|"
    r"calls/\d{1,9}\.json|launches/\d{1,9}\.(jsonl|rows)|arrays/[0-9a-f]{64}\.npy"
)
_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7
_CRC_AT = 14
_PADDING, _ALIGNED = struct.Struct("<3H"), 0xD935  # an extra field, as Android's zipalign has it
_OWNERS = 0o600  # permissions, once unpacked
# Bytes of a member of launches, the first and the largest.  To begin another costs about 0.1 ms.
_FIRST_RUN, _LARGEST_RUN = {"jsonl": 1 << 12, "rows": 1 << 15}, 1 << 20
ROW = struct.Struct("<dQIIQ")  # a launch of which there is no more to say; zeros: none
_MEMBER, _DIRECTORY = b"PK\3\4", (b"PK\1\2", b"PK\5\6", b"PK\6\6")
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_DTYPES = frozenset("?bBhHiIlLqQefd")
_pack_row = ROW.pack_into


class _WholeFile(io.FileIO):
    """A file without a buffer, whose writes may else stop short: on a full disk they raise."""

    def write(self, data: Any, /) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        nbytes = len(left)
        while len(left):
            left = left[super().write(left) :]
        return nbytes


class ContainerWriter:
    """Appends members.  Lines and rows go into members of blanks, which are filled through a map of
    the file: that takes no call of the system, and what is in the map survives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _WholeFile(path, "w+")
        self._zip = zipfile.ZipFile(self._file, "w", _STORED)
        self._lines: _Run | None = None
        self._rows: _Run | None = None
        self._runs = 0

    def add(self, name: str, data: bytes, *, pack: bool = False) -> None:
        """Write one member; pack: deflated, for text.  Raises RecordingError for a full disk."""
        self._write(name, data, _DEFLATED if pack else _STORED)

    def line(self, text: str) -> None:
        """Write one line of the launches, which is in the file when this returns.

        Raises RecordingError for a full disk, or where another process has cut the file.
        """
        self._require_whole()
        data = f"{text}\n".encode()
        if self._lines is None or not self._lines.put(data):
            self._lines = self._next_run(self._lines, "jsonl", b"\n", len(data))
            self._lines.put(data)

    def next_rows(self) -> tuple[int, int]:
        """End the rows and begin others: their address and how many there are.

        Whoever writes to the last ones has to have ended; those that were not written count for
        nothing.
        """
        self._require_whole()
        run = self._rows = self._next_run(self._rows, "rows", b"\0", ROW.size)
        return run.address, (run.end - run.at) // ROW.size

    def row(self, index: int, at: float, stream: int, call: int, flags: int, number: int) -> None:
        """Write one launch as one of the rows, in the file when this returns; number: from 1 on."""
        run = self._rows
        assert run is not None
        self._require_whole()
        _pack_row(run.map, run.at + index * ROW.size, at, stream, call, flags, number)

    def close(self) -> None:
        """End the file with the directory that other programs read; one that was cut stays so."""
        try:
            self._require_whole()
        except RecordingError:
            self._zip.fp = None  # so that it writes no directory
            self._file.close()
            return
        for run in (self._lines, self._rows):
            if run is not None:
                if run.stop == self._zip.start_dir:  # the last member: its blanks may go
                    self._zip.start_dir = run.trim()
                run.close(self._file)
        with suppress(OSError):
            self._file.truncate(self._zip.start_dir)
        with suppress(OSError):  # a full disk: our reader goes without the directory
            self._zip.close()
        self._file.close()

    def _require_whole(self) -> None:
        """Raise RecordingError where the file is shorter than its maps."""
        end = max((run.stop for run in (self._lines, self._rows) if run is not None), default=0)
        size = os.fstat(self._file.fileno()).st_size
        if size < end:
            said = f"{size}, for another process has cut it"
            raise RecordingError(str(self._path), f"{end} bytes or more", said)

    def _write(self, member: str | zipfile.ZipInfo, data: bytes, how: int = _STORED) -> None:
        try:
            self._zip.writestr(member, data, how)
        except OSError as error:
            raise RecordingError(str(self._path), f"cannot be written: {error.strerror}") from error

    def _next_run(self, last: _Run | None, kind: str, blank: bytes, least: int) -> _Run:
        """A member of blanks, larger than the last one."""
        if last is not None:
            last.close(self._file)
        nbytes = max(least, min(_FIRST_RUN[kind] << 2 * self._runs, _LARGEST_RUN))
        name = f"launches/{self._runs}.{kind}"
        member = zipfile.ZipInfo(name, time.localtime()[:6])
        member.external_attr = _OWNERS << 16
        member.extra = _padding(self._file.seek(0, io.SEEK_END) + _LOCAL.size + len(name))
        self._runs += 1
        self._write(member, blank * nbytes)
        return _Run(self._file, member)


def _padding(place: int) -> bytes:
    """An extra field after which contents that would begin at `place` do so at a whole row.

    Compiled code changes words of a row at once, for which they have to be aligned.
    """
    nbytes = -(place + _PADDING.size) % ROW.size
    return _PADDING.pack(_ALIGNED, 2 + nbytes, ROW.size) + bytes(nbytes)


class _Run:
    """A member that was written as blanks, to be filled: at, end are bytes of its map."""

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        start = info.header_offset + len(info.FileHeader())
        page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        self._info, self._start = info, start
        self._first = self.at = start - page
        self.end = self._first + info.file_size
        self.map = mmap.mmap(file.fileno(), self.end, offset=page)

    @property
    def address(self) -> int:
        """Address of its contents in memory, until it is closed."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map, self._first))

    def put(self, data: bytes) -> bool:
        """Add a line; False where there is no room for it."""
        end = self.at + len(data)
        if end > self.end:
            return False
        self.map[self.at : end] = data
        self.at = end
        return True

    @property
    def stop(self) -> int:
        """Position in the file behind it."""
        return self._start + self.end - self._first

    def trim(self) -> int:
        """Leave out the blanks behind the last line or row; where the file then goes on."""
        used = len(self.map[self._first : self.end].rstrip(b"\n\0")) + 1
        nbytes = min(-(-used // ROW.size) * ROW.size, self.end - self._first)
        self.end = self._first + nbytes
        self._info.file_size = self._info.compress_size = nbytes
        return self.stop

    def close(self, file: IO[bytes]) -> None:
        """Have the headers say what the contents have become."""
        self._info.CRC = zlib.crc32(self.map[self._first : self.end])
        self.map.close()
        file.seek(self._info.header_offset + _CRC_AT)
        size = self._info.file_size
        file.write(struct.pack("<LLL", self._info.CRC, size, size))


@dataclass(frozen=True)
class Member:
    """One member of the file; start and stored are bytes of the file, size of its contents."""

    name: str
    start: int
    stored: int
    size: int
    deflated: bool
    crc: int | None  # None: nobody could say any more, for the process ended


class Container:
    """The members of a recording's file, by name.  Raises RecordingError for any other file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, Member] = {}
        self.complete = False
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise RecordingError(str(path), "a regular file", "a folder, device or pipe")
            with path.open("rb") as file:
                self._length = file.seek(0, io.SEEK_END)
                members = list(islice(self._walk(file), MAX_MEMBERS + 1))
        except OSError as error:
            raise RecordingError(str(path), f"cannot be read: {error.strerror}") from None

        for member in members:
            if member.name in self.members:
                raise self._wrong("members", "each of them once", f"{member.name} twice")
            if not self.complete and member.name.startswith("launches/"):
                member = replace(member, crc=None)  # it may still have been written to
            self.members[member.name] = member
        if len(self.members) > MAX_MEMBERS:
            raise self._wrong("members", f"at most {MAX_MEMBERS}", "more")

    def text(self, name: str) -> bytes:
        """A member that is text.  Raises RecordingError."""
        return self._read(name, MAX_TEXT_BYTES)

    def array(self, name: str) -> NDArray[Any]:
        """A member that is an array in the npy format.  Raises RecordingError."""
        data = self._read(name, MAX_ARRAY_BYTES)
        stream = io.BytesIO(data)
        try:
            major, _ = np.lib.format.read_magic(stream)
            if major != 1:
                raise ValueError(f"version {major}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        except Exception as error:  # NumPy's parser lets errors of many types through
            raise self._wrong(name, "an npy header", f"{error!s:.80}") from None
        count = 1
        for extent in shape:
            count *= extent
        rest = len(data) - stream.tell()
        if dtype.char not in _DTYPES or fortran or min(shape, default=0) < 0:
            raise self._wrong(name, "numbers in C order", f"{dtype} {shape}")
        if count * dtype.itemsize != rest:
            raise self._wrong(name, f"{count * dtype.itemsize} bytes for {dtype} {shape}", rest)
        return np.frombuffer(data, dtype, count, stream.tell()).reshape(shape)

    def _read(self, name: str, limit: int) -> bytes:
        member = self.members.get(name)
        if member is None:
            raise self._wrong("members", f"a member {name}", "none")
        if max(member.size, member.stored) > limit:
            raise self._wrong(name, f"at most {limit} bytes", member.size)
        if member.deflated and member.size > _MAX_RATIO * (member.stored + 256):
            most = f"at most {_MAX_RATIO} bytes for each that is stored"
            raise self._wrong(name, most, f"{member.size} for {member.stored}")
        try:
            with self.path.open("rb") as file:
                file.seek(member.start)
                data = file.read(member.stored)
        except OSError as error:
            raise RecordingError(self.path.name, f"cannot be read: {error.strerror}") from None
        if member.deflated:
            try:
                unpack = zlib.decompressobj(-15)
                data = unpack.decompress(data, member.size)
                more = unpack.decompress(unpack.unconsumed_tail, 1) or not unpack.eof
            except zlib.error as error:
                raise self._wrong(name, f"cannot be unpacked: {error}") from None
            if more:
                raise self._wrong(name, f"{member.size} bytes", "another number")
        if len(data) != member.size:
            raise self._wrong(name, f"{member.size} bytes", len(data))
        if member.crc is not None and zlib.crc32(data) != member.crc:
            raise self._wrong(name, "its bytes are not those that were written (CRC-32)")
        return data

    def _walk(self, file: IO[bytes]) -> Iterator[Member]:
        """The members from the start on, until the directory or the place where the file ends."""
        at = 0
        while True:
            file.seek(at)
            header = file.read(_LOCAL.size)
            if header[:4] in _DIRECTORY:
                self.complete = True
                return
            if len(header) < _LOCAL.size or header[:4] != _MEMBER:
                if at == 0:
                    raise RecordingError(
                        self.path.name,
                        "a recording (a zip file)",
                        f"one that begins with {header[:4]!r}",
                    )
                if not any(begins.startswith(header[:4]) for begins in (_MEMBER, *_DIRECTORY)):
                    raise self._wrong("members", f"one at byte {at}", repr(header[:4]))
                return
            member = self._member(file, at, header)
            if member is None:
                return
            yield member
            if member.crc is None:  # the file was cut off here
                return
            at = member.start + member.stored

    def _member(self, file: IO[bytes], at: int, header: bytes) -> Member | None:
        """The member whose header lies at a byte; None where the file ends before its contents."""
        _, _, flags, method, _, _, crc, stored, size, named, extra = _LOCAL.unpack(header)
        raw = file.read(named)
        start = at + _LOCAL.size + named + extra
        if len(raw) < named or start > self._length:
            return None
        name = raw.decode("ascii", "replace")
        if _NAME.fullmatch(name) is None:
            raise self._wrong("members", "those of a recording", repr(name[:80]))
        if flags & ~0x800 or method not in (_STORED, _DEFLATED):
            raise self._wrong(name, "a plain member", f"flags {flags:#x}")
        if start + stored > self._length:
            rest = self._length - start
            lines = name.startswith("launches/")
            return Member(name, start, rest, rest, False, None) if lines else None
        if method == _STORED and stored != size:
            raise self._wrong(name, f"{size} bytes", stored)
        return Member(name, start, stored, size, method == _DEFLATED, crc)

    def _wrong(self, *parts: object) -> RecordingError:
        return RecordingError(*parts, where=self.path.name)


def npy(array: NDArray[Any]) -> bytes:
    """An array in the npy format, without objects."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return stream.getvalue()
