"""Arguments that a launch is given each time anew: what is as before costs a comparison, and an
array that lies elsewhere an address."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from ctypes import c_uint64

from ..abi import Movable
from .cache_keys import Key, readers, same_as_long_as_it_lives, trusted

_CLEAR = 256  # addresses that are remembered of an array


class Slot:
    """An argument's place: what is known of the value that was given last.

    kind, reader: its type, and what reads the cache keys of such values; no reader of integers.
    layout, address: its cache key; of an integer the address is its value.
    known: a reference to the object, where that alone says that nothing has changed.
    align, nbytes: of an array, as `Movable` has them; among: the slots of the arrays that it has to
    be apart from, and still: from where to where the others lie, which have none.
    clear: addresses that are known to be apart from these.
    pointer: the array's field in the block; None of what cannot move.
    """

    __slots__ = (
        *("kind", "reader", "layout", "address", "known", "trusted", "lasting"),
        *("name", "align", "nbytes", "among", "still", "clear", "pointer"),
    )

    def __init__(self, name: str, kind: type, key: Key | int) -> None:
        self.name, self.kind = name, kind
        self.reader = None if kind is int else readers[kind]
        self.layout, self.address = (None, key) if isinstance(key, int) else key
        self.known: Callable[[], object] | None = None
        self.trusted = self.reader in trusted
        self.lasting = self.reader in same_as_long_as_it_lives
        self.align, self.nbytes = 1, 0
        self.among: list[tuple[Slot, int]] = []
        self.still: list[tuple[int, int]] = []
        self.clear: set[int] = set()
        self.pointer: c_uint64 | None = None

    @property
    def key(self) -> Key | int:
        """The cache key of the value."""
        return self.address if self.reader is None else (self.layout, self.address)


class Borrowing:
    """The slots of a launch's arguments, in the order in which they are given.

    moving: True while slots, the block and what follows it do not agree, until the caller says
    that all has followed; after it was broken off, for good.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        values: tuple[object, ...],
        keys: Mapping[str, Key | int],
        movable: Mapping[str, Movable],
        places: Mapping[str, int],
        pointers: Mapping[str, c_uint64],
    ) -> None:
        """keys: of what was given last.  values: some of these types.  movable, places, pointers:
        of the launch's arrays: what they keep to, where they lie, and their fields in the block.
        """
        self.names = names
        kinds = map(type, values)
        self.slots = [Slot(n, kind, keys[n]) for n, kind in zip(names, kinds, strict=True)]
        self.moving = False
        by_name = {slot.name: slot for slot in self.slots}
        for slot in self.slots:
            found = movable.get(slot.name)
            if found is None or slot.reader is None:
                continue
            slot.align, slot.nbytes, apart = found
            slot.pointer = pointers[slot.name]
            for name, nbytes in apart:
                if name in by_name:
                    slot.among.append((by_name[name], nbytes))
                else:
                    slot.still.append((places[name], places[name] + nbytes))

    def take(self, values: tuple[object, ...], holds: Callable[[int], bool]) -> bool | None:
        """True if arrays have moved, whose addresses are in the block now, and `moving` is left
        set; None if anything else has changed, or an array may not move there: then nothing is
        changed.

        holds: True for an address of the device.
        """
        moved: list[tuple[Slot, int]] | None = None
        for slot, value in zip(self.slots, values, strict=False):
            known = slot.known
            if known is not None and known() is value:
                continue
            reader = slot.reader
            if type(value) is not slot.kind:
                return self._undone(moved)
            if reader is None:
                if value != slot.address:
                    return self._undone(moved)
                continue
            layout, address = reader(value)
            if layout != slot.layout:
                return self._undone(moved)
            if address != slot.address:
                if slot.pointer is None or not (slot.trusted or holds(address)):
                    return self._undone(moved)
                if moved is None:
                    moved, self.moving = [], True
                moved.append((slot, slot.address))
                slot.address, slot.known = address, None
            elif slot.lasting:
                slot.known = weakref.ref(value)
        if moved is None:
            return False
        for slot, _ in moved:
            if not self._is_apart(slot):
                return self._undone(moved)
        for slot, _ in moved:
            slot.pointer.value = slot.address  # type: ignore[union-attr]  # of what has moved
        return True

    def _is_apart(self, slot: Slot) -> bool:
        """True if an array may lie at its slot's address."""
        address = slot.address
        if not address or address % slot.align:
            return False
        end = address + slot.nbytes
        for other, size in slot.among:
            place = other.address
            if place < end and address < place + size:
                return False
        if address not in slot.clear:
            if any(first < end and address < last for first, last in slot.still):
                return False
            if len(slot.clear) >= _CLEAR:
                slot.clear.clear()
            slot.clear.add(address)
        return True

    def _undone(self, moved: list[tuple[Slot, int]] | None) -> bool | None:
        for slot, before in moved or ():
            slot.address = before
        self.moving = False
        return None

    def keys(self) -> dict[str, Key | int]:
        """The cache keys of the values."""
        return {slot.name: slot.key for slot in self.slots}

    def places(self) -> dict[str, int]:
        """The addresses of the arrays."""
        return {slot.name: slot.address for slot in self.slots if slot.pointer is not None}
