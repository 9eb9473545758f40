"""Code that is run in a process of its own, for what takes a context or an interpreter with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str, prelude: str = "") -> str:
    """Output of the code, which has to end well, and to say nothing on stderr."""
    # Python 3.12 warns of every fork with threads about; this one knows.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", prelude + dedent(code)]
    environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"}
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert done.stderr == "", done.stderr
    return done.stdout
