"""Stepping: a cursor over the events of one warp, forwards and backwards.

The instruction at the cursor has just been executed: registers are as it left them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError
from ..layout import LANES, Triple
from ..types import Values
from .condition import Condition
from .event import Event
from .launch import TracedLaunch
from .sites import Site, full_name

_PLACE = re.compile(
    r"(?:(?P<line>\d+)|(?P<file>[^\s:]*):(?P<source>\d+))(?:\s+if\s+(?P<condition>.+))?"
)


@dataclass(frozen=True)
class Breakpoint:
    """Place to stop: a PTX line, the start of a source line, or where a condition holds.

    A condition alone is looked at wherever one of its registers is written.
    """

    text: str
    line: int | None = None
    file: str = ""
    source_line: int | None = None
    condition: Condition | None = None

    @classmethod
    def parse(cls, text: str) -> Breakpoint:
        """`120`, `kernel.py:45`, `:45`, `%r12 > 100`, `120 if %r12 > 100`.  Raises DeviceError."""
        match = _PLACE.fullmatch(text.strip())
        if match is None:
            return cls(text.strip(), condition=Condition(text))
        return cls(
            text.strip(),
            int(match["line"]) if match["line"] else None,
            match["file"] or "",
            int(match["source"]) if match["source"] else None,
            Condition(match["condition"]) if match["condition"] else None,
        )


class Replay:
    """The events of one warp of a launch, and a cursor at one of them.

    position: the cursor, from 0 on.
    """

    def __init__(self, launch: TracedLaunch, cta: Triple, warp: int) -> None:
        """Raises DeviceError where nothing of this warp was traced."""
        self.launch, self.cta, self.warp = launch, cta, warp
        self.places = launch.of_warp(cta, warp)
        if not len(self.places):
            raise DeviceError(f"CTA {cta}, warp {warp}", "nothing was traced of it")
        self.position = 0
        self._sites = launch.headers["mark"][self.places] - 1
        self._mentions: dict[str, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self.places)

    @property
    def event(self) -> Event:
        """The event at the cursor."""
        return self.launch[int(self.places[self.position])]

    def move(self, steps: int) -> None:
        """Move the cursor, as far as there are events."""
        self.position = min(max(self.position + steps, 0), len(self) - 1)

    def move_line(self, direction: int) -> None:
        """Move to the first event of the next source line (1), or of the one before (-1)."""
        here = self._source(self.position)
        position = self.position
        while 0 <= position + direction < len(self) and self._source(position) == here:
            position += direction
        there = self._source(position)
        while direction < 0 and position > 0 and self._source(position - 1) == there:
            position -= 1
        self.position = position

    def run(
        self, breakpoints: list[Breakpoint], direction: int = 1
    ) -> tuple[Breakpoint, int] | None:
        """Move to the next stop: the breakpoint, and the lanes in which its condition holds.

        None where there is none; then the cursor is at the last event, or at the first.
        """
        candidates = [self._candidates(breakpoint) for breakpoint in breakpoints]
        places = np.flatnonzero(np.any(candidates, axis=0)) if candidates else np.empty(0, int)
        ahead = places[places > self.position] if direction > 0 else places[places < self.position]
        for position in ahead if direction > 0 else ahead[::-1]:
            for breakpoint, hits in zip(breakpoints, candidates, strict=True):
                lanes = self._lanes(breakpoint, int(position)) if hits[position] else 0
                if lanes:
                    self.position = int(position)
                    return breakpoint, lanes
        self.position = len(self) - 1 if direction > 0 else 0
        return None

    def register(self, name: str, position: int | None = None) -> tuple[Values, int] | None:
        """Values of a register at the cursor, and the lanes where they are known; None: in none."""
        last = self.position if position is None else position
        found: tuple[Values, int] | None = None
        for place in self._before(name, last):
            values, known = self.launch.values_of(int(self.places[place]), name)
            if found is None:
                found = Values(values.type, values.bits.copy()), known
            else:
                newer, have = found
                for lane in range(LANES):
                    if known >> lane & 1 and not have >> lane & 1:
                        newer.bits[lane] = values.bits[lane]
                found = newer, have | known
            if found[1] == (1 << LANES) - 1:
                break
        return found

    def names(self) -> list[str]:
        """The registers that are known at the cursor, in the order in which they first came."""
        seen: dict[str, None] = {}
        for number in dict.fromkeys(self._sites[: self.position + 1].tolist()):
            site = self.launch.sites[number]
            for register in (*site.reads, *site.writes):
                seen.setdefault(full_name(register))
        return list(seen)

    def _before(self, name: str, last: int) -> Iterator[int]:
        """Positions of events that mention a register, from `last` back."""
        if name not in self._mentions:
            numbers = [s.number for s in self.launch.sites if _mentions(s, name)]
            self._mentions[name] = np.flatnonzero(np.isin(self._sites, numbers))
        places = self._mentions[name]
        yield from places[: np.searchsorted(places, last, side="right")][::-1]

    def check(self, breakpoint: Breakpoint) -> None:
        """Raises DeviceError where no instruction that was traced could ever stop there."""
        sites = self.launch.sites
        known = {full_name(register) for s in sites for register in (*s.reads, *s.writes)}
        names = breakpoint.condition.registers if breakpoint.condition is not None else ()
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DeviceError(
                f"break {breakpoint.text}", f"there is no register {', '.join(unknown)}"
            )
        if not self._stops(breakpoint):
            raise DeviceError(f"break {breakpoint.text}", "no instruction is there")

    def _candidates(self, breakpoint: Breakpoint) -> NDArray[np.bool_]:
        """Positions at which it may stop, by the instruction alone."""
        hits = np.isin(self._sites, [site.number for site in self._stops(breakpoint)])
        if breakpoint.source_line is not None:  # where the line begins
            hits[1:] &= ~hits[:-1]
        return hits

    def _stops(self, breakpoint: Breakpoint) -> list[Site]:
        """The sites at which it may stop."""
        if breakpoint.line is not None:
            return [s for s in self.launch.sites if s.instruction.line == breakpoint.line]
        if breakpoint.source_line is not None:
            return [s for s in self.launch.sites if self._is_at(s, breakpoint)]
        assert breakpoint.condition is not None
        names = set(breakpoint.condition.registers)
        sites = self.launch.sites
        return [s for s in sites if not names or names & {full_name(r) for r in s.writes}]

    def _is_at(self, site: Site, breakpoint: Breakpoint) -> bool:
        file, line = self.launch.source_of(site.instruction)
        return line == breakpoint.source_line and (file or "").endswith(breakpoint.file)

    def _lanes(self, breakpoint: Breakpoint, position: int) -> int:
        """The lanes that execute the event, and for which the condition holds."""
        chosen = int(self.launch.headers["mask"][self.places[position]])
        if breakpoint.condition is None:
            return chosen

        def lookup(name: str) -> Values | None:
            nonlocal chosen
            found = self.register(name, position)
            if found is None:
                return None
            chosen &= found[1]
            return found[0]

        return breakpoint.condition.holds(lookup) & chosen

    def _source(self, position: int) -> tuple[str | None, int | None]:
        return self.launch.source_of(self.launch.sites[int(self._sites[position])].instruction)


def _mentions(site: Site, name: str) -> bool:
    return any(full_name(register) == name for register in (*site.reads, *site.writes))
