"""The primary context of a GPU: current within a block, and what is known of its end.

numba.cuda, CuPy, torch and JAX all work in a device's primary context, so their arrays and streams
are usable here.  Another context that happens to be current in a thread is put back afterwards.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import TracebackType

from ...errors import DeviceError, FerrumError, LaunchError
from . import driver


class Context:
    """A context manager: within the block the context is current in the calling thread.

    Blocks nest, and threads do not disturb each other: the driver keeps a stack for each.  Where
    the context is found dead, the block raises LaunchError with what was in flight, and every
    block after it DeviceError.

    lost: why the context cannot be used; None while it can.  handle: the driver's.
    """

    def __init__(
        self, ordinal: int, in_flight: Callable[[], str], abandon: Callable[[], object]
    ) -> None:
        """in_flight: names the launches that are not known to be done.
        abandon: called once when the context is lost: nothing in it can be freed any more.
        """
        self.lost: str | None = None
        self._name = f"cuda:{ordinal}"
        self._in_flight = in_flight
        self._abandon = abandon
        self.handle = driver.retain_primary_context(ordinal)
        _contexts.add(self)

    def __enter__(self) -> None:
        if self.lost:
            raise DeviceError(self._name, self.lost)
        driver.push_context(self.handle)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What this package found wrong by itself says nothing of the context.
        suspect = isinstance(error, LaunchError) or not isinstance(error, FerrumError)
        death = driver.cause_of_death() if isinstance(error, Exception) and suspect else None
        driver.pop_context()
        if death and not self.lost:
            end = f"{death}; in flight were: {self._in_flight()}; start a new process"
            self._lose(f"the context was lost to {end}")
            by = "a kernel took the context with it"
            if "CONTEXT_IS_DESTROYED" in death:
                by = "the context was destroyed, as numba.cuda.close() and cudaDeviceReset() do"
            raise LaunchError(self._name, f"{by}: {end}") from error

    def adopt(self) -> None:
        """Leave the context current in a thread that has none, as CUDA's own runtime does.

        Launches on the default stream need one, and to push it each time costs as much again.
        """
        if self.lost:
            raise DeviceError(self._name, self.lost)
        if not driver.has_context():
            driver.push_context(self.handle)

    def require_alive(self) -> None:
        """Raise LaunchError or DeviceError, as a block does, where the context is dead."""
        with self:
            death = driver.cause_of_death()
            if death:
                raise LaunchError(self._name, death)

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._abandon()


_contexts: weakref.WeakSet[Context] = weakref.WeakSet()


def _forked() -> None:
    for context in _contexts:
        context._lose(
            "this process was forked from one that uses CUDA, which the driver does not allow; "
            'use open_device("cpu") here, or start it with multiprocessing\'s "spawn" method'
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
