"""The layer tests of `ferrum-numba verify`: their results, a journal of them, and the progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..devices import Device
from ..gptq import Checkpoint
from ..kernels import artefact
from ..report import (
    Journal,
    LayerResult,
    Plan,
    select_layers,
    settings_of,
    verify_layers,
    worst_passing,
)
from .console import one_line, standard_error


class Verification:
    """Layers to test, and the devices and kernels to test them with."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        devices: Sequence[Device],
        plan: Plan,
        patterns: Sequence[str],
        kernels: Sequence[str],
        explain: Sequence[str],
    ) -> None:
        self.checkpoint, self.devices, self.plan = checkpoint, devices, plan
        select_layers(checkpoint, explain)  # a pattern that matches nothing is a mistake,
        for kernel in kernels:  # and so is a kernel that is not shipped
            artefact(kernel)
        self.jobs = [
            (name, replace(plan, kernel=kernel, explain=_matches(name, explain)))
            for name in select_layers(checkpoint, patterns)
            for kernel in kernels or (None,)
        ]

    def results(self, path: Path | None, *, again: bool) -> list[LayerResult]:
        """Test, or take from the journal at `path`, in the checkpoint's order.

        again: begin the journal anew.
        """
        journal = None
        if path is not None:
            settings = {d.name: settings_of(self.checkpoint, self.plan, d) for d in self.devices}
            journal = Journal(path, settings)
            journal.start(again=again)
        done = {} if journal is None else journal.done
        found = {key: done[key] for key in map(_key, self.jobs) if key in done}
        if found:
            standard_error().print(
                f"resume: {len(found)} of {len(self.jobs)} layers are in {path}, of this "
                "checkpoint and these settings; they are not tested again"
            )

        def take(result: LayerResult) -> None:
            if journal is not None:
                journal.append(result)
            found[result.layer, result.kernel] = result

        jobs = [job for job in self.jobs if _key(job) not in found]
        try:
            _test(self.checkpoint, jobs, self.devices, take)
        except KeyboardInterrupt:
            go_on = (
                f"--resume {path} goes on from there"
                if path is not None
                else "with --resume FILE they would be kept, and a next run go on from there"
            )
            if journal is not None:
                journal.start(again=False)  # it may have come amid a line
            kept = found if journal is None else journal.done
            count = sum(_key(job) in kept for job in self.jobs)
            standard_error().print(
                f"interrupted: {count} of {len(self.jobs)} layers are done; {go_on}"
            )
            raise
        return [found[_key(job)] for job in self.jobs]

    def explain_worst_passing(self, results: Sequence[LayerResult]) -> list[LayerResult]:
        """The results, those that passed most narrowly replaced by ones that were looked into."""
        names = worst_passing([(r.layer, r.worst_ratio) for r in results if r.verdict == "pass"])
        jobs = [
            (result.layer, replace(self.plan, kernel=result.kernel, explain=True))
            for result in results
            if result.layer in names and result.verdict == "pass" and not result.explanation
        ]
        if jobs:
            standard_error().print(
                f"html: looking into the {len(jobs)} layers that passed most narrowly"
            )
        found: dict[tuple[str, str | None], LayerResult] = {}

        def take(result: LayerResult) -> None:
            found[result.layer, result.kernel] = result

        _test(self.checkpoint, jobs, self.devices, take)
        return [
            replace(result, explanation=found[result.layer, result.kernel].explanation)
            if (result.layer, result.kernel) in found
            else result
            for result in results
        ]


def _test(
    checkpoint: Checkpoint,
    jobs: Sequence[tuple[str, Plan]],
    devices: Sequence[Device],
    take: Callable[[LayerResult], None],
) -> None:
    """Give each result of `verify_layers` to `take`; a progress bar where somebody is looking."""
    with _progress() as progress, closing(verify_layers(checkpoint, jobs, devices)) as results:
        task = progress.add_task("", total=len(jobs))
        for result in results:
            take(result)
            progress.update(task, advance=1, description=one_line(result.layer))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _key(job: tuple[str, Plan]) -> tuple[str, str | None]:
    name, plan = job
    return name, plan.kernel


class _RateColumn(ProgressColumn):
    """Layers a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} layers/s" if task.speed else "")


def _progress() -> Progress:
    console = standard_error()
    return Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
