"""The command line: `ferrum-numba`, and `python -m ferrum_numba`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from .. import start
from . import clock, interruption


def main() -> None:
    """Run the command line; where its libraries are missing, say how to install them."""
    clock.start(process=True)
    start.guard()
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        needs = " and ".join(missing)
        print(
            f'ferrum-numba: the command line needs {needs}: pip install "ferrum-numba[cli]"',
            file=sys.stderr,
        )
        raise SystemExit(2)
    from .app import app

    interruption.listen()
    try:
        app()
    except SystemExit as end:
        if end.code == interruption.EXIT_CODE:
            interruption.end()
        raise
