"""Memory that is free goes back to the system."""

from __future__ import annotations

import platform
import sys

import pytest

from tests.cli.commands import run_python

PROGRAM = """from ferrum_numba.host_memory import trim
def mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
blocks = [b"x" * 65536 for _ in range(1000)]
last, before = b"y" * 65536, mb()  # above all others, which it keeps from being given back
blocks.clear()
kept = mb()
trim()
print(before - kept < 10, kept - mb() > 50)"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="other C library"
)
def test_trim() -> None:
    done = run_python("-c", PROGRAM)
    assert (done.stdout, done.stderr) == ("True True\n", "")
