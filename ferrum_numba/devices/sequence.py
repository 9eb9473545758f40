"""Launches that were recorded in order, to be repeated as one: plans and graphs.

While a block records, the calling thread's launches go to its plan or graph, not to the device.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
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
        """Block in which the calling thread's launches go into it."""
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
        self._issue_steps(0, len(self), stream)

    def _issue_steps(self, begin: int, end: int, stream: Any) -> None:
        for step, launch in enumerate(self._launches[begin:end], begin):
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
    """`with device.record_plan() as plan: ...` records what the block would launch.

    `plan(stream)` launches all of it in order, on that one stream.  A plan is the cheapest way to
    issue launches that follow each other; a graph costs the host still less, but has to be made.
    """

    def __call__(self, stream: Any = None) -> None:
        """Launch every step on `stream`.

        Raises LaunchError, which names the step, where the device refuses one; the steps before it
        have been launched.
        """
        with observer.together(f"plan of {len(self)}"):
            self._issue_each(stream)


@dataclass
class Body:
    """Steps of a graph, from `begin` to before `end`, that run where a number is not 0.

    number: the array that begins with it; None of the whole graph.  repeats: whether they run
    until it is 0.  inner: bodies within.
    """

    number: Any
    repeats: bool
    begin: int
    end: int = -1
    inner: list[Body] = field(default_factory=list)


class LaunchGraph(LaunchSequence):
    """`with device.capture() as graph: kernel.launch(..., stream=graph.stream)`.

    Nothing runs in the block; `graph.launch(stream)` runs all of it, as often as wanted.
    Workspaces and counters that its launches need are the graph's own.

    stream: where the launches of the block have to go; within a body it is another one.
    """

    def __init__(self, device: Place, stream: Any) -> None:
        super().__init__(device)
        self.stream = stream
        self._whole = Body(None, False, 0)
        self._open = [self._whole]  # bodies that are being captured, the innermost last

    def repeat(self, number: Any) -> AbstractContextManager[None]:
        """`with graph.repeat(going): ...` within the capture: a loop that the device ends.

        What the block launches on `graph.stream` runs while `number` is not 0, which is looked at
        before each round: so it does not run at all where that is 0 when the graph comes to it.
        number: an int32 or uint32 array of one element, which a launch of the block has to set to
        0 at some time.

        A body's launches cannot be changed afterwards, and a recording does not take them down.
        Raises AbiError for another array, LaunchError outside of the capture and for a block that
        launches nothing, DeviceError for a driver before CUDA 12.4.
        """
        return self._body(number, repeats=True)

    def when(self, number: Any) -> AbstractContextManager[None]:
        """`with graph.when(wanted): ...` within the capture: a body that runs once or not at all.

        It runs where `number` is not 0 when the graph comes to it; else as `repeat`.
        """
        return self._body(number, repeats=False)

    @contextmanager
    def _body(self, number: Any, *, repeats: bool) -> Iterator[None]:
        if recording_here() is not self:
            raise LaunchError(str(self), "bodies are captured in its block alone")
        found = self.device.describe("number", number)
        if found.dtype not in ("int32", "uint32") or found.available != found.itemsize:
            raise AbiError(
                "number",
                "an int32 or uint32 array of one element",
                f"{found.dtype} {list(found.shape)}",
            )
        body = Body(number, repeats, len(self))
        self._open[-1].inner.append(body)
        self._open.append(body)
        try:
            with self._capturing_body(number, repeats):
                yield
                body.end = len(self)
                if body.begin == body.end:
                    raise LaunchError("capture", "nothing was launched within a body")
        finally:
            self._open.pop()

    def _capturing_body(self, number: Any, repeats: bool) -> AbstractContextManager[object]:
        """A block in which launches go into a body."""
        return nullcontext()

    def _run(self, body: Body, stream: Any) -> None:
        """Launch a body's steps, and of the bodies within those whose numbers are not 0."""
        step = body.begin
        for inner in body.inner:
            self._issue_steps(step, inner.begin, stream)
            while self.device.to_host(inner.number).any():
                self._run(inner, stream)
                if not inner.repeats:
                    break
            step = inner.end
        self._issue_steps(step, body.end, stream)

    def _add(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        self._require_own(kernel)
        self._require_captured(stream)
        super()._add(kernel, invocation, stream)

    @contextmanager
    def _capturing(self) -> Iterator[LaunchGraph]:
        """Block in which launches go into the graph.  Raises LaunchError for an empty one."""
        with self._recording():
            yield self
            self._require_launches(len(self))
            self._whole.end = len(self)

    def launch(self, stream: Any = None) -> None:
        """Run the graph on `stream`.  Raises LaunchError where the device refuses."""
        self._require_ended()
        self._require_no_bodies(recording_here() is not None)
        self._run(self._whole, stream)

    def _require_no_bodies(self, captured: bool) -> None:
        if captured and self._whole.inner:
            raise LaunchError(
                str(self),
                "it has bodies that the device decides about, which no plan and no other graph can "
                "record",
                remedy="launch it outside of the block",
            )

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
        if any(body.begin <= step < body.end for body in self._whole.inner):
            raise LaunchError(
                str(self), "its body cannot be changed", remedy="capture the graph again"
            )
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
