"""A fatbin: cubins of several architectures in one file, and PTX for later ones.

Its layout is nowhere documented; it is as nvcc 11 to 13 write it.  A head of 16 bytes, then
members, each with a head that says kind, architecture, sizes and how it is compressed.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from ..errors import PtxError
from .cubin import Cubin, runs_on

MARK = b"\x50\xed\x55\xba"

_HEAD = struct.Struct("<4sHHQ")
_MEMBER = struct.Struct("<HHIQIIHHIIIQQQ")
_PTX, _CUBIN = 1, 2
_LZ4, _ZSTD, _ACCELERATED = 0x2000, 0x8000, 0x100000


@dataclass(frozen=True)
class FatbinMember:
    """A cubin, or PTX.  target: "sm_90a".  compression: "", "LZ4" or "zstd".

    packed: as it lies in the file.  nbytes: without compression.
    """

    is_cubin: bool
    target: str
    compression: str
    packed: bytes
    nbytes: int

    @cached_property
    def content(self) -> bytes:
        """The bytes of the cubin, or of the PTX's text.

        Raises PtxError for what cannot be decompressed here.
        """
        if self.compression == "LZ4":
            return _from_lz4(self.packed, self.nbytes)
        if self.compression == "zstd":
            return _from_zstd(self.packed, self.nbytes)
        return self.packed


class Fatbin:
    """Raises PtxError for bytes that are no fatbin, or not a whole one."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.members = tuple(_members(data))

    @property
    def targets(self) -> list[str]:
        """The architectures that it has code for."""
        return [member.target for member in self.members]

    def cubin_for(self, capability: tuple[int, int]) -> Cubin | None:
        """The cubin that a GPU of this capability runs best; None where there is none."""
        fitting = [m for m in self.members if m.is_cubin and runs_on(m.target, capability)]
        return Cubin(max(fitting, key=lambda m: m.target).content) if fitting else None

    @property
    def ptx(self) -> str | None:
        """The PTX for the newest architecture; None where there is none."""
        texts = [member for member in self.members if not member.is_cubin]
        if not texts:
            return None
        content = max(texts, key=lambda m: m.target).content
        return content.rstrip(b"\0").decode("utf-8", errors="replace")


def _members(data: bytes) -> Iterator[FatbinMember]:
    try:
        mark, _, head, size = _HEAD.unpack_from(data)
        if mark != MARK:
            raise PtxError("fatbin", "a file that begins with its mark", f"{data[:8]!r}")
        at, end = head, head + size
        if end > len(data):
            raise PtxError("fatbin", f"{end} bytes, as its head says", len(data), "copy it again")
        while at < end:
            fields = _MEMBER.unpack_from(data, at)
            kind, _, head, size, packed, *_ = fields
            number, flags, nbytes = fields[8], fields[11], fields[13]
            if head < _MEMBER.size or at + head + size > end:
                raise struct.error(f"a member of {size} bytes behind a head of {head}, at {at}")
            compression = "zstd" if flags & _ZSTD else "LZ4" if flags & _LZ4 else ""
            start = at + head
            content = data[start : start + (packed if compression else size)]
            if kind in (_PTX, _CUBIN):
                letter = "a" if flags & _ACCELERATED else ""
                yield FatbinMember(
                    kind == _CUBIN, f"sm_{number}{letter}", compression, content, nbytes or size
                )
            at = start + size
    except struct.error as error:
        raise PtxError("fatbin", "a whole file", f"one that ends too early ({error})") from None


def _from_zstd(packed: bytes, nbytes: int) -> bytes:
    for name, call in (("compression.zstd", "decompress"), ("zstandard", "decompress")):
        try:
            decompress: Callable[[bytes], bytes] = getattr(importlib.import_module(name), call)
        except (ImportError, AttributeError):
            continue
        return decompress(packed)
    raise PtxError(
        "fatbin",
        "members that are not compressed, or by LZ4",
        f"one of {nbytes} bytes compressed by zstd",
        "install zstandard, take Python 3.14, or build it with nvcc --no-compress",
    )


def _from_lz4(packed: bytes, nbytes: int) -> bytes:
    """A block of LZ4.  Source: "LZ4 Block Format Description" of the LZ4 project."""
    found = bytearray()
    at = 0
    try:
        while at < len(packed):
            token = packed[at]
            count, at = _length(packed, at + 1, token >> 4)
            found += packed[at : at + count]
            at += count
            if at >= len(packed):
                break
            (back,) = struct.unpack_from("<H", packed, at)
            count, at = _length(packed, at + 2, token & 15)
            start = len(found) - back
            if not back or start < 0:
                raise IndexError(start)
            copied, count = found[start:], count + 4
            while len(copied) < count:  # what is copied may be what was just written
                copied *= 2
            found += copied[:count]
    except (IndexError, struct.error):
        found.clear()
    if len(found) != nbytes:
        raise PtxError("fatbin", f"a member of {nbytes} bytes, compressed by LZ4", "a damaged one")
    return bytes(found)


def _length(packed: bytes, at: int, count: int) -> tuple[int, int]:
    """A length that begins with four bits, and where it ends."""
    if count == 15:
        while True:
            more = packed[at]
            count, at = count + more, at + 1
            if more != 255:
                break
    return count, at
