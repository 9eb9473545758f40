"""Tracing launches on the CPU device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...emulator.checks import Finding
from ...emulator.trace import Selection, TracedProgram
from ..invocation import Invocation, Launchable
from ..trace import Trace
from .launch_arrays import job_of, launch_arrays


class Tracer:
    """Runs the launches of a CPU device while they are traced.

    checks: what is looked for besides; report: takes each launch in one line, and what was found.
    """

    def __init__(
        self,
        selection: Selection,
        checks: Sequence[str] = (),
        report: Callable[[str, Sequence[Finding]], None] | None = None,
    ) -> None:
        self.trace = Trace(selection)
        self._checks, self._report = checks, report
        self._programs: dict[Launchable, TracedProgram] = {}

    def run(
        self, kernel: Launchable, invocation: Invocation, scratch: Mapping[str, int], threads: int
    ) -> None:
        """Run a launch and record it; an error of the launch is raised when that is done."""
        if kernel not in self._programs:
            self._programs[kernel] = TracedProgram(
                kernel.module.text, kernel.signature.entry, self.trace.selection, self._checks
            )
        launch, error = self._programs[kernel].run(
            job_of(kernel, invocation, threads),
            launch_arrays(kernel, invocation, scratch),
            number=len(self.trace.launches),
        )
        self.trace.launches.append(launch)
        if error is not None:
            raise error
        if self._report is not None:
            self._report(kernel.describe(invocation), launch.findings)
