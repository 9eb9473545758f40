"""Commands that run PTX of strangers do so in a process of their own, with limits."""

from __future__ import annotations

import faulthandler
import io
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..errors import FerrumError, LaunchError
from . import interruption
from .options import NUMBER_FROM_ZERO, Decorator

_LOOKS = 0.02  # seconds between two looks for the end
_GIB = 1 << 30
_STATM = Path("/proc/self/statm")
_DEFAULT_SECONDS, _DEFAULT_GIB = 300.0, 16.0

_trust_option: Decorator = click.option(
    "--trust",
    is_flag=True,
    help="It is your own: run it in this process, unchecked unless --checks says so, and without "
    "limits.",
)
_time_limit_option: Decorator = click.option(
    "--time-limit",
    type=NUMBER_FROM_ZERO,
    default=_DEFAULT_SECONDS,
    show_default=True,
    help="Seconds after which the process that runs it is ended.",
)
_memory_limit_option: Decorator = click.option(
    "--memory-limit",
    type=NUMBER_FROM_ZERO,
    default=_DEFAULT_GIB,
    show_default=True,
    help="GiB that the process may take, on the CPU.",
)


class _Said(click.ClickException):
    """An error of the command line, without what cannot be handed to another process."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click looks at the instance

    def __reduce__(self) -> tuple[Any, ...]:
        return _Said, (self.message, self.exit_code)


def confined(command: Any) -> Any:
    """Give a command the options of its confinement."""
    return _trust_option(_time_limit_option(_memory_limit_option(command)))


class ConfinedCommand(click.Command):
    """A command whose work is done in a process of its own, which is ended at its limits.

    It has the three options above.  Where there is no fork (Windows) it runs in this process.
    """

    def invoke(self, ctx: click.Context) -> Any:
        given = {name: ctx.params.pop(name) for name in ("trust", "time_limit", "memory_limit")}
        ctx.meta[_TRUSTED] = given["trust"]
        if given["trust"] or not hasattr(os, "fork"):
            return super().invoke(ctx)
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._run(ctx, writer, given["memory_limit"])
        os.close(writer)
        result, status = _wait(child, reader, given["time_limit"])
        out, err, code, error = pickle.loads(result) if result else ("", "", 1, None)
        sys.stdout.write(out)
        sys.stderr.write(err)
        if status is None:
            raise LaunchError(
                "time", f"at most {given['time_limit']:g} s", "more", "ask for more by --time-limit"
            )
        if os.WIFSIGNALED(status):
            raise LaunchError(
                "the process that ran it",
                f"ended by {signal.Signals(os.WTERMSIG(status)).name}",
                remedy="nothing else was harmed; if an access caused it, --checks memory,init,race "
                "names the access",
            )
        if error is not None:
            raise error
        return ctx.exit(code)

    def _run(self, ctx: click.Context, writer: int, gib: float) -> None:
        """Run the command in the child, and end it; its end is written into the pipe."""
        code = 0
        error: Exception | None = None
        taken = [_take("stdout"), _take("stderr")]
        faulthandler.disable()  # the parent says it
        try:
            _limit(int(gib * _GIB))
            super().invoke(ctx)
        except click.exceptions.Exit as left:
            code = left.exit_code
        except (FerrumError, OSError) as raised:
            error = raised
        except click.ClickException as raised:
            error = _Said(raised.format_message(), raised.exit_code)
        except MemoryError:
            error = LaunchError("memory", f"at most {gib:g} GiB", "more", "see --memory-limit")
        except KeyboardInterrupt:
            code = interruption.EXIT_CODE
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
                texts = [file.getvalue() if file is not None else "" for file in taken]
                with open(writer, "wb") as pipe:
                    pipe.write(pickle.dumps((*texts, code, error)))
            os._exit(code)


_TRUSTED = "ferrum_numba.trusted"  # of a context's meta


def is_trusted(ctx: click.Context) -> bool:
    """True if the command was given --trust."""
    return bool(ctx.meta.get(_TRUSTED))


def _take(name: str) -> io.StringIO | None:
    """Keep what goes to an output that is no file, and so is not shared with the parent."""
    with suppress(OSError, AttributeError, ValueError):
        getattr(sys, name).fileno()
        return None
    kept = io.StringIO()
    setattr(sys, name, kept)
    return kept


def _wait(child: int, reader: int, seconds: float) -> tuple[bytes, int | None]:
    """Result that the child wrote, and its exit status; None where it was ended for its time."""
    kept: list[bytes] = []

    def read() -> None:
        with open(reader, "rb") as pipe:
            kept.append(pipe.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    ends, status = time.monotonic() + seconds, None
    try:
        while status is None and time.monotonic() < ends:
            done, its = os.waitpid(child, os.WNOHANG)
            status = its if done else None
            if status is None:
                thread.join(_LOOKS)
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        thread.join()
    return kept[0] if kept else b"", status


def _limit(nbytes: int) -> None:
    """Bound what this process may take besides what it has, and write no image of it."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        held = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (held + nbytes, held + nbytes))
