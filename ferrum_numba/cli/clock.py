"""Time that a command takes, as the clock on the wall has it: from the start of its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

_UPTIME, _STAT = Path("/proc/uptime"), Path("/proc/self/stat")
_STARTTIME = 22 - 3  # its place among the fields of /proc/self/stat behind the name, the second
_LONGEST = 60.0  # seconds: an older process did not start for this command
_started = time.perf_counter()


def start(*, process: bool = False) -> None:
    """Begin to count: now, or with `process` when the process began, where the system says."""
    global _started
    _started = time.perf_counter() - (_age() if process else 0.0)


def elapsed() -> float:
    """Seconds since the start."""
    return time.perf_counter() - _started


def _age() -> float:
    """Seconds since the process began; 0 where there is no /proc.  Source: proc(5)."""
    try:
        fields = _STAT.read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
        age = float(_UPTIME.read_text(encoding="utf-8").split()[0]) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return age if 0 < age < _LONGEST else 0.0
