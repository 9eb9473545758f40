"""Answers of the debugger to faults."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from ferrum_numba.debug.checkpoint_clues import explain_checkpoint
from ferrum_numba.debug.explanation import Diagnosis, explain

from .checkpoints import CAUSES, damaged
from .fault import Fault


@dataclass(frozen=True)
class Answer:
    """Answer of the debugger to a fault.  crashed: it raised instead."""

    area: str
    fault: str
    shape: int
    cause: str
    first_line: str
    alike: tuple[str, ...]
    seconds: float
    crashed: bool = False

    @property
    def right(self) -> bool:
        """True if the first line names the cause."""
        return self.first_line.removeprefix("likely ").split(":")[0] == self.cause


def ask(area: str, fault: Fault, shape: int) -> Answer:
    """Inject a fault into a launch and read the first answer."""
    case = fault.make(shape)
    return _read(area, fault.name, shape, fault.cause, lambda: explain(case))


def ask_checkpoint(fault: str) -> Answer:
    """Damage a checkpoint and read the first answer."""
    with damaged(fault) as path:
        return _read("checkpoint", fault, 0, CAUSES[fault], lambda: explain_checkpoint(path))


def _read(area: str, name: str, shape: int, cause: str, ask: Callable[[], Diagnosis]) -> Answer:
    start = time.perf_counter()
    try:
        found = ask()
        line, alike, crashed = found.first_line, tuple(found.alike), False
    except Exception:
        line, alike, crashed = traceback.format_exc().splitlines()[-1], (), True
    seconds = time.perf_counter() - start
    return Answer(area, name, shape, cause, line, alike, seconds, crashed)
