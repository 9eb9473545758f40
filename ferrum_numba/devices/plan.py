"""Launch plans: launches recorded once and issued by a single call."""

from __future__ import annotations

from typing import Any

from .sequence import LaunchSequence


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
        self._issue_each(stream)
