"""The ABI debugger: launches recorded, run again, and explained.

Importing it loads next to nothing: what writes recordings is `debug.recorder`, what reads them
`debug.recording`, what runs them again `debug.replay`, and what explains `debug.explanation`.
"""

from ..devices import observer

__all__ = ["watch_process"]


def watch_process(path: str | None) -> None:
    """Have errors of launches name their cause; record all launches where a path is given."""
    observer.annotate = _add_cause
    if path:
        from .recorder import record_process

        record_process(path)


def _add_cause(launch: observer.RefusedLaunch) -> None:
    from .notes import add_cause

    add_cause(launch)
