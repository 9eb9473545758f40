"""The events of one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..checks.arrays import LaunchArray
from ..checks.finding import Finding
from ..layout import LANES, Triple
from ..ptx import Body, Instruction, Register
from ..types import ADDRESS, Values, held_types, uses
from .access import Access
from .event import Event, Events
from .selection import Selection
from .sites import KINDS, Site, full_name

_NEAR = 1 << 12  # bytes
_STRETCH = 40  # bits: addresses that an array has to itself


class TracedLaunch(Events):
    """The events of one launch, those of a CTA in the order in which they came.

    entry, grid, block: of the launch.  number: of the launch among those of a trace.
    body: the entry's instructions.  selection: what was traced.  arrays: what the launch was given.
    dropped: how many events came after the last that was kept.
    findings: accesses that would have left the arrays; they were left out.
    headers: HEADER of each event.  sites: what their marks mean.
    """

    def __init__(
        self,
        entry: str,
        body: Body,
        sites: Sequence[Site],
        tape: tuple[NDArray[np.void], NDArray[np.uint8], int],
        grid: Triple,
        block: Triple,
        selection: Selection,
        arrays: Sequence[LaunchArray],
        findings: Sequence[Finding],
        number: int = 0,
    ) -> None:
        self.entry, self.grid, self.block, self.number = entry, grid, block, number
        self.body, self.sites, self.selection = body, sites, selection
        self.arrays, self.findings = arrays, findings
        self.headers, self._payload, self.dropped = tape
        self._held = held_types(s for s in body.statements if isinstance(s, Instruction))
        self._types = [_types_of(site, self._held) for site in sites]

    def __len__(self) -> int:
        return len(self.headers)

    def __repr__(self) -> str:
        return f"<TracedLaunch {self.number} of {self.entry}: {len(self)} events>"

    def of_warp(self, cta: Triple, warp: int) -> NDArray[np.int64]:
        """The numbers of one warp's events."""
        x, y, z = cta
        number = x + self.grid[0] * (y + self.grid[1] * z)
        return np.flatnonzero((self.headers["cta"] == number) & (self.headers["warp"] == warp))

    def site_of(self, place: int) -> Site:
        """The instruction of an event, by its place, with the registers that it names."""
        return self.sites[int(self.headers["mark"][place]) - 1]

    def source_of(self, instruction: Instruction) -> tuple[str | None, int | None]:
        """File and line of the source, where the PTX says them."""
        return self.body.source_of(instruction)

    def place_of(self, address: int, nbytes: int) -> str:
        """`a[3, 5]`: what lies at an address in global memory; "" for nothing of the launch.

        Not far from an array it is `a+1088` or `a-2`, in bytes from where it begins.
        """
        near = ""
        for array in self.arrays:
            offset = address - array.address
            if 0 <= offset <= array.nbytes - nbytes:
                return f"{array.name}{array.element(offset) or f'+{offset}'}"
            if -_NEAR < offset < array.nbytes + _NEAR:
                near = f"{array.name}{offset:+}"
        return near

    def _access(self, record: np.void) -> Access:
        space, kind = KINDS[int(record["kind"])]
        addresses = np.asarray(record["addresses"], np.uint64).reshape(LANES)
        places = addresses
        if space == "global":
            places = addresses.copy()
            for number, array in enumerate(self.arrays, 1):
                offsets = addresses - np.uint64(array.address)  # wraps, where it lies before
                inside = offsets < array.nbytes
                places[inside] = (number << _STRETCH) + offsets[inside]
        nbytes, mask = int(record["nbytes"]), int(record["mask"])
        return Access(space, kind, nbytes, mask, addresses, places)

    def values_of(self, place: int, name: str) -> tuple[Values, int]:
        """Values of a register after an event that mentions it, and the lanes that they are of.

        Raises KeyError where the event does not mention it.
        """
        site, record = self.site_of(place), self._record(place)
        known = int(self.headers["active"][place])
        for letter, registers, types in (
            ("w", site.writes, self._types[site.number][1]),
            ("r", site.reads, self._types[site.number][0]),
        ):
            for i, register in enumerate(registers):
                if full_name(register) == name:
                    return Values(types[register], record[f"{letter}{i}"]), known
        raise KeyError(name)

    def _record(self, place: int) -> np.void:
        """The payload of an event, in the form of its site."""
        offset, dtype = int(self.headers["offset"][place]), self.site_of(place).dtype
        record: np.void = self._payload[offset : offset + dtype.itemsize].view(dtype)[0]
        return record

    def _event(self, place: int) -> Event:
        header = self.headers[place]
        site, record = self.site_of(place), self._record(place)
        ins = site.instruction
        reads, writes = (
            {
                full_name(register): Values(types[register], record[f"{letter}{i}"])
                for i, register in enumerate(registers)
            }
            for letter, registers, types in zip(
                "rw", (site.reads, site.writes), self._types[site.number], strict=True
            )
        )
        source, line = self.source_of(ins)
        cta, x, y = int(header["cta"]), self.grid[0], self.grid[1]
        return Event(
            number=place,
            launch=self.number,
            line=ins.line,
            instruction=" ".join(ins.text.split()),
            opcode=ins.opcode.text,
            source=source,
            source_line=line,
            cta=(cta % x, cta // x % y, cta // (x * y)),
            warp=int(header["warp"]),
            mask=int(header["mask"]),
            active=int(header["active"]),
            reads=reads,
            writes=writes,
            accesses=tuple(
                self._access(record[f"a{i}"])
                for i in range(site.accesses)
                if record[f"a{i}"]["nbytes"] and record[f"a{i}"]["mask"]
            ),
        )


def _types_of(
    site: Site, held: dict[Register, str] | object
) -> tuple[dict[Register, str], dict[Register, str]]:
    """The types of what an instruction reads and writes; where it says none, what is held."""
    assert isinstance(held, dict)
    found: tuple[dict[Register, str], dict[Register, str]] = ({}, {})
    for register, ptx_type, written in uses(site.instruction):
        plain = ptx_type.startswith("b") and not ptx_type.startswith("bf")
        integer = ptx_type[0] in "su" and held.get(register) == ADDRESS
        if plain or integer:
            ptx_type = held.get(register, ptx_type)
        found[written][register] = ptx_type
    for types, registers in zip(found, (site.reads, site.writes), strict=True):
        for register in registers:
            fallback = "pred" if register.bits == 1 else held.get(register, f"b{register.bits}")
            types.setdefault(register, fallback)
    return found
