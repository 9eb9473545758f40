"""A launch that is marshalled and checked once, to be repeated and to be changed in place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..abi import LaunchConfig, MapForm, Movable
from ..errors import AbiError, FerrumError, LaunchError
from ..pickling import NotPickled
from . import observer
from .borrowing import Borrowing
from .cache_keys import Key, cache_key
from .invocation import Invocation, Launchable
from .tensor_map import MappedPointer, Pointer

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
        self._holds = kernel._holds
        self._invocation = invocation
        self._movable: Mapping[str, Movable] | None = None
        self._moved = False  # whether _places and the block are ahead of _invocation
        self._held: dict[str, Key | int] = {}  # cache keys of what `update` was given
        self._borrowed: dict[str, Key | int] = {}  # and of what `launch` was, but for
        self._borrowing: Borrowing | None = None  # what it knows better
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
            self._follow_slots()
            before = self._invocation
            maps = {name: before.block.read(name) for name in before.bound.maps}
            self._invocation = replace(before, bound=before.bound.at(self._places, maps))
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
        self._give_up_slots()
        found = {name: cache_key(value) for name, value in changes.items()}
        moved: dict[str, int] = {}
        same = 0
        for name, key in found.items():
            held = self._held.get(name)
            if type(key) is tuple and type(held) is tuple and key[0] == held[0]:
                moved[name] = key[1]
            elif key == held:
                same += 1
        like = len(moved) + same == len(changes) and all(map(self._holds, moved.values()))
        if like and self._may_move(moved):
            self._exchange(moved, changes)
        else:
            for name in found:  # broken off, none is taken for what was there before
                self._held.pop(name, None)
            try:
                self._change(changes, hold=True)
            except AbiError as error:
                self._show_refused(changes, error)
                raise
        self._held.update(found)
        self._borrowed = {n: key for n, key in self._borrowed.items() if n not in changes}
        return self

    def _change(self, changes: Mapping[str, object], hold: bool) -> None:
        """Marshal arguments anew; hold: whether what is new is kept alive."""
        self._invocation = self.kernel._remarshal(self.invocation, changes, hold)
        self._note_places()

    def _exchange(self, moved: Mapping[str, int], changes: Mapping[str, object]) -> None:
        """Hold arrays that lie elsewhere, and are alike, in place of those before."""
        now = self._invocation
        self._invocation = Invocation(now.bound, now.block, {**now.arguments, **changes})
        self._move(moved.items())

    def _note_places(self) -> None:
        now = self._invocation
        self._places = {name: array.address for name, array in now.bound.arrays.items()}
        self._pointers: dict[str, Pointer] = {n: now.block.pointer(n) for n in self._places}
        if now.bound.maps:
            self._let_maps_follow(now)
        self._movable, self._moved = None, False

    def _let_maps_follow(self, now: Invocation) -> None:
        """Let the tensor maps follow the pointers of their arrays."""
        maps: dict[str, list[tuple[MapForm, int]]] = {}
        for name, (of, form) in now.bound.maps.items():
            maps.setdefault(of, []).append((form, now.block.place(name)))
        device = self.kernel.module.device.name
        for of, own in maps.items():
            self._pointers[of] = MappedPointer(now.block.pointer(of), device, own)

    def _how_movable(self) -> Mapping[str, Movable]:
        if self._movable is None:
            self._movable = self.kernel._movable(self._invocation.bound)
        return self._movable

    def _may_move(self, moved: Mapping[str, int]) -> bool:
        """True if arrays that are like those before, and are there, may lie at these addresses."""
        places = self._places if len(moved) == 1 else {**self._places, **moved}
        movable = self._how_movable()
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

    def _move(self, moved: Iterable[tuple[str, int]]) -> None:
        """Put in the addresses of arrays that are like those before."""
        self._moved = True
        for name, address in moved:
            self._pointers[name].value = self._places[name] = address
        self._follow_moves()

    def _restore(self, before: Invocation) -> None:
        """Undo a change that could not be carried through."""
        before.block.write(before.bound.values)
        self._invocation = before
        self._note_places()

    def launch(self, stream: Any = None, **changes: object) -> None:
        """`update(**changes)`, then launch; the arrays given are held only until that is done.

        Give them again at the next launch: an array that still lies where it did, as it did, costs
        no check, and one that lies elsewhere no more than where it lies.  Raises AbiError as
        `prepare` does, LaunchError for an array that is not given again, and where the device
        refuses.
        """
        self._relaunch(stream, tuple(changes), tuple(changes.values()))

    def _relaunch(self, stream: Any, names: tuple[str, ...], values: tuple[object, ...]) -> None:
        """`launch` with these arguments."""
        if not self._repeat(stream, names, values):
            self._launch_anew(stream, names, values)

    def _launch_anew(self, stream: Any, names: tuple[str, ...], values: tuple[object, ...]) -> None:
        """`launch` with these arguments, after all of them are looked at."""
        try:
            self._borrow(names, values)
        except AbiError as error:
            self._show_refused(dict(zip(names, values, strict=True)), error)
            raise
        self._send(stream, names, values)

    def _repeat(self, stream: Any, names: tuple[str, ...], values: tuple[object, ...]) -> bool:
        """Launch with arguments that are those before, or arrays like them; else False."""
        own = self._borrowing
        if own is None or own.moving or own.names != names:
            return False
        moved = own.take(values)
        if moved is None:
            return False
        if moved:
            self._moved = True
            self._follow_moves()
            own.moving = False
        self._send(stream, names, values)
        return True

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

    def _borrow(self, names: tuple[str, ...], values: tuple[object, ...]) -> None:
        """Take over what is new of these arguments, without holding it."""
        self._borrow_all(dict(zip(names, values, strict=True)))
        self._require_nothing_borrowed(but=names)
        self._keep_slots(names, values)

    def _keep_slots(self, names: tuple[str, ...], values: tuple[object, ...]) -> None:
        """Know these arguments, which were taken over, again where only arrays move."""
        if self._borrowed.keys() >= set(names):
            how = self._how_movable(), self._places, self._pointers
            by = self._holds, self.kernel._place_of
            self._borrowing = Borrowing(names, values, self._borrowed, *how, *by)

    def _follow_moves(self) -> None:
        """Let others know that the block has changed."""

    def _follow_slots(self) -> None:
        """Note where the arrays lie that have moved."""
        if self._borrowing is not None and not self._borrowing.moving:
            self._places.update(self._borrowing.places())

    def _give_up_slots(self) -> None:
        """Note what the slots know; of a move that was broken off that is nothing."""
        self._follow_slots()
        if (own := self._borrowing) is not None:
            known = dict.fromkeys(self._borrowed, _CHANGING) if own.moving else own.keys()
            self._borrowed = {**self._borrowed, **known}
            self._borrowing = None

    def _borrow_all(self, changes: Mapping[str, object]) -> None:
        """Take over what is new in `changes`, all of which is looked at."""
        self._give_up_slots()
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

    def _require_nothing_borrowed(self, but: Collection[str] = ()) -> None:
        """Refuse a launch to which arrays are not given again, unless these are all of them."""
        arrays = self._invocation.bound.arrays
        borrowed = [name for name in self._borrowed if name in arrays and name not in but]
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
