"""Testing many layers: spread over devices, the host's part done ahead."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Semaphore, Thread

from ..devices import Device
from ..errors import CheckpointError, DeviceError, did_you_mean
from ..gptq import Checkpoint
from .layer_test import LayerResult, Plan, Prepared, prepare_layer, run_prepared

# A wait without end misses a Ctrl-C that comes just before it: Python looks between its steps.
_GLANCE = 0.2  # seconds
_PATIENCE = 0.5  # seconds that threads have to end, where the caller has had enough
_MOST_PREPARERS = 4  # threads; each holds one layer's weight in float16, 117 MB for 8B's largest


def select_layers(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    """The names of the layers that match one of the glob patterns, or all where there is none.

    Those that the checkpoint cannot read, its `problems`, come last.

    Raises CheckpointError for a pattern that matches no layer: it is most likely misspelt.
    """
    names = [*checkpoint.layers, *checkpoint.problems]
    return matching(names, patterns, str(checkpoint.path))


def matching(names: Sequence[str], patterns: Sequence[str], of: str) -> list[str]:
    """Names of layers that match one of the glob patterns, or all; of: a checkpoint.

    Raises CheckpointError for a pattern that matches no name: it is most likely misspelt.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            first = f"the first of its {len(names)} is {names[0]}"
            raise CheckpointError(
                "layers",
                f"a glob pattern that matches a quantised layer of {of}",
                f"{pattern!r}",
                did_you_mean(pattern, names, first),
            )
    return [
        name
        for name in names
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def verify_layers(
    checkpoint: Checkpoint, jobs: Sequence[tuple[str, Plan]], devices: Sequence[Device]
) -> Generator[LayerResult, None, None]:
    """Test layers by name, each on whichever device is free; results come as they are done.

    One layer that fails does not stop the rest. A thread for each device runs kernels, a few others
    read layers and make references for them, so that no device waits while there are cores. Where
    the caller ends before the results do, by Ctrl-C say, the threads are interrupted too.
    """
    if not devices:
        raise DeviceError("devices", "at least one", "none")
    preparers = max(len(devices), min(_MOST_PREPARERS, (os.cpu_count() or 1) // 2))
    pipeline = _Pipeline(checkpoint, jobs, preparers)
    threads = [_Worker(pipeline.prepare, "prepare", pipeline.results) for _ in range(preparers)]
    for device in devices:
        threads.append(_Worker(partial(pipeline.test, device), device.name, pipeline.results))
    left = len(jobs)
    try:
        for thread in threads:
            thread.start()
        while left:
            try:
                found = pipeline.results.get(timeout=_GLANCE)
            except Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            left -= 1
            yield found
    finally:
        pipeline.stop()
        if left:
            for thread in threads:
                thread.interrupt()
        until = time.monotonic() + _PATIENCE
        for thread in threads:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, until - time.monotonic()))


class _Pipeline:
    """Layers that wait, are prepared, are tested; only a few are prepared ahead, for their size."""

    def __init__(
        self, checkpoint: Checkpoint, jobs: Sequence[tuple[str, Plan]], preparers: int
    ) -> None:
        self.results = SimpleQueue[LayerResult | BaseException]()
        self._checkpoint, self._preparers = checkpoint, preparers
        self._waiting, self._lock = iter(jobs), Lock()
        self._room = Semaphore(preparers + 1)
        self._prepared = SimpleQueue[tuple[Plan, Prepared] | None]()
        self._stopped = False

    def prepare(self) -> None:
        """Prepare layers until none waits; the work of a thread."""
        while True:
            self._room.acquire()
            with self._lock:
                job = None if self._stopped else next(self._waiting, None)
            if job is None:
                return
            name, plan = job
            self._prepared.put((plan, prepare_layer(self._checkpoint, name, plan)))

    def test(self, device: Device) -> None:
        """Test layers as they are prepared, until all are; the work of a device's thread."""
        while (job := self._prepared.get()) is not None:
            self._room.release()
            plan, prepared = job
            self.results.put(run_prepared(prepared, device, plan))
        self._prepared.put(None)  # for the next device

    def stop(self) -> None:
        """End the threads that wait for something."""
        self._stopped = True
        self._prepared.put(None)
        for _ in range(self._preparers):
            self._room.release()


class _Worker(Thread):
    """A thread that can be interrupted, as Ctrl-C does with the main one.

    A daemon: one that does not listen, in the middle of a compilation, keeps nobody waiting.
    """

    def __init__(
        self, work: Callable[[], None], name: str, results: SimpleQueue[LayerResult | BaseException]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._results = work, results

    def run(self) -> None:
        """Work; what that raises, beyond what a layer's result holds, is for the caller to see."""
        with suppress(KeyboardInterrupt):  # `interrupt` may come at any step
            try:
                self._work()
            except BaseException as error:
                self._results.put(error)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the thread, at its next step in Python."""
        if self.is_alive():
            number, kind = ctypes.c_ulong(self.ident or 0), ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(number, kind)
