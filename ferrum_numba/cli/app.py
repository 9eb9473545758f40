"""The command group: what all commands share, above all how they end."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from ..errors import CheckpointError, FerrumError
from . import interruption
from .console import one_line, standard_error, wants_json, write_json
from .devices import NoSuchDevice
from .options import examples
from .remedies import as_options, options_of


class _BadInput(click.ClickException):
    """An error of this package, as a message and an exit code."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the message on standard error."""
        standard_error().print(f"error: {self.message}")


class _NoDevice(_BadInput):
    exit_code = 3


COMMANDS = ("info", "inspect", "params", "verify", "compare", "sanitize", "bench", "trace", "make",
             "replay", "explain", "generate", "score", "warm")  # fmt: skip


class _App(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command; its file is read when it is asked for, as all together take 0.3 s."""
        if name in COMMANDS and name not in self.commands:
            its = vars(import_module(f".{name}", __package__)).values()
            commands = [each for each in its if isinstance(each, click.Command)]
            self.add_command(next(each for each in commands if each.name == name))
        return super().get_command(ctx, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors and warnings of this package become lines on standard error."""

        def said(message: object) -> str:
            return as_options(
                str(message), options_of(self.commands.get(ctx.invoked_subcommand or ""))
            )

        def show_warning(message: Warning | str, *_: object, **__: object) -> None:
            standard_error().print(f"warning: {said(message)}")

        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            try:
                return super().invoke(ctx)
            except FerrumError as error:
                message = said(error)
                if isinstance(error, CheckpointError):  # names of strangers, new lines and all
                    message = one_line(message)
                if wants_json(ctx):
                    write_json({"error": error.to_json() | {"message": message}})
                kind = _NoDevice if isinstance(error, NoSuchDevice) else _BadInput
                raise kind(message) from error
            except click.UsageError as error:
                if wants_json(ctx):
                    write_json({"error": _usage(error)})
                raise
            except KeyboardInterrupt:
                interruption.leaving()
                raise SystemExit(interruption.EXIT_CODE) from None
            except OSError as error:  # a full disk, above all
                where = error.filename or "standard output"
                if error.filename is None:
                    _drop_output()
                raise _BadInput(f"{where}: {error.strerror or error}") from error


def _usage(error: click.UsageError) -> dict[str, str]:
    """A mistake in the use of a command, as errors of this package are in JSON."""
    found = {"kind": "UsageError", "code": "usage", "message": error.format_message()}
    if isinstance(error, click.BadParameter) and error.param is not None:
        found["field"] = max(error.param.opts, key=len)
    return found


def _drop_output() -> None:
    """Discard what standard output still holds, or Python would write it again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from ..version import __version__  # whose reader of metadata takes time and memory

        click.echo(f"ferrum-numba, version {__version__}")
        ctx.exit()


@click.group(
    cls=_App,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "ferrum-numba make example", "ferrum-numba verify example", "ferrum-numba verify --help"
    ),
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def app() -> None:
    """Run precompiled Triton kernels, on NVIDIA GPUs and on the CPU.

    Exit codes: 0 pass, 1 mismatch or finding, 2 usage or bad input, 3 no such device.
    """
