"""Traces of launches: `with device.trace(...) as trace: kernel.launch(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..emulator.trace import Event, Selection, TracedLaunch
from ..emulator.trace.event import Events


class Trace:
    """The launches in a `with device.trace(...)` block, event by event.

    launches: one for each, in order; a launch is a sequence of its events.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.launches: list[TracedLaunch] = []

    @property
    def events(self) -> Sequence[Event]:
        """The events of all launches: one for each instruction that a warp executed.

        Each is made when it is asked for.
        """
        return _Events(self.launches)

    @property
    def dropped(self) -> int:
        """The number of events that did not fit: they came after the ones that were kept."""
        return sum(launch.dropped for launch in self.launches)

    def __repr__(self) -> str:
        launches, events = len(self.launches), len(self.events)
        lost = f", {self.dropped} more dropped" if self.dropped else ""
        return f"<Trace of {launches} launch{'es' * (launches != 1)}: {events} events{lost}>"

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each event, register and chosen lane; see Event.rows."""
        for launch in self.launches:
            for event in launch:
                yield from event.rows(self.selection.lanes)


class _Events(Events):
    """The events of several launches, one launch after another."""

    def __init__(self, launches: Sequence[TracedLaunch]) -> None:
        self._launches = launches

    def __len__(self) -> int:
        return sum(map(len, self._launches))

    def _event(self, place: int) -> Event:
        for launch in self._launches:
            if place < len(launch):
                return launch[place]
            place -= len(launch)
        raise IndexError(place)

    def __iter__(self) -> Iterator[Event]:
        for launch in self._launches:
            yield from launch
