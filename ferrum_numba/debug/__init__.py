"""The ABI debugger: launches recorded, run again, and explained.

`record` and `Recording` are light; what explains lies in `debug.explanation` and brings the CPU
device's compiler.
"""

from ..devices import observer
from .notes import add_cause
from .policy import Policy
from .recorder import Recorder, record, record_process
from .recording import Recording
from .replay import Difference, LaunchReplay, replay

__all__ = [
    "Difference",
    "LaunchReplay",
    "Policy",
    "Recorder",
    "Recording",
    "record",
    "replay",
    "watch_process",
]


def watch_process(path: str | None) -> None:
    """Have errors of launches name their cause; record all launches where a path is given."""
    observer.annotate = add_cause
    if path:
        record_process(path)
