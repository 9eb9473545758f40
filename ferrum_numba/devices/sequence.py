"""Launches that were recorded in order, to be repeated as one and to be changed in place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import AbiError, FerrumError, LaunchError
from .capture import taken_by
from .prepared import PreparedLaunch

if TYPE_CHECKING:
    from .base import Device, Invocation, Kernel


class LaunchSequence:
    """The launches of a plan or of a graph.  It keeps their arrays alive.

    Any number of threads may issue it at a time; while one changes it, no other may use it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._launches: list[PreparedLaunch] = []
        self._ended = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within the block the calling thread's launches go into it."""
        with taken_by(self):
            yield
        self._ended = True

    def __len__(self) -> int:
        return len(self._launches)

    def __iter__(self) -> Iterator[Invocation]:
        return (launch.invocation for launch in self._launches)

    def __getitem__(self, step: int) -> Invocation:
        """A step's launch as it is now: its configuration, arguments and parameter block."""
        return self._launches[step].invocation

    def take(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        """Record a launch, which is marshalled and checked."""
        self._require_own(kernel)
        self._launches.append(PreparedLaunch(kernel, invocation.copy()))

    def _require_own(self, kernel: Kernel) -> None:
        if kernel.module.device is not self.device:
            raise LaunchError(
                f"{self}: expected launches on that device, found one on another, "
                f"{kernel.module.device.name}"
            )

    def update(self, step: int, **changes: object) -> None:
        """Replace some arguments of a step, counted from 0; the grid follows the sidecar's rule.

        Raises AbiError, which names the step, as `PreparedLaunch.update` does, and then changes
        nothing.
        """
        number = self._number(step)
        with self._naming(number):
            self._update(number, changes)

    def replace(self, old: Any, new: Any) -> int:
        """Let every step that takes the array `old` take `new`; returns how many arguments it was.

        An array is told by where it begins.  Raises AbiError as `update` does, and then the steps
        before the one named have changed.
        """
        address = self.device.describe("old", old).address
        count = 0
        for step, launch in enumerate(self._launches):
            arrays = launch.invocation.bound.arrays.items()
            names = [name for name, array in arrays if array.address == address]
            if names:
                self.update(step, **dict.fromkeys(names, new))
                count += len(names)
        return count

    def _number(self, step: object) -> int:
        """A step's number, checked."""
        try:
            number = operator.index(step)  # type: ignore[arg-type]
        except TypeError:
            number = -1
        if not 0 <= number < len(self):
            expected = f"0 to {len(self) - 1}" if len(self) else "none, since nothing was recorded"
            raise AbiError(f"step: expected {expected}, found {step!r:.80}")
        return number

    def _require_ended(self) -> None:
        if not self._ended:
            raise LaunchError(
                f"{self}: its block has not ended yet, or ended with an error; use it after the "
                "block, or record it again"
            )

    @cached_property
    def _waits(self) -> tuple[Callable[[int], None], ...]:
        """What the stream has to wait for before the first step; each one once."""
        return tuple(dict.fromkeys(w for launch in self for w in launch.waits))

    def _update(self, step: int, changes: dict[str, object]) -> None:
        self.__dict__.pop("_waits", None)
        self._launches[step].update(**changes)

    def _issue_each(self, stream: Any) -> None:
        """One launch after the other, as if each had been written down by itself."""
        self._require_ended()
        for step, launch in enumerate(list(self._launches)):
            with self._naming(step):
                launch.kernel.issue(launch.invocation, stream)

    @contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        try:
            yield
        except FerrumError as error:
            error.within(f"step {step}")
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} launches on {self.device.name}>"
