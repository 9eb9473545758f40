"""Testing many layers: spread over devices, the host's part done ahead."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

from ..devices import Device
from ..errors import CheckpointError, DeviceError, did_you_mean
from ..gptq import Checkpoint
from .layer_test import LayerResult, Plan, Prepared, prepare_layer, run_prepared

_MOST_PREPARERS = 4  # threads; each holds one layer's weight in float16, 117 MB for 8B's largest


def select_layers(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    """The names of the layers that match one of the glob patterns, or all where there is none.

    Those that the checkpoint cannot read, its `problems`, come last.

    Raises CheckpointError for a pattern that matches no layer: it is most likely misspelt.
    """
    names = [*checkpoint.layers, *checkpoint.problems]
    return matching(names, patterns, str(checkpoint.path))


def matching(names: Sequence[str], patterns: Sequence[str], of: str) -> list[str]:
    """Those of some layers' names that match one of the glob patterns, or all; of: a checkpoint.

    Raises CheckpointError for a pattern that matches no name: it is most likely misspelt.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            first = f"the first of its {len(names)} is {names[0]}"
            raise CheckpointError(
                f"layers: expected a glob pattern that matches a quantised layer of {of}, found "
                f"{pattern!r}; {did_you_mean(pattern, names, first)}"
            )
    return [
        name
        for name in names
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def verify_layers(
    checkpoint: Checkpoint, jobs: Sequence[tuple[str, Plan]], devices: Sequence[Device]
) -> Iterator[LayerResult]:
    """Test layers by name, each on whichever device is free; results come as they are done.

    One layer that fails does not stop the rest. A thread for each device runs kernels, a few others
    read layers and make references for them, so that no device waits while there are cores.
    """
    if not devices:
        raise DeviceError("devices: expected at least one, found none")
    preparers = max(len(devices), min(_MOST_PREPARERS, (os.cpu_count() or 1) // 2))
    stop, results = Event(), SimpleQueue[LayerResult | BaseException]()
    with ThreadPoolExecutor(preparers, "prepare") as executor:
        prepared = _Jobs(executor, checkpoint, jobs, preparers + 1)
        threads = [
            Thread(
                target=_work, args=(device, prepared, results, stop), name=device.name, daemon=True
            )
            for device in devices
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                found = results.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:  # also where the caller has had enough
            stop.set()
            for thread in threads:
                thread.join()
            executor.shutdown(cancel_futures=True)


class _Jobs:
    """Layers in order, a few of them prepared ahead: memory is bounded by that."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        checkpoint: Checkpoint,
        jobs: Sequence[tuple[str, Plan]],
        ahead: int,
    ) -> None:
        self._executor, self._checkpoint = executor, checkpoint
        self._waiting = iter(jobs)
        self._ready = SimpleQueue[tuple[Plan, Future[Prepared]]]()
        self._lock = Lock()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        with self._lock:
            for name, plan in islice(self._waiting, 1):
                future = self._executor.submit(prepare_layer, self._checkpoint, name, plan)
                self._ready.put((plan, future))

    def take(self) -> tuple[Plan, Prepared] | None:
        """The next layer, once it is prepared; None where there is none left."""
        try:
            plan, future = self._ready.get_nowait()
        except Empty:
            return None
        prepared = future.result()
        self._submit()
        return plan, prepared


def _work(
    device: Device,
    jobs: _Jobs,
    results: SimpleQueue[LayerResult | BaseException],
    stop: Event,
) -> None:
    """One device's thread."""
    try:
        while not stop.is_set():
            job = jobs.take()
            if job is None:
                return
            plan, prepared = job
            results.put(run_prepared(prepared, device, plan))
    except BaseException as error:  # not a layer's, which its result holds: the caller's to see
        results.put(error)
