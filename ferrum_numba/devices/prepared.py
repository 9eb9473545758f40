"""A launch that is marshalled and checked once, to be repeated and to be changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..abi import LaunchConfig
from ..errors import AbiError, FerrumError, LaunchError
from .cache_keys import Key, cache_key, readers
from .invocation import Invocation, Launchable

# In place of cache keys while arguments change: broken off in between, none is taken for what was
# there before.
_CHANGING: Key = (object(), 0)


class PreparedLaunch:
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
        self._moved: dict[str, int] = {}  # addresses that are in the block, not in _invocation
        self._held: dict[str, Key | int] = {}  # cache keys of what `update` was given
        self._borrowed: dict[str, Key | int] = {}  # and of what `launch` was
        if borrowed is not None:
            self._invocation = replace(invocation, arguments={})
            self._borrowed = {name: cache_key(value) for name, value in borrowed.items()}
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
            moved, self._moved = self._moved, {}
            before = self._invocation
            self._invocation = replace(before, bound=before.bound.at(moved))
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
        addresses, same = {}, 0
        for name, key in found.items():
            held = self._held.get(name)
            if type(key) is tuple and type(held) is tuple and key[1] and key[0] == held[0]:
                addresses[name] = key[1]
            elif key == held:
                same += 1
        if len(addresses) + same == len(changes) and self._may_move(addresses):
            self._exchange(addresses, changes)
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

    def _exchange(self, addresses: Mapping[str, int], changes: Mapping[str, object]) -> None:
        """Hold arrays that lie elsewhere, and are alike, in place of those before."""
        before = self.invocation
        self._move(addresses)
        arguments = {**before.arguments, **changes}
        self._invocation = replace(self.invocation, arguments=arguments)

    def _note_places(self) -> None:
        arrays = self._invocation.bound.arrays
        self._places = {name: array.address for name, array in arrays.items()}

    def _may_move(self, addresses: Mapping[str, int]) -> bool:
        """True if arrays that are like those before may lie at these addresses."""
        return self.kernel._may_move(self._invocation.bound, self._places, addresses)

    def _move(self, addresses: Mapping[str, int]) -> None:
        """Put in the addresses of arrays that are like those before."""
        self._invocation.block.write(addresses)
        self._moved.update(addresses)
        self._places.update(addresses)

    def _restore(self, before: Invocation) -> None:
        """Undo a change that could not be carried through."""
        before.block.write(before.bound.values)
        self._invocation = before
        self._moved.clear()
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
        self._send(stream, changes)

    def _show_refused(self, changes: Mapping[str, object], error: AbiError) -> None:
        """Tell observers of arguments that are refused."""
        given = {**self._invocation.arguments, **changes}
        self.kernel._show_refused(self.config, (), given, error)

    def launch_as(self, config: LaunchConfig, stream: Any, arguments: dict[str, object]) -> bool:
        """`launch` with all arguments anew, where that is a launch of this configuration.

        Returns False, and launches nothing, where it is another, or something does not fit.
        """
        if arguments.keys() != self._borrowed.keys():
            return False
        try:
            self._borrow(arguments)
        except AbiError:
            return False
        if self._invocation.bound.config != config:
            return False
        self._send(stream, arguments)
        return True

    def _send(self, stream: Any, changes: dict[str, object]) -> None:
        self.kernel._issue(self._whole(changes), stream)

    def _borrow(self, changes: dict[str, object]) -> None:
        """Take over what is new in `changes`, without holding it."""
        borrowed = self._borrowed
        found: dict[str, Key | int] = {}
        addresses: dict[str, int] = {}
        for name, value in changes.items():
            known = borrowed.get(name)
            if type(value) is int:
                if type(known) is not int or known != value:
                    found[name] = value
                continue
            key = readers[type(value)](value)
            if key == known:
                continue
            found[name] = key
            if type(known) is tuple and key[0] == known[0]:
                addresses[name] = key[1]
        if not found:
            return
        if len(addresses) == len(found) and self._may_move(addresses):
            for name in found:
                borrowed[name] = _CHANGING
            self._move(addresses)
            borrowed.update(found)
            return
        self._borrowed = borrowed | dict.fromkeys(found, _CHANGING)
        try:
            self._change({name: changes[name] for name in found}, hold=False)
        except FerrumError:
            self._borrowed = borrowed
            raise
        self._borrowed = borrowed | found
        for name in found:
            self._held.pop(name, None)
        arrays = self._invocation.bound.arrays
        self._borrowed_nbytes = sum([arrays[n].available for n in self._borrowed if n in arrays])

    def _require_nothing_borrowed(self) -> None:
        borrowed = [name for name in self._borrowed if name in self._invocation.bound.arrays]
        if borrowed:
            raise LaunchError(
                f"{', '.join(borrowed)}: given to `launch` for one launch only; give them to it "
                "again, or to `update`"
            )

    def _whole(self, changes: dict[str, object]) -> Invocation:
        invocation = self.invocation
        return replace(invocation, arguments={**invocation.arguments, **changes})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kernel.describe(self.invocation)}>"
