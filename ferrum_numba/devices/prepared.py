"""A launch that is marshalled and checked once, to be repeated and to be changed in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..abi import LaunchConfig, Movable
from ..errors import AbiError, FerrumError, LaunchError
from ..pickling import NotPickled
from . import observer
from .cache_keys import Key, cache_key, readers, trusted
from .invocation import Invocation, Launchable

# In place of cache keys while arguments change: broken off in between, none is taken for what was
# there before.
_CHANGING: Key = (object(), 0)


class PreparedLaunch(NotPickled):
    """`call = kernel.prepare(config, a=a, ...)`, then `call(stream)` as often as wanted.

    It keeps its arrays alive, also while launches with them are under way after it is dropped.
    Any number of threads may call it at a time; while one is in `update` or in `launch`, no other
    may use it.
    """

    def __init__(
        self,
        kernel: Launchable,
        invocation: Invocation,
        borrowed: Mapping[str, object] | None = None,
    ) -> None:
        """borrowed: the arguments, all of which the next launch is given again."""
        self.kernel = kernel
        self._invocation = invocation
        self._movable: Mapping[str, Movable] | None = None
        self._moved = False  # whether _places and the block are ahead of _invocation
        self._moving = False  # whether the block is ahead of _borrowed
        self._held: dict[str, Key | int] = {}  # cache keys of what `update` was given
        self._borrowed: dict[str, Key | int] = {}  # and of what `launch` was
        if borrowed is not None:
            self._invocation = replace(invocation, arguments={})
            keys = {name: cache_key(value) for name, value in borrowed.items()}
            self._borrowed = self._comparable(keys)
        self._note_places()
        self._borrowed_nbytes = invocation.nbytes if borrowed else 0

    @property
    def config(self) -> LaunchConfig:
        """The launch configuration, as the last update left it."""
        return self._invocation.config

    @property
    def invocation(self) -> Invocation:
        """The launch as it is now; its block is the one that the next call hands over."""
        if self._moved:
            before = self._invocation
            self._invocation = replace(before, bound=before.bound.at(self._places))
            self._moved = False
        return self._invocation

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        self._require_nothing_borrowed()
        self.kernel._issue(self.invocation, stream)

    def update(self, **changes: object) -> PreparedLaunch:
        """Replace some arguments; the grid follows the sidecar's rule.  Returns itself.

        Only what a change can have touched is checked again.  Raises AbiError as `prepare` does,
        and then changes nothing.
        """
        found = {name: cache_key(value) for name, value in changes.items()}
        moved: dict[str, int] = {}
        same = 0
        for name, key in found.items():
            held = self._held.get(name)
            if type(key) is tuple and type(held) is tuple and key[0] == held[0]:
                moved[name] = key[1]
            elif key == held:
                same += 1
        like = len(moved) + same == len(changes) and all(map(self.kernel._holds, moved.values()))
        if like and self._may_move(moved):
            self._exchange(moved, changes)
        else:
            try:
                self._change(changes, hold=True)
            except AbiError as error:
                self._show_refused(changes, error)
                raise
        self._held.update(found)
        for name in changes:
            self._borrowed.pop(name, None)
        return self

    def _change(self, changes: Mapping[str, object], hold: bool) -> None:
        """Marshal arguments anew; hold: whether what is new is kept alive."""
        self._invocation = self.kernel._remarshal(self.invocation, changes, hold)
        self._note_places()

    def _exchange(self, moved: Mapping[str, int], changes: Mapping[str, object]) -> None:
        """Hold arrays that lie elsewhere, and are alike, in place of those before."""
        now = self._invocation
        self._invocation = Invocation(now.bound, now.block, {**now.arguments, **changes})
        self._move(moved)

    def _note_places(self) -> None:
        now = self._invocation
        self._places = {name: array.address for name, array in now.bound.arrays.items()}
        self._pointers = {name: now.block.pointer(name) for name in self._places}
        self._movable, self._moved = None, False

    def _may_move(self, moved: Mapping[str, int]) -> bool:
        """True if arrays that are like those before, and are there, may lie at these addresses."""
        places = self._places if len(moved) == 1 else {**self._places, **moved}
        movable = self._movable
        if movable is None:
            movable = self._movable = self.kernel._movable(self._invocation.bound)
        for name, address in moved.items():
            found = movable.get(name)
            if found is None:
                return False
            align, nbytes, apart = found
            if not address or address % align:
                return False
            end = address + nbytes
            for other, size in apart:
                place = places[other]
                if place < end and address < place + size:
                    return False
        return True

    def _move(self, moved: Mapping[str, int]) -> None:
        """Put in the addresses of arrays that are like those before."""
        self._moved = True
        for name, address in moved.items():
            self._pointers[name].value = self._places[name] = address

    def _restore(self, before: Invocation) -> None:
        """Undo a change that could not be carried through."""
        before.block.write(before.bound.values)
        self._invocation = before
        self._note_places()

    def launch(self, stream: Any = None, **changes: object) -> None:
        """`update(**changes)`, then launch; the arrays given are held only until that is done.

        Give them again at the next launch: an array that still lies where it did, as it did, costs
        no check, and one that lies elsewhere no more than where it lies.  Raises AbiError as
        `prepare` does, LaunchError where the device refuses.
        """
        try:
            self._borrow(changes)
        except AbiError as error:
            self._show_refused(changes, error)
            raise
        self._send(stream, changes, changes.values())

    def _comparable(self, keys: dict[str, Key | int]) -> dict[str, Key | int]:
        """These keys; an array that was copied into the block may be another where it lay."""
        arrays = self._invocation.bound.arrays
        copied = (n for n, k in keys.items() if type(k) is tuple and k[1] and n not in arrays)
        return keys | dict.fromkeys(copied, _CHANGING)

    def _show_refused(self, changes: Mapping[str, object], error: AbiError) -> None:
        """Tell observers of arguments that are refused."""
        given = {**self._invocation.arguments, **changes}
        observer.show(observer.RefusedLaunch(self.kernel, self.config, (), given, error))

    def _send(self, stream: Any, names: Iterable[str], values: Collection[object]) -> None:
        """Launch what was borrowed, which stays alive until that is done."""
        self.kernel._issue(self._whole(names, values), stream)

    def _borrow(self, changes: dict[str, object]) -> None:
        """Take over what is new in `changes`, without holding it."""
        if self._moving:  # broken off: nobody knows where the arrays are
            self._borrowed, self._moving = dict.fromkeys(self._borrowed, _CHANGING), False
        borrowed = self._borrowed
        keys: dict[str, Key] = {}
        moved: dict[str, int] = {}
        for name, value in changes.items():
            known = borrowed.get(name)
            if type(value) is int:
                if value != known:
                    break
                continue
            reader = readers[type(value)]
            key = layout, address = reader(value)
            if type(known) is not tuple or layout != known[0]:
                break
            if address != known[1]:
                if reader not in trusted and not self.kernel._holds(address):
                    break
                keys[name], moved[name] = key, address
        else:
            if not moved:
                return
            if self._may_move(moved):
                self._moving = True
                self._move(moved)
                borrowed.update(keys)
                self._moving = False
                return
        self._borrow_others(changes)

    def _borrow_others(self, changes: Mapping[str, object]) -> None:
        """Take over what is in `changes`, and is not just elsewhere: all of it is looked at."""
        borrowed = self._borrowed
        found = {name: cache_key(value) for name, value in changes.items()}
        found = {name: key for name, key in found.items() if key != borrowed.get(name)}
        self._borrowed = borrowed | dict.fromkeys(found, _CHANGING)
        try:
            self._change({name: changes[name] for name in found}, hold=False)
        except FerrumError:
            self._borrowed = borrowed
            raise
        self._borrowed = borrowed | self._comparable(found)
        for name in found:
            self._held.pop(name, None)
        arrays = self._invocation.bound.arrays
        self._borrowed_nbytes = sum([arrays[n].available for n in self._borrowed if n in arrays])

    def _require_nothing_borrowed(self) -> None:
        borrowed = [name for name in self._borrowed if name in self._invocation.bound.arrays]
        if borrowed:
            raise LaunchError(
                ", ".join(borrowed),
                "given to `launch` for one launch only",
                remedy="give them to it again, or to `update`",
            )

    def _whole(self, names: Iterable[str], values: Collection[object]) -> Invocation:
        """The launch as it is now, with what was borrowed for it."""
        invocation = self.invocation
        borrowed = dict(zip(names, values, strict=True))
        return replace(invocation, arguments={**invocation.arguments, **borrowed})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kernel.describe(self.invocation)}>"
