"""One traced launch of `ferrum-numba trace`, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..devices import open_device
from ..emulator.trace import Breakpoint, Event, Replay, TracedLaunch, Traffic, traffic
from ..errors import FerrumError, LaunchError, PtxError, SanitizerError
from .listing import Listing, Sources
from .stepper import Stepper
from .stop_view import StopView
from .trace_options import read_lanes, read_lines, read_registers
from .trace_target import Target
from .trace_view import show_source_lines, show_traffic, show_values, source_lines


@dataclass(frozen=True)
class Wanted:
    """Options of the command by name: the part of a launch that is wanted."""

    cta: tuple[int, ...] | None
    warps: tuple[int, ...] | None
    lanes: tuple[int, ...]
    lines: Sequence[str]
    registers: Sequence[str]
    breaks: Sequence[str]
    step: bool
    accesses: bool
    picture: Path | None
    limit: int

    def __post_init__(self) -> None:
        """Raises UsageError for what does not go together."""
        if not self.debugs:
            return
        if self.lines:
            raise click.UsageError("--line: with --step or --break, give it as --break")
        if self.accesses or self.picture:
            raise click.UsageError("--accesses and --map: not with --step or --break")
        if self.cta is None or len(self.warps or ()) != 1:
            raise click.UsageError("--step and --break follow one warp: choose --cta and --warp")

    @property
    def debugs(self) -> bool:
        return bool(self.step or self.breaks)

    @property
    def costs(self) -> bool:
        return bool(self.accesses or self.picture)

    @property
    def narrow(self) -> bool:
        """True if only some instructions are traced: stepping needs all of them."""
        return bool(self.lines or self.registers) and not self.debugs


class Session:
    """A launch that was traced, and the options that say what of it is wanted."""

    launch: TracedLaunch

    def __init__(self, target: Target, sources: Sources, console: Console, wanted: Wanted) -> None:
        self._target, self._sources, self._console = target, sources, console
        self._wanted = wanted
        self._registers = read_registers(wanted.registers, target.text, target.entry)
        self._breakpoints = [Breakpoint.parse(text) for text in wanted.breaks]
        self._error: FerrumError | None = None

    def run(self) -> None:
        """Run the launch.  Raises what keeps it from being run at all."""
        wanted = self._wanted
        device = open_device("cpu")
        self._target.prepare(device)
        with device.trace(
            cta=wanted.cta,
            warp=wanted.warps,
            lanes=wanted.lanes,
            lines=read_lines(wanted.lines, self._target.text, self._target.entry),
            registers=self._registers if wanted.narrow else (),
            limit=wanted.limit,
        ) as found:
            try:
                self._target.launch(device)
            except (LaunchError, PtxError, SanitizerError) as error:
                if not found.launches:
                    raise
                self._error = error
        self.launch = found.launches[0]

    @property
    def failed(self) -> bool:
        return self._error is not None or bool(self.launch.findings)

    # -- for people -------------------------------------------------------------------------------

    def show(self) -> None:
        """Print what the options ask for; with --step, take commands."""
        console, launch = self._console, self.launch
        console.print(Text(self._headline(), "bold"), soft_wrap=True)
        self._show_trouble()
        console.print()
        if self._wanted.debugs:
            self._debug()
            return
        if self._wanted.narrow:
            show_values(console, launch, self._wanted.lanes, self._registers)
        elif not self._wanted.costs:
            show_source_lines(console, launch, self._sources)
            console.print(
                "--line or --register shows values, --step steps through them, --accesses says what"
                " memory costs",
                style="dim",
            )
        if self._wanted.costs:
            show_traffic(console, launch, self._sources)
        if self._wanted.picture:
            self._draw(self._wanted.picture)

    def _headline(self) -> str:
        wanted, launch = self._wanted, self.launch
        cta = "all CTAs" if wanted.cta is None else f"CTA {launch.selection.cta}"
        warps = wanted.warps
        who = "all warps" if warps is None else f"warp {', '.join(map(str, warps))}"
        return (
            f"{self._target.described}: grid {launch.grid}, block {launch.block}; {cta}, {who}:"
            f" {len(launch):,} instructions traced"
        )

    def _show_trouble(self) -> None:
        launch, console = self.launch, self._console
        if not len(launch):
            console.print("no warp that was chosen came there", style="yellow")
        if launch.dropped:
            total = len(launch) + launch.dropped
            console.print(
                f"the first {len(launch):,} of {total:,} were kept: choose fewer lines, registers"
                " or warps, or raise --limit",
                style="yellow",
            )
        for finding in launch.findings:
            console.print(Text(str(finding), "red"), soft_wrap=True)
            if finding.cta is not None and not self._wanted.debugs:
                cta = ",".join(map(str, finding.cta))
                options = f"--cta {cta} --warp {finding.warp} --step --break {finding.line}"
                console.print(f"  to go there: {options}", style="dim")
        if self._error is not None:
            console.print(Text(f"it failed: {self._error}", "red"), soft_wrap=True)

    def _replay(self) -> Replay:
        (warp,) = self._wanted.warps or ()
        cta = self.launch.selection.cta
        assert cta is not None
        replay = Replay(self.launch, cta, warp)
        for breakpoint in self._breakpoints:
            replay.check(breakpoint)
        return replay

    def _debug(self) -> None:
        listing = Listing(self._target.text, self.launch)
        view = StopView(self._console, listing, self._sources, self._wanted.lanes, self._registers)
        replay = self._replay()
        stepper = Stepper(replay, view, self._breakpoints, read_lanes)
        if self._wanted.step:
            stepper.run()
        else:
            stepper.execute("c")
            self._console.print("--step goes on from here, in both directions", style="dim")

    def _draw(self, path: Path) -> None:
        from ..report.access_picture import draw

        found = [item for space in ("global", "shared") for item in traffic(self.launch, space)]
        if not found:
            self._console.print("no accesses to draw")
            return
        try:
            count, total = draw(
                path,
                found,
                self._headline(),
                self.launch.place_of,
                lambda event: self._sources.line(event.source, event.source_line) or "",
            )
        except OSError as error:
            raise click.UsageError(f"--map {path}: {error.strerror}") from None
        which = "the dearest" if total > count else "all"
        self._console.print(f"wrote {path}: {which} {count} of {total} kinds of access")

    # -- for programs -----------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The same in JSON's types."""
        launch = self.launch
        found: dict[str, Any] = {
            "target": self._target.described,
            "entry": launch.entry,
            "grid": launch.grid,
            "block": launch.block,
            "cta": launch.selection.cta,
            "warps": launch.selection.warps,
            "lanes": self._wanted.lanes,
            "events": len(launch),
            "dropped": launch.dropped,
            "findings": [finding.to_json() for finding in launch.findings],
            "error": None if self._error is None else str(self._error),
        }
        if self._wanted.debugs:
            found["stop"] = self._stop()
        if self._wanted.narrow:
            found["values"] = [row for event in launch for row in self._rows(event)]
        if not (self._wanted.debugs or self._wanted.narrow or self._wanted.costs):
            found["source_lines"] = source_lines(launch)
        if self._wanted.costs:
            spaces = ("global", "shared")
            found["accesses"] = [_costs(item) for s in spaces for item in traffic(launch, s)]
        return found

    def _stop(self) -> dict[str, Any] | None:
        """Position of the first breakpoint that is met."""
        replay = self._replay()
        stop = replay.run(self._breakpoints)
        if stop is None:
            return None
        breakpoint, lanes = stop
        event = replay.event
        return {
            "breakpoint": breakpoint.text,
            "lanes": [lane for lane in range(32) if lanes >> lane & 1],
            "number": event.number,
            "line": event.line,
            "instruction": event.instruction,
            "source": event.source,
            "source_line": event.source_line,
            "values": list(event.rows(self._wanted.lanes)),
        }

    def _rows(self, event: Event) -> list[dict[str, Any]]:
        rows = event.rows(self._wanted.lanes)
        return [row for row in rows if not self._registers or row["register"] in self._registers]


def _costs(item: Traffic) -> dict[str, Any]:
    event, worst = item.event, item.worst
    return {
        "line": event.line,
        "instruction": event.instruction,
        "source": event.source,
        "source_line": event.source_line,
        "space": worst.space,
        "kind": worst.kind,
        "nbytes": worst.nbytes,
        "executions": item.executions,
        "cost": item.cost,
        "ideal": item.ideal,
        "touched_bytes": item.nbytes,
        "lines": item.lines,
        "conflict": item.conflict,
    }
