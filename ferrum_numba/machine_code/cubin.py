"""A cubin: machine code of one GPU architecture, and what it says of its entries.

An ELF file of 64 bits.  Of each entry NAME there are sections .text.NAME, .nv.info.NAME (a list of
attributes: parameters, block, cluster), .nv.shared.NAME and .nv.constant0.NAME; .nv.info has the
registers and stacks of all.  Nothing of it is documented but the ELF: numbers of attributes are as
cuobjdump -elf names them (EIATTR_...), and the flags as LLVM's ELF.h has them (EF_CUDA_...).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..errors import PtxError

MARK = b"\x7fELF"

_CUDA = 190  # EM_CUDA
_NEWER = 8  # e_ident[EI_ABIVERSION] from which on the flags have another layout
_ACCELERATED = 0x800  # of the older layout
_SHARED_RESERVED = 1024  # bytes at the start of shared memory that are the system's
# Kinds of values in .nv.info: a halfword or less, or so many bytes.
_SIZED = 4
# Attributes
_REGISTERS, _FRAME, _MAX_THREADS, _REQUIRED_THREADS = 0x2F, 0x11, 0x05, 0x10
_PARAMETER, _WIDE_PARAMETER, _PARAMETER_BYTES, _CLUSTER = 0x17, 0x45, 0x19, 0x3D
_ARCHITECTURE = re.compile(rb"-arch[ =](sm_\d+[af]?)\b")  # in the note of the tool that wrote it

Extent = tuple[int, int, int]


@dataclass(frozen=True)
class CubinParameter:
    """A parameter: its place in the block of an entry, in bytes.  Names and types are gone."""

    offset: int
    size: int


@dataclass(frozen=True)
class CubinEntry:
    """An entry, as its cubin describes it.

    nbytes: of the parameter block.  registers: of a thread.  local_bytes: of a thread's stack.
    shared_bytes: static, of a CTA.  max_threads, required_threads: a block, or None.
    cluster: CTAs of the clusters that it demands, or None.
    """

    name: str
    params: tuple[CubinParameter, ...]
    nbytes: int
    registers: int
    local_bytes: int
    shared_bytes: int
    max_threads: Extent | None = None
    required_threads: Extent | None = None
    cluster: Extent | None = None


@dataclass(frozen=True)
class _Section:
    name: str
    offset: int
    size: int
    entry_size: int
    link: int
    content: memoryview


class Cubin:
    """Raises PtxError for bytes that are no cubin, or not a whole one.

    data: all bytes.  target: "sm_90a"; without the letter where the file does not say it.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        if data[:4] != MARK:
            raise PtxError("cubin", "an ELF file", f"{data[:8]!r}")
        try:
            if data[4:6] != b"\2\1" or struct.unpack_from("<H", data, 18)[0] != _CUDA:
                raise PtxError(
                    "cubin", "an ELF file of CUDA", "one of another machine", "take the .cubin"
                )
            self._sections = self._read_sections()
            self.target = self._read_target()
            self.entries = {entry.name: entry for entry in self._read_entries()}
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise PtxError(
                "cubin", "a whole ELF file", f"{len(data)} bytes that end too early ({error})"
            ) from None
        if not self.entries:
            raise PtxError("cubin", "an entry", "none; is it relocatable device code (nvcc -dc)?")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cubin) and other.data == self.data

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.data)

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """True if a GPU of this compute capability runs it."""
        return runs_on(self.target, capability)

    def _read_sections(self) -> list[_Section]:
        data = memoryview(self.data)
        (at,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        raw = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
        place = raw[names][4]
        found = []
        for name, kind, _, _, offset, nbytes, link, _, _, each in raw:
            content = data[:0] if kind == 8 else data[offset : offset + nbytes]  # SHT_NOBITS
            if kind not in (0, 8) and len(content) < nbytes:
                raise struct.error(f"a section of {nbytes} bytes at {offset}")
            found.append(_Section(_text(data, place + name), offset, nbytes, each, link, content))
        return found

    def _read_target(self) -> str:
        (flags,) = struct.unpack_from("<I", self.data, 0x30)
        newer = self.data[8] >= _NEWER
        number = flags >> 8 & 0xFF if newer else flags & 0xFF
        for section in self._sections:
            if section.name == ".note.nv.tkinfo":
                stated = _ARCHITECTURE.search(bytes(section.content))
                if stated and stated[1].decode()[3:].rstrip("af") == str(number):
                    return stated[1].decode()
        return f"sm_{number}" + ("a" if not newer and flags & _ACCELERATED else "")

    def _read_entries(self) -> Iterator[CubinEntry]:
        sections = {section.name: section for section in self._sections}
        symbols = self._symbols()
        registers: dict[str, int] = {}
        frames: dict[str, int] = {}
        general = sections.get(".nv.info")
        for attribute, value in _attributes(general.content) if general else ():
            if attribute in (_REGISTERS, _FRAME):
                symbol, number = struct.unpack("<II", value)
                (registers if attribute == _REGISTERS else frames)[symbols[symbol]] = number
        reserved = _SHARED_RESERVED if ".nv.shared.reserved.0" in sections else 0
        for name, section in sections.items():
            if not name.startswith(".nv.info."):
                continue
            entry = name.removeprefix(".nv.info.")
            shared = sections.get(f".nv.shared.{entry}")
            static = max(shared.size - reserved, 0) if shared else 0
            said = list(_attributes(section.content))
            one = dict(said)
            if _PARAMETER_BYTES not in one and f".text.{entry}" not in sections:
                continue
            yield CubinEntry(
                name=entry,
                params=_parameters(said),
                nbytes=int.from_bytes(one.get(_PARAMETER_BYTES, b""), "little"),
                registers=registers.get(entry, 0),
                local_bytes=frames.get(entry, 0),
                shared_bytes=static,
                max_threads=_extent(one.get(_MAX_THREADS)),
                required_threads=_extent(one.get(_REQUIRED_THREADS)),
                cluster=_extent(one.get(_CLUSTER)),
            )

    def _symbols(self) -> list[str]:
        """The names of all symbols, by their numbers."""
        table = next((s for s in self._sections if s.name == ".symtab"), None)
        if table is None or not table.entry_size:
            return []
        names = self._sections[table.link]
        starts = range(0, len(table.content), table.entry_size)
        places = (struct.unpack_from("<I", table.content, start)[0] for start in starts)
        return [_text(names.content, place) for place in places]


def runs_on(target: str, capability: tuple[int, int]) -> bool:
    """True if a GPU of this capability runs machine code for `target`: one of the same major
    number, not older.  Code for an architecture alone ("sm_90a") needs just that.
    """
    major, minor = divmod(int(target[3:].rstrip("af")), 10)
    if target.endswith("a"):
        return capability == (major, minor)
    return capability[0] == major and capability[1] >= minor


def _text(data: memoryview, start: int) -> str:
    end = start
    while data[end]:
        end += 1
    return bytes(data[start:end]).decode()


def _attributes(content: memoryview) -> Iterator[tuple[int, bytes]]:
    """(number, value) of a list of attributes."""
    at = 0
    while at + 4 <= len(content):
        kind, attribute, value = struct.unpack_from("<BBH", content, at)
        at += 4
        if kind == _SIZED:
            yield attribute, bytes(content[at : at + value])
            at += value
        else:
            yield attribute, value.to_bytes(2, "little")


def _parameters(said: list[tuple[int, bytes]]) -> tuple[CubinParameter, ...]:
    found: dict[int, CubinParameter] = {}
    for attribute, value in said:
        if attribute == _PARAMETER:
            _, ordinal, offset, bits = struct.unpack("<IHHI", value)
            found[ordinal] = CubinParameter(offset, bits >> 18)
        elif attribute == _WIDE_PARAMETER:
            _, ordinal, offset, size = struct.unpack("<IHHI", value)
            found[ordinal] = CubinParameter(offset, size)
    if sorted(found) != list(range(len(found))):
        raise PtxError("cubin", "each parameter once, in .nv.info", f"numbers {sorted(found)}")
    return tuple(found[ordinal] for ordinal in sorted(found))


def _extent(value: bytes | None) -> Extent | None:
    if value is None:
        return None
    x, y, z = struct.unpack("<III", value)
    return x, y, z
