"""Things that are costly to make or to give back, kept and lent again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Thing = TypeVar("Thing")


class Shelf(Generic[Kind, Thing]):
    """Things of several kinds; any number of threads may use it."""

    def __init__(self, make: Callable[[Kind], Thing]) -> None:
        self._make = make
        self._kept: dict[Kind, list[Thing]] = {}
        self._lock = threading.Lock()

    def lend(self, kind: Kind) -> Thing:
        """One of this kind, which nobody else has."""
        with self._lock:
            kept = self._kept.setdefault(kind, [])
            if kept:
                return kept.pop()
        return self._make(kind)

    def take_back(self, kind: Kind, thing: Thing) -> None:
        """Take what was lent."""
        with self._lock:
            self._kept[kind].append(thing)
