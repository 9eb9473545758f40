"""Cost of each instruction's accesses to memory, over all its executions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .access import Access
from .event import Event
from .launch import TracedLaunch


@dataclass(frozen=True, eq=False)
class Traffic:
    """One instruction's accesses to one space.

    event, worst: of the one that wastes most.  executions: by warps with at least one lane.
    cost: sectors of 32 bytes in global memory, passes over the banks in shared memory, of all
    executions; ideal: where the same bytes lay best.  nbytes: that were touched, each once an
    execution.  lines: of 128 bytes, in global memory.  conflict: the worst n-way bank conflict.
    """

    event: Event
    worst: Access
    executions: int
    cost: int
    ideal: int
    nbytes: int
    lines: int
    conflict: int

    @property
    def wasted(self) -> int:
        return self.cost - self.ideal


def traffic(launch: TracedLaunch, space: str) -> list[Traffic]:
    """The traffic of a launch's instructions with "global" or "shared" memory, dearest first."""
    accessing = [site.number + 1 for site in launch.sites if site.accesses]
    found: dict[int, list[tuple[Event, Access]]] = {}
    for place in np.flatnonzero(np.isin(launch.headers["mark"], accessing)).tolist():
        event = launch[place]
        for access in event.accesses:
            if access.space == space:
                found.setdefault(int(launch.headers["mark"][place]), []).append((event, access))
    return sorted(map(_sum, found.values()), key=lambda t: (-t.cost, t.event.line))


def alike(found: Iterable[Traffic]) -> list[list[Traffic]]:
    """Instructions of one source line whose accesses are of one form and quality, dearest first."""
    groups: dict[tuple[object, ...], list[Traffic]] = {}
    for item in found:
        event, worst = item.event, item.worst
        place = (event.source, event.source_line) if event.source_line else (event.line,)
        quality = worst.used if worst.space == "global" else item.conflict
        key = (*place, worst.space, worst.kind, worst.nbytes, quality)
        groups.setdefault(key, []).append(item)
    return sorted(groups.values(), key=lambda group: -sum(item.cost for item in group))


def _sum(pairs: Sequence[tuple[Event, Access]]) -> Traffic:
    event, worst = max(pairs, key=lambda pair: pair[1].cost - pair[1].ideal)
    accesses = [access for _, access in pairs]
    return Traffic(
        event=event,
        worst=worst,
        executions=len(accesses),
        cost=sum(a.cost for a in accesses),
        ideal=sum(a.ideal for a in accesses),
        nbytes=sum(a.unique_bytes for a in accesses),
        lines=sum(a.lines for a in accesses) if worst.space == "global" else 0,
        conflict=max(a.conflict for a in accesses) if worst.space == "shared" else 1,
    )
