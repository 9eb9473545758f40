"""Launch graphs: launches captured once, which the device then runs as one piece of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import LaunchError
from .sequence import LaunchSequence

if TYPE_CHECKING:
    from .base import Device, Invocation, Kernel


class LaunchGraph(LaunchSequence):
    """`with device.capture() as graph: kernel.launch(..., stream=graph.stream)`.

    Nothing runs in the block; `graph.launch(stream)` runs all of it, as often as wanted.
    Workspaces and counters that its launches need are the graph's own.

    stream: where the launches of the block have to go.
    """

    def __init__(self, device: Device, stream: Any) -> None:
        super().__init__(device)
        self.stream = stream

    def take(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        self._require_own(kernel)
        self._require_captured(stream)
        super().take(kernel, invocation, stream)

    @contextmanager
    def capturing(self) -> Iterator[LaunchGraph]:
        """Within the block launches go into the graph.  Raises LaunchError for an empty one."""
        with self.recording():
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
                "stream: within capture() launches go to the stream that is captured; "
                f"expected stream=graph.stream, found {stream!r:.80}"
            )

    def _require_launches(self, count: int) -> None:
        if not count:
            raise LaunchError("capture: nothing was launched on graph.stream within the block")
