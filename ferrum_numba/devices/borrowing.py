"""Arguments that a launch is given each time anew: what is as before costs a comparison, and an
array that lies elsewhere an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..abi import Movable
from .cache_keys import Key, PlaceOf, follower, surroundings
from .tensor_map import Pointer

_CLEAR = 256  # placements that are remembered

_Place = Callable[[Any], int | None]


class Borrowing:
    """The arguments of a launch that are given each time, in their order: what was given last.

    moving: True while places, the block and what follows it do not agree, until the caller says
    that all has followed; after it was broken off, for good.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        values: tuple[object, ...],
        keys: Mapping[str, Key | int],
        movable: Mapping[str, Movable],
        places: Mapping[str, int],
        pointers: Mapping[str, Pointer],
        holds: Callable[[int], bool],
        place_of: PlaceOf | None = None,
    ) -> None:
        """values, keys: what was given last.  movable, places, pointers: of the launch's arrays:
        what they keep to, where they lie, and their fields in the block.
        holds: True for an address of the device.  place_of: see `follower`.
        """
        self.names = names
        self.moving = False
        self._keys = [keys[name] for name in names]
        kinds = list(map(type, values))
        self._around = surroundings(kinds, self._keys)
        self._place = _together(
            [
                follower(value, key, holds if name in movable else None, place_of)
                for name, value, key in zip(names, values, self._keys, strict=True)
            ]
        )
        self._places: tuple[Any, ...] = tuple(
            [key if isinstance(key, int) else key[1] for key in self._keys]
        )
        self._rules = [
            (number, movable[name])
            for number, name in enumerate(names)
            if name in movable and kinds[number] is not int
        ]
        self._pointers = [(number, pointers[names[number]]) for number, _ in self._rules]
        self._elsewhere = places
        self._clear: set[tuple[int | None, ...]] = set()

    def take(self, values: tuple[object, ...]) -> bool | None:
        """True if arrays have moved, whose addresses are in the block now, and `moving` is left
        set; None if anything else has changed, or an array may not move there: then nothing is
        changed.
        """
        for look, before in self._around:
            if look() != before:
                return None
        places: tuple[Any, ...] = self._place(values)
        if places == self._places:
            return False
        if places not in self._clear and not self._may_lie(places):
            return None
        self.moving = True
        for number, pointer in self._pointers:
            pointer.value = places[number]
        self._places = places
        return True

    def _may_lie(self, places: Sequence[int | None]) -> bool:
        """True if the arrays may lie at these addresses, all of them at a time."""
        if None in places:
            return False
        everywhere: dict[str, Any] = {**self._elsewhere, **self._by_name(places)}
        for number, (align, nbytes, apart) in self._rules:
            place = places[number]
            if not place or place % align:
                return False
            for other, size in apart:
                begin = everywhere[other]
                if begin < place + nbytes and place < begin + size:
                    return False
        if len(self._clear) >= _CLEAR:
            self._clear.clear()
        self._clear.add(tuple(places))
        return True

    def _by_name(self, places: Sequence[Any]) -> dict[str, Any]:
        return {self.names[number]: places[number] for number, _ in self._rules}

    def keys(self) -> dict[str, Key | int]:
        """The cache keys of the values."""
        now = zip(self.names, self._keys, self._places, strict=True)
        return {n: p if isinstance(key, int) else (key[0], p) for n, key, p in now}

    def places(self) -> dict[str, int]:
        """The addresses of the arrays."""
        return self._by_name(self._places)


def _together(places: Sequence[_Place]) -> Callable[[tuple[Any, ...]], tuple[int | None, ...]]:
    """A function that applies each of these to its value.

    Written out for the usual numbers of values: a loop costs more than what it calls.
    """
    match places:
        case (a, b):
            return lambda v: (a(v[0]), b(v[1]))
        case (a, b, c):
            return lambda v: (a(v[0]), b(v[1]), c(v[2]))
        case (a, b, c, d):
            return lambda v: (a(v[0]), b(v[1]), c(v[2]), d(v[3]))
        case (a, b, c, d, e):
            return lambda v: (a(v[0]), b(v[1]), c(v[2]), d(v[3]), e(v[4]))
        case (a, b, c, d, e, f):
            return lambda v: (a(v[0]), b(v[1]), c(v[2]), d(v[3]), e(v[4]), f(v[5]))
    return lambda values: tuple([place(v) for place, v in zip(places, values, strict=True)])
