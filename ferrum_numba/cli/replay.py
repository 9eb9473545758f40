"""`ferrum-numba replay`: run a recording again, and say where it comes out otherwise."""

from __future__ import annotations

import dataclasses

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..debug.recording import Recording
from ..debug.replay import LaunchReplay, replay
from ..devices import Device, open_device
from ..errors import RecordingError
from .confinement import ConfinedCommand, confined, is_trusted
from .console import json_option, plain_table, standard_output, write_json
from .devices import NoSuchDevice, device_option, find_device
from .options import NUMBER_FROM_ZERO, checks_option, examples

_STYLES = {"equal": "green", "close": "green", "ran": "yellow", "left out": "yellow"}
_PASSES = ("equal", "close", "ran", "left out")


@click.command(
    "replay", cls=ConfinedCommand, epilog=examples("ferrum-numba replay run.ferrum --device cpu")
)
@click.argument("run", type=click.Path(exists=True, dir_okay=False))
@device_option("Where to run it again: cpu, cuda, cuda:<n>. Default: the GPU where one is.", "auto")
@checks_option("On the CPU: look at every access.")
@click.option(
    "--tolerance",
    type=NUMBER_FROM_ZERO,
    help="Of a difference, over the array's largest value; 0 asks for equal bits. Default: a few "
    "roundings of the array's type.",
)
@json_option
@confined
@click.pass_context
def replay_command(
    ctx: click.Context,
    run: str,
    device: str,
    checks: tuple[str, ...],
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Run a recording again, and name where it comes out otherwise.

    RUN is a file that fe.record or $FERRUM_RECORD wrote. Each launch starts from the arrays that
    were recorded. Launches run in a process of their own, with limits, and on the CPU with the
    check memory: a recording carries its PTX, which may be a stranger's. Exits with 1 if one
    differs or fails, was refused when it was recorded, or the checks find something.
    """
    opened = _open(device, checks, is_trusted(ctx))
    recording = Recording(run)
    if not (recording.launches or recording.refused):
        cut = "" if recording.complete else ", since it ends in its midst"
        raise RecordingError(run, "at least one launch", f"none{cut}")
    launches = []
    console = standard_output()
    for launch in replay(recording, opened, tolerance=tolerance):
        if not checks:  # nobody asked whether its arrays are what its integers say
            accesses = [f for f in launch.findings if f.kind != "layout"]
            launch = dataclasses.replace(launch, findings=accesses)
        launches.append(launch)
        if not as_json and not _passes(launch):
            _show_worst(console, launch)
    if as_json:
        write_json(_as_json(recording, opened, launches))
    else:
        _show(console, recording, opened, launches)
    right = all(_passes(launch) for launch in launches) and not recording.refused
    ctx.exit(0 if right else 1)


def _open(name: str, checks: tuple[str, ...], trusted: bool) -> Device:
    """Open the device; a CPU looks at least at every address, for the PTX may be a stranger's."""
    if not checks:
        device = find_device(name)
        guarded = device.name == "cpu" and not trusted
        return open_device("cpu", checks=("memory",)) if guarded else device
    if name not in ("auto", "cpu"):
        raise NoSuchDevice(f"--checks: only the CPU device has them, found --device {name}")
    return open_device("cpu", checks=checks)


def _passes(launch: LaunchReplay) -> bool:
    return launch.verdict in _PASSES and not launch.findings


def _as_json(
    recording: Recording, device: Device, launches: list[LaunchReplay]
) -> dict[str, object]:
    return {
        "recording": str(recording.path),
        "complete": recording.complete,
        "origin": recording.origin,
        "device": device.name,
        "launches": [
            {
                "launch": launch.number,
                "entry": launch.entry,
                "verdict": launch.verdict,
                "reason": launch.reason,
                "differences": launch.differences,
                "findings": [finding.to_json() for finding in launch.findings],
            }
            for launch in launches
        ],
        "refused": recording.refused,
    }


def _show_worst(console: Console, launch: LaunchReplay) -> None:
    head = Text.assemble((f"launch {launch.number}", "bold"), f" {launch.entry}: {launch.verdict}")
    console.print(head, soft_wrap=True)
    for line in [launch.reason, *map(str, launch.differences), *map(str, launch.findings)]:
        if line:
            console.print(f"  {line}", soft_wrap=True)


def _show(
    console: Console, recording: Recording, device: Device, launches: list[LaunchReplay]
) -> None:
    console.print(_table(recording, launches))
    for refused in recording.refused:
        console.print(f"refused when it was recorded: {refused.error}", soft_wrap=True)
        if refused.evidence:
            console.print(f"  likely cause: {refused.evidence}", soft_wrap=True)
    if not recording.complete:
        console.print("The recording ends in its midst: what was recorded until then was run.")
    counts = dict.fromkeys((*_STYLES, "differs", "fails"), 0)
    for launch in launches:
        counts[launch.verdict] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    first = next((launch for launch in launches if not _passes(launch)), None)
    noun = "launch" if len(launches) == 1 else "launches"
    line = Text(f"\n{len(launches)} {noun} on {device.name}: {told or 'none'}")
    if first is not None:
        parts = first.verdict in ("differs", "fails")
        where = str(first.differences[0]) if first.differences and parts else first.reason
        where = where or str(first.findings[0]).splitlines()[0]
        what = "first to part" if parts else "first finding"
        line.append(f"\n{what}: launch {first.number}, {where}", "bold red")
    console.print(line, soft_wrap=True)


def _table(recording: Recording, launches: list[LaunchReplay]) -> Table:
    """Runs of launches of the same entry and verdict, a row each."""
    table = plain_table()
    table.add_column("launch", justify="right", no_wrap=True)
    table.add_column("entry", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("", overflow="fold")
    start = 0
    while start < len(launches):
        first = launches[start]
        end = start + 1
        while end < len(launches) and _alike(first, launches[end]):
            end += 1
        numbers = f"{first.number}" if end == start + 1 else f"{first.number}-{end - 1}"
        seconds = [s for n in range(start, end) if (s := recording.launches[n].seconds)]
        took = f"{min(seconds) * 1e6:,.0f} us" if seconds else ""
        found = f"{len(first.findings)} findings" if first.findings else ""
        verdict = Text(first.verdict, _STYLES.get(first.verdict, "bold red"))
        table.add_row(numbers, first.entry, took, verdict, first.reason or found)
        start = end
    return table


def _alike(one: LaunchReplay, two: LaunchReplay) -> bool:
    fields = ("entry", "verdict", "reason")
    same = all(getattr(one, name) == getattr(two, name) for name in fields)
    return same and _passes(one) and _passes(two)
