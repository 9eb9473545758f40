"""The observer of all launches of this process; there is none until one begins.

One place for all devices: launches that are looked at one by one come by `Kernel._issue`, repeated
ones by a native launcher that an observer's takes the place of (`cuda/launcher.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from ..abi import LaunchConfig, ParameterBlock
from .invocation import Invocation, Launchable

# The code of a native launcher that has launched nothing, as the observer has to be asked.
ASKS = 1 << 30


Span = Callable[[str], AbstractContextManager[object]]


class RefusedLaunch(NamedTuple):
    """A launch whose arguments were refused: the kernel, what it was given, and the error."""

    kernel: Launchable
    config: LaunchConfig
    positional: Sequence[object]
    named: Mapping[str, object]
    error: Exception


class Repeated(Protocol):
    """A launch that may change between its launches, such as a prepared one."""

    @property
    def kernel(self) -> Launchable: ...

    @property
    def invocation(self) -> Invocation: ...


class Markable(Protocol):
    """A repeated launch as native code is given it, and finds in it what to log.

    block: the parameters.  calls: the calls that blocks are, until anything but an address changes;
    for the observer.
    """

    block: ParameterBlock
    calls: dict[object, Any]

    def mark(self, call: int, recording: int) -> None:
        """Be logged as the call at an address, within the recording of a number."""


class Observer(Protocol):
    """Sees launches while it is `current`."""

    def launch(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        """Stands for `kernel._enqueue(invocation, stream)`, which it has to call."""

    @property
    def span(self) -> Span | None:
        """Makes a block in which all that is launched belongs together, of a plan or a layer; None
        for an observer to which that makes no difference."""

    def admits(self, launch: Repeated, record: Markable, graph: bool) -> bool:
        """True if native code may log the launch, which `record` hands over, and launch it.

        The record is marked for it.  Else the launch has to come through `launch`.  graph: whether
        it is a graph's, which launches it.
        """

    def failed(self, number: int, error: Exception) -> None:
        """Called when the driver refuses a launch that native code has logged.

        Numbers count from 1; the caller raises `error`.
        """

    def refused(self, launch: RefusedLaunch) -> None:
        """Called for a launch whose arguments were refused; the error is raised afterwards."""


current: Observer | None = None
span: Span | None = None  # the observer's
_followers: list[Callable[[bool], object]] = []
# Adds notes to an error before it is raised; set once by the package, for what lies above devices.
annotate: Callable[[RefusedLaunch], None] | None = None


def begin(observer: Observer) -> None:
    """Let it see all launches from now on; there must be no other."""
    global current, span
    current, span = observer, observer.span
    for follow in _followers:
        follow(True)


def end(observer: Observer | None) -> None:
    """Let it see no more, if it is the one that does."""
    global current, span
    if observer is not None and current is observer:
        current = span = None
        for follow in _followers:
            follow(False)


def follow(follower: Callable[[bool], object]) -> None:
    """Tell native code's launcher, now and later, whether there is an observer."""
    _followers.append(follower)
    follower(current is not None)


def admits(launch: Repeated, record: Markable, graph: bool = False) -> bool:
    """See `Observer.admits`; False where nobody observes any more."""
    watching = current
    return watching is not None and watching.admits(launch, record, graph)


def failed(number: int, error: Exception) -> None:
    """See `Observer.failed`."""
    if current is not None:
        current.failed(number, error)


def together(name: str) -> AbstractContextManager[object]:
    """See `Observer.span`."""
    return nullcontext() if span is None else span(name)


def show(launch: RefusedLaunch) -> None:
    """Show a launch whose arguments were refused to all who want to see it."""
    if current is not None:
        current.refused(launch)
    if annotate is not None:
        annotate(launch)
