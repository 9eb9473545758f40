"""A program whose code records what it does, and one launch of it."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import FerrumError
from ..checks.arrays import LaunchArray
from ..checks.finding import Finding
from ..checks.program import CheckedProgram
from ..job import Job
from ..ptx import Body
from .launch import TracedLaunch
from .selection import Selection
from .tap import Tap
from .tape import Tape


class TracedProgram:
    """One entry of a PTX text as native code that records the selected instructions.

    checks: what is looked for besides, as in CheckedProgram.
    """

    def __init__(
        self, text: str, entry: str, selection: Selection, checks: Sequence[str] = ()
    ) -> None:
        self.selection = selection
        self._program = CheckedProgram(text, entry, checks, watch=self._make_tap)
        self.entry = entry

    def _make_tap(self, checks: frozenset[str], body: Body, threads: int | None) -> Tap:
        selection = self.selection
        self._tap = Tap(checks, body, threads, selection.lines, selection.registers)
        self._body = body
        return self._tap

    def run(
        self, job: Job, arrays: Sequence[LaunchArray], number: int = 0
    ) -> tuple[TracedLaunch, FerrumError | None]:
        """Run a grid as CheckedProgram.run does; return what was recorded.

        Also the error that ended the launch, for what came before it is the way to its cause.
        number: of the launch among those of a trace.
        """
        selection, tap = self.selection, self._tap
        cta = selection.cta_number(job.grid)
        tape = Tape(selection.limit, cta, selection.warp_bits(job.block), tap.widest)
        findings: Sequence[Finding] = ()
        error = None
        try:
            findings = self._program.run(job, arrays, tape.address)
        except FerrumError as raised:
            error = raised
        recorded = tape.read()
        launch = TracedLaunch(
            self.entry,
            self._body,
            tap.sites,
            recorded,
            job.grid,
            job.block,
            selection,
            arrays,
            findings,
            number,
        )
        return launch, error
