"""One instruction that one warp executed, as data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from ..types import Values
from .access import Access


@dataclass(frozen=True, eq=False)
class Event:
    """One instruction that one warp executed.

    number: its place among the events of its launch.  launch: the launch's among those of a trace.
    line, instruction, opcode: of the PTX.  source, source_line: from .loc, where there is one.
    mask: the lanes that executed it, as bits; active: the lanes that came to it, of which a guard
    may have taken out some.
    reads, writes: registers by name, with what they held before and after; `lanes` of what is
    written are as the instruction left them, the others as they were.
    accesses: to memory; cp.async has two.
    """

    number: int
    launch: int
    line: int
    instruction: str
    opcode: str
    source: str | None
    source_line: int | None
    cta: tuple[int, int, int]
    warp: int
    mask: int
    active: int
    reads: Mapping[str, Values]
    writes: Mapping[str, Values]
    accesses: tuple[Access, ...]

    def __repr__(self) -> str:
        where = f"CTA {','.join(map(str, self.cta))} warp {self.warp}"
        return f"<Event {self.number}: {where}, PTX line {self.line}, {self.instruction}>"

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lanes that executed it."""
        return tuple(lane for lane in range(32) if self.mask >> lane & 1)

    def rows(self, lanes: Iterator[int] | range | tuple[int, ...]) -> Iterator[dict[str, Any]]:
        """Rows, one for each register and each of these lanes, in JSON's types.

        What was read is told of the lanes that came to it, what was written of those that executed
        it.
        The keys: number, launch, line, opcode, source, source_line, cta, warp, lane, register,
        written, type, value.
        """
        common = {
            "number": self.number,
            "launch": self.launch,
            "line": self.line,
            "opcode": self.opcode,
            "source": self.source,
            "source_line": self.source_line,
            "cta": list(self.cta),
            "warp": self.warp,
        }
        for written, registers in ((False, self.reads), (True, self.writes)):
            mask = self.mask if written else self.active
            for name, values in registers.items():
                for lane in (lane for lane in lanes if mask >> lane & 1):
                    yield common | {
                        "lane": lane,
                        "register": name,
                        "written": written,
                        "type": values.type,
                        "value": values.item(lane),
                    }


class Events(Sequence[Event]):
    """Events by their places, each made when it is asked for."""

    @abstractmethod
    def _event(self, place: int) -> Event:
        """The event at a place from 0 on, which there is."""

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index if index >= 0 else index + len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"event {index} of {len(self)}")
        return self._event(place)
