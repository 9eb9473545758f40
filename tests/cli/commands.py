"""Running commands: in this process, and in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import ferrum_numba as fe
from ferrum_numba.cli import clock
from ferrum_numba.cli.app import app


def run(*arguments: object, columns: int | None = None) -> Result:
    """`ferrum-numba *arguments`, its output taken; on a console of so many columns, or a pipe."""
    environment = {} if columns is None else {"COLUMNS": str(columns)}
    clock.start()
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def run_json(*arguments: object) -> tuple[int, dict[str, Any]]:
    """The exit code and the one JSON object on standard output."""
    result = run(*arguments, "--json")
    return result.exit_code, json.loads(result.stdout, parse_constant=_refuse)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python *arguments` in a process that finds the same package as this one."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(fe.__file__).parents[1]), **environment},
        check=False,
    )


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
