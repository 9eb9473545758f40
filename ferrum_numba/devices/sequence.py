"""Launches that were recorded in order, to be repeated as one: plans and graphs.

While a block records, the calling thread's launches go to its plan or graph, not to the device.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..errors import AbiError, FerrumError, LaunchError
from ..pickling import NotPickled
from . import observer
from .invocation import Invocation, Launchable, Place
from .prepared import PreparedLaunch

recordings: dict[int, LaunchSequence] = {}  # by thread; nearly always empty


def recording_here() -> LaunchSequence | None:
    """The plan or graph that takes the launches of the calling thread; nearly always none."""
    return recordings.get(threading.get_ident()) if recordings else None


class LaunchSequence(NotPickled):
    """The launches of a plan or of a graph.  It keeps their arrays alive.

    Any number of threads may issue it at a time; while one changes it, no other may use it.
    """

    def __init__(self, device: Place) -> None:
        self.device = device
        self._launches: list[PreparedLaunch] = []
        self._ended = False

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Within the block the calling thread's launches go into it."""
        thread = threading.get_ident()
        if thread in recordings:
            raise LaunchError(
                "capture", "this thread is recording a plan or a graph already", remedy="end it"
            )
        recordings[thread] = self
        try:
            yield
        finally:
            del recordings[thread]
        self._ended = True

    def __len__(self) -> int:
        return len(self._launches)

    def __iter__(self) -> Iterator[Invocation]:
        return (launch.invocation for launch in self._launches)

    def __getitem__(self, step: int) -> Invocation:
        """A step's launch as it is now: its configuration, arguments and parameter block."""
        return self._launches[step].invocation

    def _add(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        """Record a launch, which is marshalled and checked."""
        self._require_own(kernel)
        self._launches.append(PreparedLaunch(kernel, invocation.copy()))

    def _require_own(self, kernel: Launchable) -> None:
        if kernel.module.device is not self.device:
            raise LaunchError(
                self, "launches on that device", f"one on another, {kernel.module.device.name}"
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
            raise AbiError("step", expected, f"{step!r:.80}")
        return number

    def _require_ended(self) -> None:
        if not self._ended:
            raise LaunchError(
                str(self),
                "its block has not ended yet, or ended with an error",
                remedy="use it after the block, or record it again",
            )

    @cached_property
    def _waits(self) -> tuple[Callable[[int], None], ...]:
        """The waits that the stream needs before the first step; each one once."""
        return tuple(dict.fromkeys(w for launch in self for w in launch.waits))

    def _update(self, step: int, changes: dict[str, object]) -> None:
        self.__dict__.pop("_waits", None)
        self._launches[step].update(**changes)

    def _issue_each(self, stream: Any) -> None:
        """One launch after the other, as if each had been written down by itself."""
        self._require_ended()
        for step, launch in enumerate(list(self._launches)):
            with self._naming(step):
                launch.kernel._issue(launch.invocation, stream)

    @contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        try:
            yield
        except FerrumError as error:
            error.within(f"step {step}")
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} launches on {self.device.name}>"


class LaunchPlan(LaunchSequence):
    """`with device.record_plan() as plan: ...` takes down what the block would launch.

    `plan(stream)` launches all of it in order, on that one stream.  A plan is the cheapest way to
    issue launches that follow each other; a graph costs the host still less, but has to be made.
    """

    def __call__(self, stream: Any = None) -> None:
        """Launch every step on `stream`.

        Raises LaunchError, which names the step, where the device refuses one; the steps before it
        have been launched.
        """
        with observer.span(f"plan of {len(self)}"):
            self._issue_each(stream)


class LaunchGraph(LaunchSequence):
    """`with device.capture() as graph: kernel.launch(..., stream=graph.stream)`.

    Nothing runs in the block; `graph.launch(stream)` runs all of it, as often as wanted.
    Workspaces and counters that its launches need are the graph's own.

    stream: where the launches of the block have to go.
    """

    def __init__(self, device: Place, stream: Any) -> None:
        super().__init__(device)
        self.stream = stream

    def _add(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        self._require_own(kernel)
        self._require_captured(stream)
        super()._add(kernel, invocation, stream)

    @contextmanager
    def _capturing(self) -> Iterator[LaunchGraph]:
        """Within the block launches go into the graph.  Raises LaunchError for an empty one."""
        with self._recording():
            yield self
            self._require_launches(len(self))

    def launch(self, stream: Any = None) -> None:
        """Run the graph on `stream`.  Raises LaunchError where the device refuses."""
        self._issue_each(stream)

    def seconds(self, launches: int) -> list[float]:
        """Launch it so many times in a row on `stream`, and wait: the seconds of each.

        On a GPU it is the device's clock, and the first has waited for the host besides.
        """
        clock = [time.perf_counter()]
        for _ in range(launches):
            self.launch(self.stream)
            clock.append(time.perf_counter())
        return [after - before for before, after in pairwise(clock)]

    def _update(self, step: int, changes: dict[str, object]) -> None:
        self._require_ended()
        super()._update(step, changes)

    def _require_captured(self, stream: Any) -> None:
        if stream is not self.stream:
            raise LaunchError(
                "stream",
                "graph.stream, as within capture() launches go to the stream that is captured",
                f"{stream!r:.80}",
            )

    def _require_launches(self, count: int) -> None:
        if not count:
            raise LaunchError("capture", "nothing was launched on graph.stream within the block")
