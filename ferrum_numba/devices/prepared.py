"""A launch that is marshalled and checked once, to be repeated and to be changed in place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..abi import LaunchConfig
from ..errors import FerrumError, LaunchError
from .invocation import Invocation, Launchable

_CHANGING = object()  # in place of a cache key: equal to none


class PreparedLaunch:
    """`call = kernel.prepare(config, a=a, ...)`, then `call(stream)` as often as wanted.

    It keeps its arrays alive, also while launches with them are under way after it is dropped.
    Any number of threads may call it at a time; while one is in `update` or in `launch`, no other
    may use it.
    """

    def __init__(self, kernel: Launchable, invocation: Invocation) -> None:
        self.kernel = kernel
        self._invocation = invocation
        self._borrowed: dict[str, object] = {}  # cache keys of what `launch` was given
        self._borrowed_nbytes = 0

    @property
    def config(self) -> LaunchConfig:
        """The launch configuration, as the last update left it."""
        return self._invocation.config

    @property
    def invocation(self) -> Invocation:
        """The launch as it is now; its block is the one that the next call hands over."""
        return self._invocation

    def __call__(self, stream: Any = None) -> None:
        """Launch on `stream`.  Raises LaunchError where the device refuses the launch."""
        self._require_nothing_borrowed()
        self.kernel._issue(self._invocation, stream)

    def update(self, **changes: object) -> PreparedLaunch:
        """Replace some arguments; the grid follows the sidecar's rule.  Returns itself.

        Only what a change can have touched is checked again.  Raises AbiError as `prepare` does,
        and then changes nothing.
        """
        self._change(changes, hold=True)
        for name in changes:
            self._borrowed.pop(name, None)
        return self

    def _change(self, changes: dict[str, object], hold: bool) -> None:
        self._invocation = self.kernel._remarshal(self._invocation, changes, hold)

    def _restore(self, before: Invocation) -> None:
        """Undo a change that could not be carried through."""
        before.block.write(before.bound.values)
        self._invocation = before

    def launch(self, stream: Any = None, **changes: object) -> None:
        """`update(**changes)`, then launch; the arrays given are held only until that is done.

        Give them again at the next launch: an array that still lies where it did, as it did, costs
        no check.  Raises AbiError as `prepare` does, LaunchError where the device refuses.
        """
        self._borrow(changes)
        self.kernel._issue(self._whole(changes), stream)

    def _borrow(self, changes: dict[str, object]) -> None:
        """Take over what is new in `changes`, without holding it."""
        borrowed, cache_key = self._borrowed, self.kernel._cache_key
        new, found = {}, {}
        for name, value in changes.items():
            key = cache_key(value)
            if borrowed.get(name) != key:
                new[name], found[name] = value, key
        if new:
            # Broken off in between, nothing of it is taken for what was there before.
            self._borrowed = borrowed | dict.fromkeys(new, _CHANGING)
            try:
                self._change(new, hold=False)
            except FerrumError:
                self._borrowed = borrowed
                raise
            self._borrowed = borrowed = borrowed | found
            arrays = self._invocation.bound.arrays
            self._borrowed_nbytes = sum(
                [arrays[name].available for name in borrowed if name in arrays]
            )

    def _require_nothing_borrowed(self) -> None:
        borrowed = [name for name in self._borrowed if name in self._invocation.bound.arrays]
        if borrowed:
            raise LaunchError(
                f"{', '.join(borrowed)}: given to `launch` for one launch only; give them to it "
                "again, or to `update`"
            )

    def _whole(self, changes: dict[str, object]) -> Invocation:
        invocation = self._invocation
        return replace(invocation, arguments={**invocation.arguments, **changes})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kernel.describe(self._invocation)}>"
