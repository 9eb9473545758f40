"""The observer of all launches of this process; there is none until one is set.

One place for all devices.  Off, it costs a launch one comparison with None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ..abi import LaunchConfig
from .invocation import Invocation, Launchable

# What a fast path returns where it did nothing: the log has no room for its rows, or the observer
# has to launch.
FULL, DECLINED = -1, -2


class RefusedLaunch(NamedTuple):
    """A launch whose arguments were refused: the kernel, what it was given, and the error."""

    kernel: Launchable
    config: LaunchConfig
    positional: Sequence[object]
    named: Mapping[str, object]
    error: Exception


class Issuable(Protocol):
    """A launch that may change between its launches, such as a prepared one."""

    @property
    def kernel(self) -> Launchable: ...

    @property
    def invocation(self) -> Invocation: ...


class Issued(Protocol):
    """Launches that are issued together on one stream.

    rows: of each launch, the addresses that cuLaunchKernelEx takes; none for a graph, which is
    launched as a whole.
    """

    handle: int

    @property
    def launches(self) -> Sequence[Issuable]: ...

    @property
    def rows(self) -> Sequence[tuple[int, int, int]]: ...

    def issuer(self) -> Callable[[int], int]:
        """The compiled code that a FastPath calls."""


class FastPath(NamedTuple):
    """Compiled code that logs launches and issues them, valid until one of them changes.

    owner: the observer.  issue(address): see `native.issuer`.  rows: how many it writes.
    memory: what lies at the address, and what that points to.
    """

    owner: Observer | None
    issue: Callable[[int], int]
    address: int
    rows: int
    memory: object


NO_FAST_PATH = FastPath(None, lambda address: DECLINED, 0, 0, None)


class Observer(Protocol):
    """Sees launches while it is `current`."""

    def launch(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        """Stands for `kernel._enqueue(invocation, stream)`, which it has to call."""

    def span(self, name: str) -> AbstractContextManager[object]:
        """A block in which all that is launched belongs together: a plan's launches, a layer's."""

    def fast_path(self, launches: Issued) -> FastPath | None:
        """A fast path for these launches; None where they have to come through `launch`."""

    def make_room(self, count: int) -> bool:
        """Let fast paths write so many rows; False where this observer has ended."""

    def resumes(self, launches: Issued) -> bool:
        """True if the observer no longer needs to issue these launches itself."""

    def failed(self, number: int, error: Exception, count: int = 1) -> None:
        """Called when the driver refuses launches `number`, `number` + 1, … of a fast path.

        Numbers count from 1; the caller raises `error`.
        """

    def refused(self, launch: RefusedLaunch) -> None:
        """Called for a launch whose arguments were refused; the error is raised afterwards."""


current: Observer | None = None
# Adds notes to an error before it is raised; set once by the package, for what lies above devices.
annotate: Callable[[RefusedLaunch], None] | None = None


def show(launch: RefusedLaunch) -> None:
    """Show a launch whose arguments were refused to all who want to see it."""
    if current is not None:
        current.refused(launch)
    if annotate is not None:
        annotate(launch)
