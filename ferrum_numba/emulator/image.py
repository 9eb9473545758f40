"""Object code laid into this process's memory, its references filled in.

What LLVM writes for an x86-64 under ELF in its large code model is so simple that LLVM is not
needed to load it: sections that are read and run, and addresses of 64 bits.  A process whose code
all comes from the cache so never loads LLVM, which would take it a tenth of a second and tens of
megabytes.  Other object code LLVM lays itself (compiler.py).

Source: System V ABI, "Object Files"; its AMD64 supplement, "Relocation".
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from ..errors import DeviceError
from .host import Host

_ELF, _X86_64 = b"\x7fELF\x02\x01\x01", 62  # 64 bits, little-endian
_HEADER = struct.Struct("<16s2HI3QI6H")
_SECTION = struct.Struct("<2I4Q2I2Q")
_SYMBOL = struct.Struct("<I2BH2Q")
_RELOCATION = struct.Struct("<Q2Iq")
_SYMBOLS, _RELOCATIONS, _BLANK = 2, 4, 8  # types of sections
_WRITABLE, _LOADED = 1, 2  # flags of sections
_ADDRESS = 1  # the relocation R_X86_64_64
_LOCAL = 0


class Image(Protocol):
    """Code in memory, which stays there as long as this."""

    def address(self, name: str) -> int:
        """Address of a function."""


def image(objects: Iterable[bytes], host: Host, given: Mapping[str, int] | None = None) -> Image:
    """Object files that refer to each other, to functions of this process, and to what is given.

    Raises DeviceError where the system lets nobody make code.
    """
    contents = list(objects)
    files = [_File.read(content) for content in contents]
    plain = [file for file in files if file is not None]
    if len(plain) == len(files):
        return _Laid(plain, given or {})
    from .compiler import Linked

    return Linked(contents, host, given or {})


class _Section(NamedTuple):
    kind: int
    flags: int
    offset: int
    nbytes: int
    link: int
    info: int
    align: int


class _Symbol(NamedTuple):
    """name: "" for those of one file alone.  section: 0 where others define it."""

    name: str
    section: int
    value: int


class _Reference(NamedTuple):
    """An address of 64 bits, at an offset of a section: the symbol's, and `more`."""

    section: int
    offset: int
    symbol: int
    more: int


class _File:
    """An object file."""

    def __init__(self, content: bytes, sections: list[_Section]) -> None:
        self._content, self.sections = content, sections
        self.loaded = [i for i, s in enumerate(sections) if s.flags & _LOADED and s.nbytes]
        self.symbols = list(self._symbols())
        self.references = list(self._references())

    @classmethod
    def read(cls, content: bytes) -> _File | None:
        """The file, or None for one that needs more than is done here."""
        if not content.startswith(_ELF) or os.name != "posix":
            return None
        header = _HEADER.unpack_from(content)
        machine, start, size, count = header[2], header[6], header[11], header[12]
        if machine != _X86_64 or size != _SECTION.size:
            return None
        sections = []
        for i in range(count):
            _, kind, flags, _, offset, nbytes, link, info, align, _ = _SECTION.unpack_from(
                content, start + i * size
            )
            sections.append(_Section(kind, flags, offset, nbytes, link, info, align))
        if any(s.flags & _LOADED and s.flags & _WRITABLE for s in sections):
            return None
        kinds = {
            kind
            for s in sections
            if s.kind == _RELOCATIONS
            for _, kind, _, _ in _RELOCATION.iter_unpack(_part(content, s))
        }
        return cls(content, sections) if kinds <= {_ADDRESS} else None

    def bytes_of(self, number: int) -> bytes:
        """Content of a section when it is loaded."""
        section = self.sections[number]
        return bytes(section.nbytes) if section.kind == _BLANK else _part(self._content, section)

    def _symbols(self) -> Iterator[_Symbol]:
        for section in self.sections:
            if section.kind == _SYMBOLS:
                names = _part(self._content, self.sections[section.link])
                for place, info, _, where, value, _ in _SYMBOL.iter_unpack(
                    _part(self._content, section)
                ):
                    shown = names[place : names.index(b"\0", place)].decode()
                    yield _Symbol(shown if info >> 4 != _LOCAL else "", where, value)

    def _references(self) -> Iterator[_Reference]:
        for section in self.sections:
            if section.kind == _RELOCATIONS and section.info in self.loaded:
                for offset, _, symbol, more in _RELOCATION.iter_unpack(
                    _part(self._content, section)
                ):
                    yield _Reference(section.info, offset, symbol, more)


def _part(content: bytes, section: _Section) -> bytes:
    return content[section.offset : section.offset + section.nbytes]


class _Laid:
    """Files that were laid here."""

    def __init__(self, files: list[_File], given: Mapping[str, int]) -> None:
        places: list[dict[int, int]] = []
        nbytes = 0
        for file in files:
            own = {}
            for number in file.loaded:
                align = max(1, file.sections[number].align)
                own[number] = nbytes = -(-nbytes // align) * align
                nbytes += file.sections[number].nbytes
            places.append(own)
        open_to = mmap.PROT_READ | mmap.PROT_WRITE
        self._memory = mmap.mmap(-1, max(1, nbytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, open_to)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._known = dict(given)
        for file, own in zip(files, places, strict=True):
            for symbol in file.symbols:
                if symbol.name and symbol.section in own:
                    self._known[symbol.name] = base + own[symbol.section] + symbol.value
        for file, own in zip(files, places, strict=True):
            self._fill(file, own, base)
        _seal(base, len(self._memory))

    def _fill(self, file: _File, own: Mapping[int, int], base: int) -> None:
        """Copy a file's sections, and write the addresses that they refer to."""
        for number, place in own.items():
            content = file.bytes_of(number)
            self._memory[place : place + len(content)] = content
        for section, offset, number, more in file.references:
            symbol = file.symbols[number]
            target = (
                base + own[symbol.section] + symbol.value
                if symbol.section in own
                else self.address(symbol.name)
            )
            struct.pack_into("<Q", self._memory, own[section] + offset, target + more)

    def address(self, name: str) -> int:
        if name not in self._known:
            function = getattr(ctypes.CDLL(None), name)
            self._known[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
        return self._known[name]


def _seal(address: int, nbytes: int) -> None:
    """Have memory run, and nobody write to it any more."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(address, nbytes, mmap.PROT_READ | mmap.PROT_EXEC):
        said = os.strerror(ctypes.get_errno())
        raise DeviceError("code", "memory that may run what was written to it", said)
