"""The prompt of `trace --step`: commands from a terminal, or from a file or pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from ..emulator.trace import Breakpoint, Replay
from ..errors import DeviceError, FerrumError
from .console import plain_table
from .stop_view import StopView, lanes_text
from .trace_view import type_text, value_text

_PROMPT = "(trace) "
_HELP = (
    ("n [COUNT]", "next instruction"),
    ("back [COUNT]", "one instruction back"),
    ("s, bs", "next source line; one source line back"),
    ("c, rc", "run on to a breakpoint; run back to one"),
    ("b WHERE", "break at 120 (PTX), :45 (source), %r12 > 100, 120 if %p1"),
    ("b, d NUMBER", "list the breakpoints; delete one"),
    ("p REG [TYPE]", "print a register, as another type such as f16x2"),
    ("w REG", "show a register at every stop; again: no longer"),
    ("regs", "all registers that are known here"),
    ("lanes 0-3,8", "which lanes are shown"),
    ("goto EVENT", "go to an event by its number"),
    ("where", "show this stop again"),
    ("quit", "or the end of the input; an empty line repeats the last command"),
)


class Stepper:
    """Runs commands on a replay.  An empty line repeats the last one."""

    def __init__(
        self,
        replay: Replay,
        view: StopView,
        breakpoints: list[Breakpoint],
        read_lanes: Callable[[str], tuple[int, ...]],
    ) -> None:
        self.replay, self.view, self.breakpoints = replay, view, breakpoints
        self._read_lanes = read_lanes
        self._commands: dict[str, Callable[[str], None]] = {
            "n": lambda rest: self._move(self._count(rest)),
            "back": lambda rest: self._move(-self._count(rest)),
            "s": lambda _: self._move_line(1),
            "bs": lambda _: self._move_line(-1),
            "c": lambda _: self._run(1),
            "rc": lambda _: self._run(-1),
            "b": self._break,
            "d": self._delete,
            "p": self._print,
            "w": self._watch,
            "regs": lambda _: self._print_all(),
            "lanes": self._choose_lanes,
            "goto": self._go,
            "where": lambda _: self.view.show(self.replay),
            "help": lambda _: self._help(),
        }
        longer = {"next": "n", "continue": "c", "break": "b", "print": "p", "watch": "w"}
        self._commands |= {name: self._commands[short] for name, short in longer.items()}
        self._commands["h"] = self._commands["?"] = self._commands["help"]

    @property
    def console(self) -> Console:
        return self.view.console

    def run(self) -> None:
        """Take commands from standard input until it ends."""
        if self.breakpoints:
            self._run(1)
        else:
            self.view.show(self.replay)
        self.console.print("n next, back, c continue, b break, p print, help, quit", style="dim")
        for line in _lines(self.console):
            if line.strip() in ("q", "quit", "exit"):
                return
            if line.strip():
                self.execute(line)

    def execute(self, line: str) -> None:
        """Execute a command.  A wrong one is reported, and changes nothing."""
        name, _, rest = line.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            self.console.print(f"{name}: no such command; help lists them", style="red")
            return
        try:
            command(rest.strip())
        except (FerrumError, ValueError) as error:
            self.console.print(str(error), style="red")

    # -- moving -----------------------------------------------------------------------------------

    def _move(self, steps: int) -> None:
        before = self.replay.position
        self.replay.move(steps)
        if self.replay.position == before:
            end = "last" if steps > 0 else "first"
            self.console.print(f"this is the {end} event{self._truncated(steps)}", style="yellow")
            return
        self.view.show(self.replay)

    def _move_line(self, direction: int) -> None:
        before = self.replay.position
        self.replay.move_line(direction)
        self._move(0) if self.replay.position == before else self.view.show(self.replay)

    def _run(self, direction: int) -> None:
        if not self.breakpoints:
            raise DeviceError(
                "breakpoints", "at least one", "none", "set one with b, or step with n"
            )
        stop = self.replay.run(self.breakpoints, direction)
        if stop is None:
            way = "last" if direction > 0 else "first"
            text = f"no breakpoint was met; this is the {way} event{self._truncated(direction)}"
            self.console.print(text, style="yellow")
        else:
            breakpoint, lanes = stop
            text = f"breakpoint {self.breakpoints.index(breakpoint) + 1}: {breakpoint.text}"
            if breakpoint.condition is not None:
                text += f", in {lanes_text(lanes)}"
            self.console.print(Text(text, "bold yellow"))
            if breakpoint.condition is not None:
                self.view.show(self.replay, lanes)
                return
        self.view.show(self.replay)

    def _go(self, rest: str) -> None:
        self.replay.position = 0
        self.replay.move(int(rest))
        self.view.show(self.replay)

    def _truncated(self, direction: int) -> str:
        dropped = self.replay.launch.dropped
        if direction < 0 or not dropped:
            return ""
        return f" that was kept; {dropped:,} more came, see --limit"

    # -- breakpoints ------------------------------------------------------------------------------

    def _break(self, rest: str) -> None:
        if rest:
            breakpoint = Breakpoint.parse(rest)
            self.replay.check(breakpoint)
            self.breakpoints.append(breakpoint)
        for number, breakpoint in enumerate(self.breakpoints, 1):
            if not rest or number == len(self.breakpoints):
                self.console.print(f"breakpoint {number}: {breakpoint.text}", markup=False)

    def _delete(self, rest: str) -> None:
        number = int(rest)
        if not 1 <= number <= len(self.breakpoints):
            raise DeviceError(rest, "there is no such breakpoint", remedy="b lists them")
        del self.breakpoints[number - 1]
        self._break("")

    # -- registers --------------------------------------------------------------------------------

    def _print(self, rest: str) -> None:
        name, _, ptx_type = rest.partition(" ")
        if not name:
            raise DeviceError("p", "a register, such as p %r12", "none")
        name = name if name.startswith("%") else f"%{name}"
        found = self.replay.register(name)
        if found is None:
            raise DeviceError(name, "not written or read up to here")
        values, known = found
        if ptx_type:
            values = values.as_type(ptx_type.strip())
            texts = [values.text(lane) for lane in self.view.lanes]
        else:
            texts = [value_text(self.replay.launch, values, lane) for lane in self.view.lanes]
        bits = [f"{int(values.bits[lane]):#x}" for lane in self.view.lanes]
        table = self.view.register_table()
        for head, cells in (((name, type_text(values)), texts), (("", "bits"), bits)):
            rows = zip(self.view.lanes, cells, strict=True)
            table.add_row("", *head, *(c if known >> lane & 1 else "?" for lane, c in rows))
        self.console.print(table)

    def _print_all(self) -> None:
        table = self.view.register_table()
        for name in self.replay.names():
            self.view.add_register(table, self.replay, name, "")
        self.console.print(table)

    def _watch(self, rest: str) -> None:
        name = rest if rest.startswith("%") else f"%{rest}"
        if name in self.view.watched:
            self.view.watched.remove(name)
        else:
            self.view.watched.append(name)
        self.console.print(f"watched: {', '.join(self.view.watched) or 'nothing'}", markup=False)

    def _choose_lanes(self, rest: str) -> None:
        self.view.lanes = self._read_lanes(rest)
        self.view.show(self.replay)

    def _help(self) -> None:
        table = plain_table()
        table.add_column("command", no_wrap=True)
        table.add_column("what it does")
        for name, text in _HELP:
            table.add_row(name, text)
        self.console.print(table)

    @staticmethod
    def _count(rest: str) -> int:
        return int(rest) if rest else 1


def _lines(console: Console) -> Iterable[str]:
    """Commands; from a terminal with a prompt and a history, else echoed behind one."""
    last = ""
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() its history
        while True:
            try:
                line = input(_PROMPT)
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:  # leaves the line, not the session
                console.print()
                continue
            last = line.strip() or last
            yield last
    for line in sys.stdin:
        last = line.strip() or last
        console.print(Text(f"{_PROMPT}{last}", "bold"))
        yield last
