"""Inspection of machine code: a cubin, a fatbin, or a folder of Triton's cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...abi import TritonBuild
from ...errors import PtxError
from ...machine_code import Cubin, Fatbin, read_code
from .occupancy import find_sm, resident_ctas

Extent = tuple[int, int, int]


@dataclass(frozen=True)
class InspectedCode:
    """An entry of a cubin.  params: (offset, bytes) of each.  Bytes of shared memory are of a CTA,
    and static; registers and local_bytes of a thread.

    ctas_per_sm: that an SM holds at once, without dynamic shared memory; None without a block.
    """

    entry: str
    nbytes: int
    params: tuple[tuple[int, int], ...]
    registers: int
    shared_bytes: int
    local_bytes: int
    block: Extent | None
    max_block: Extent | None
    cluster: Extent | None
    ctas_per_sm: int | None


@dataclass(frozen=True)
class InspectedCubin:
    """A cubin."""

    target: str
    nbytes: int
    sha256: str
    entries: tuple[InspectedCode, ...]


@dataclass(frozen=True)
class InspectedMember:
    """A member of a fatbin.  kind: "cubin" or "PTX".  unreadable: why it was not looked into."""

    kind: str
    target: str
    nbytes: int
    compression: str
    unreadable: str = ""


@dataclass(frozen=True)
class MachineCode:
    """A file of machine code, or the cubin of a folder.

    members: of a fatbin.  disagreements: of the parts of a folder of Triton's cache.
    """

    name: str
    cubins: tuple[InspectedCubin, ...]
    members: tuple[InspectedMember, ...] = ()
    disagreements: tuple[str, ...] = ()


def inspect_code(path: Path) -> MachineCode:
    """A cubin or a fatbin.  Raises PtxError for what is neither."""
    code = read_code(path)
    if isinstance(code, Cubin):
        return MachineCode(str(path), (_cubin(code),))
    return _fatbin(str(path), code)


def inspect_build(build: TritonBuild) -> MachineCode:
    """The machine code of a folder of Triton's cache, beside its PTX and its metadata."""
    cubins = (_cubin(build.cubin),) if build.cubin else ()
    return MachineCode(str(build.folder), cubins, (), tuple(build.disagreements()))


def _fatbin(name: str, fatbin: Fatbin) -> MachineCode:
    members, cubins = [], []
    for member in fatbin.members:
        reason = ""
        try:
            if member.is_cubin:
                cubins.append(_cubin(Cubin(member.content)))
        except PtxError as error:
            reason = str(error)
        kind = "cubin" if member.is_cubin else "PTX"
        row = InspectedMember(kind, member.target, member.nbytes, member.compression, reason)
        members.append(row)
    return MachineCode(name, tuple(cubins), tuple(members))


def _cubin(cubin: Cubin) -> InspectedCubin:
    sm, rows = find_sm(cubin.target), []
    for entry in cubin.entries.values():
        block = entry.required_threads or entry.max_threads
        ctas = None
        if sm is not None and block is not None and entry.registers:
            threads = block[0] * block[1] * block[2]
            ctas = resident_ctas(sm, threads, entry.registers, entry.shared_bytes)
        rows.append(
            InspectedCode(
                entry=entry.name,
                nbytes=max((p.offset + p.size for p in entry.params), default=0),
                params=tuple((p.offset, p.size) for p in entry.params),
                registers=entry.registers,
                shared_bytes=entry.shared_bytes,
                local_bytes=entry.local_bytes,
                block=entry.required_threads,
                max_block=entry.max_threads,
                cluster=entry.cluster,
                ctas_per_sm=ctas,
            )
        )
    digest = hashlib.sha256(cubin.data).hexdigest()
    return InspectedCubin(cubin.target, len(cubin.data), digest, tuple(rows))
