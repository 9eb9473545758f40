"""Options that several commands have, each with the same meaning everywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

Decorator = Callable[[Any], Any]

layers_option: Decorator = click.option(
    "--layers",
    "patterns",
    metavar="GLOB",
    multiple=True,
    help="Only layers whose name matches, such as '*.self_attn.*'; may be given several times.",
)
threads_option: Decorator = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of the CPU device."
)


def file_option(flag: str, help: str) -> Decorator:
    """An option that names a file; `help` says what is read from it or written to it."""
    return click.option(flag, type=click.Path(path_type=Path, dir_okay=False), help=help)


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
