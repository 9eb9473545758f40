"""Options that several commands have, each with the same meaning everywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

Decorator = Callable[[Any], Any]

threads_option: Decorator = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of the CPU device."
)


def examples(*lines: str) -> str:
    """Command lines as the end of a command's help; each of them runs."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def repeated_option(
    flag: str, name: str, metavar: str, help: str, type: click.Path | None = None
) -> Decorator:
    """An option that may be given several times; a tuple."""
    return click.option(flag, name, metavar=metavar, multiple=True, type=type, help=help)


layers_option = repeated_option(
    "--layers",
    "patterns",
    "GLOB",
    "Only layers whose name matches, such as '*.self_attn.*'; may be given several times.",
)


def m_values_option(default: Sequence[int], help: str) -> Decorator:
    """`--m`, one or several numbers of rows, as a tuple."""
    return numbers_option("--m", "m_values", "M", default, help)


def numbers_option(
    flag: str, name: str, metavar: str, default: Sequence[int], help: str
) -> Decorator:
    """One or several numbers, each at least 1, as a tuple."""
    return click.option(
        flag,
        name,
        metavar=f"{metavar},{metavar},...",
        callback=_read_numbers,
        default=",".join(map(str, default)),
        show_default=True,
        help=help,
    )


def _read_numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """`1,16,64` as numbers, each at least 1."""
    numbers = [part.strip() for part in value.split(",")]
    if not all(number.isdecimal() and int(number) for number in numbers):
        message = f"expected numbers from 1 with commas between, found {value!r}"
        raise click.BadParameter(message, ctx, param)
    return tuple(int(number) for number in numbers)


class _Number(click.FloatRange):
    """A number within a range; click's own takes nan, which then passes every comparison."""

    def __init__(self, described: str, **bounds: Any) -> None:
        super().__init__(**bounds)
        self.described = described

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"expected {self.described}, found {value!r}", param, ctx)
        return number


NUMBER_FROM_ZERO = _Number("a number from 0", min=0)
SHARE = _Number("a number above 0, up to 1", min=0, max=1, min_open=True)


def file_option(flag: str, help: str) -> Decorator:
    """An option that names a file; `help` says what is read from it or added to it."""
    return click.option(flag, type=click.Path(path_type=Path, dir_okay=False), help=help)


def output_option(flag: str, help: str, *names: str, metavar: str | None = None) -> Decorator:
    """An option that names a file to be written in the end; that it can be is seen before."""
    kind = click.Path(path_type=Path, dir_okay=False, writable=True)
    return click.option(flag, *names, metavar=metavar, type=kind, callback=_with_folder, help=help)


def _with_folder(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not path.exists() and not os.access(path.parent, os.W_OK):
        found = "no writing there" if path.parent.is_dir() else "no such folder"
        message = f"{path}: expected a folder to write the file into, found {found}"
        raise click.BadParameter(message, ctx, param)
    return path


def checks_option(help: str, default: bool = False) -> Decorator:
    """`--checks` of the CPU device, as a tuple; by default the usual ones, or else none."""
    from ..emulator.checks import CHECKS, USUAL  # only commands that have it load the compiler

    return click.option(
        "--checks",
        metavar="CHECK,CHECK,...",
        callback=_read_checks,
        default=",".join(USUAL) if default else None,
        show_default=default,
        help=f"{help} Some of {','.join(CHECKS)}.",
    )


def _read_checks(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    from ..emulator.checks import CHECKS

    names = tuple(part.strip() for part in value.split(","))
    if not set(names) <= set(CHECKS):
        message = f"expected some of {','.join(CHECKS)}, found {value!r}"
        raise click.BadParameter(message, ctx, param)
    return names


def seed_option(of: str) -> Decorator:
    """`--seed`; `of` says what is random."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help=f"Seed of {of}."
    )


def group_size_option(help: str, default: int | None = None) -> Decorator:
    """`--group-size`, rows of K in a group; `help` says when it is needed."""
    return click.option(
        "--group-size", type=int, default=default, show_default=default is not None, help=help
    )


def refuse_options(ctx: click.Context, names: Collection[str], reason: str) -> None:
    """Raise UsageError where one of these parameters was given, which means nothing here."""
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if param.name in names and given:
            raise click.UsageError(f"{param.opts[0]}: {reason}")
