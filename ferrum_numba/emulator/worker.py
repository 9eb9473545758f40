"""Running CTAs: one worker for each thread of the host, all taking from one list of CTAs."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

import numpy as np

from ..errors import DeviceError, LaunchError
from .host_calls import Failure, HostCalls
from .layout import (
    FRESH,
    IDLE_LIMIT,
    LANES,
    NEXT,
    RESUME,
    TID,
    VALID,
    WAIT_ADDRESS,
    WAIT_PARITY,
    WAITING,
    WARP,
    State,
    Triple,
)
from .native import Function
from .standstill import Place

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Words = np.ndarray[tuple[int], np.dtype[np.uint32]]

# Instructions that a CTA's warps may run in all.  A big layer's need 10^6, and 10^8 where one CTA
# computes the whole of it; an empty loop comes to it in seconds.
STEPS = 1 << 32
# After so many (some milliseconds) a worker comes back to Python: for Ctrl-C, for errors of others.
_SLICE = 1 << 22
# Reads of whole words and vectors may pass an array's end by less than this many bytes.
_MARGIN = 128
LARGEST_SHARED = 228 * 1024
"""Bytes of shared memory that the largest GPU gives a CTA."""


@dataclass(frozen=True)
class Launch:
    """Order to all workers of one launch. threads: count over which the CTAs are spread.

    attach: called with the state of each worker before it runs, where checks are on.
    only: the CTAs that are run, counted along x, then y, then z; None: all.
    silent: whether what they print is dropped.
    """

    function: Function
    grid: Triple
    block: Triple
    shared_bytes: int
    parameter_block: bytes
    threads: int
    attach: Callable[[State], None] | None = None
    only: Sequence[int] | None = None
    silent: bool = False

    def run(self) -> None:
        """Run the CTAs.

        Raises StoppedError for one that cannot go on, LaunchError for stores behind shared memory.
        """
        ctas = self.grid[0] * self.grid[1] * self.grid[2]
        threads = max(1, min(self.threads, ctas))
        # Many pieces for each thread: one that is held up leaves its last ones to the others.
        count = 1 if threads == 1 else min(ctas, 32 * threads)
        cuts = [(ctas * i // count, ctas * (i + 1) // count) for i in range(count)]
        pieces = iter(cuts if self.only is None else [(i, i + 1) for i in self.only])
        stop = _Stop()
        idle, workers = self._idle(), list[_Worker]()
        while len(workers) < threads:
            try:
                workers.append(idle.pop())
            except IndexError:
                workers.append(_Worker(self))
        steps = step_limit()
        for worker in workers:
            worker.take(self, stop, steps)
        if threads == 1:
            workers[0].run(pieces)
        else:
            _run_together(workers, pieces, stop)
        if self.attach is None:  # else the checks have found it, and left it out
            for worker in workers:
                worker.check_shared()
            idle += workers

    def _idle(self) -> list[_Worker]:
        """Workers that launches like this one have left: no two launches have the same."""
        if self.attach is not None:
            return []
        like, kept = (self.block, self.shared_bytes), self.function.idle
        if like not in kept:  # those of other launches are given up
            kept = self.function.idle = {like: []}
        return kept[like]


def _run_together(
    workers: Sequence[_Worker], pieces: Iterator[tuple[int, int]], stop: _Stop
) -> None:
    """Run each worker in a thread, the first in this one."""
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    others = [_Task(worker, pieces, done) for worker in workers[1:]]
    try:
        with suppress(RuntimeError):  # no threads are had once the interpreter is ending
            _threads().run(others)
        workers[0].run(pieces)
        begun = [task for task in others if not task.cancel()]
        for _ in begun:
            error = done.get()
            if error is not None:
                raise error
    except BaseException:  # Ctrl-C may come while this thread waits
        stop.asked = True
        for task in others:
            task.cancel()
        raise
    finally:
        _settle(workers[1:])


class _Task:
    """A worker's part of a launch, for another thread."""

    def __init__(
        self,
        worker: _Worker,
        pieces: Iterator[tuple[int, int]],
        done: SimpleQueue[BaseException | None],
    ) -> None:
        """done: takes the error in which it ended, or None."""
        self._worker, self._pieces, self._done = worker, pieces, done
        self._claim = threading.Lock()  # taken by who runs the task, or calls it off

    def cancel(self) -> bool:
        """Call it off; False where it has begun, or been called off."""
        return self._claim.acquire(blocking=False)

    def __call__(self) -> None:
        if self._claim.acquire(blocking=False):
            error = None
            try:
                self._worker.run(self._pieces)
            except BaseException as raised:
                error = raised
            self._done.put(error)


class _Threads:
    """Threads that are kept for the next launch.

    Executors of the standard library wait in Python code, which Ctrl-C may leave with a lock taken;
    this one only calls what Ctrl-C cannot break off halfway.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        self._count = 0

    def run(self, tasks: Sequence[_Task]) -> None:
        """Have tasks run by and by, as many at a time as were given at once so far."""
        while self._count < len(tasks):
            threading.Thread(target=self._serve, daemon=True).start()
            self._count += 1
        for task in tasks:
            self._tasks.put(task)

    def _serve(self) -> None:
        while True:
            self._tasks.get()()


@cache
def _threads() -> _Threads:
    """The threads of this process; a fork has none of them."""
    return _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


class _Stop:
    """Flag that stops the workers of a launch; it is plain, so that Ctrl-C cannot half set it."""

    asked = False


def _settle(workers: Sequence[_Worker]) -> None:
    """Wait until no worker runs native code, which the arrays of the launch have to outlive.

    Ctrl-C may come again in the meantime.
    """
    again: BaseException | None = None
    while True:
        try:
            while any(worker.busy for worker in workers):
                time.sleep(1e-4)
            break
        except KeyboardInterrupt as interrupt:
            again = interrupt
    if again is not None:
        raise again


class StoppedError(Exception):
    """A CTA that cannot go on.

    fault: 1 + the index of a statement that could not be run as it should; 0: too many steps, and
    block is the one that a warp was to run next.
    places: where all warps stand, if all of them wait in vain.  failure: the assertion that failed.
    """

    def __init__(
        self,
        cta: Triple,
        warp: int,
        fault: int,
        block: int,
        steps: int,
        places: list[Place],
        failure: Failure | None,
    ) -> None:
        super().__init__(cta, warp, fault, block, steps, places, failure)
        self.cta, self.warp, self.fault, self.block, self.steps = cta, warp, fault, block, steps
        self.places, self.failure = places, failure


class _Worker:
    """One host thread's state: contexts of a CTA's warps, and the CTA's shared memory.

    It serves launches of one function, block and size of shared memory, one after the other.
    busy: whether it runs native code, or is about to.
    """

    _stop: _Stop
    _steps: int

    def __init__(self, launch: Launch) -> None:
        needs = launch.function.needs
        x, y, z = launch.block
        warps = -(-x * y * z // LANES)
        self._call = launch.function.call
        self._masked = needs.masked
        self.busy = False
        self._params = ctypes.create_string_buffer(len(launch.parameter_block) + 1)
        try:
            contexts = aligned(warps * needs.context_bytes, 64)
            size = needs.static_shared + launch.shared_bytes
            # As much as any GPU has: a launch that asks for too little does not hit other memory.
            self._shared = aligned(max(size, LARGEST_SHARED) + _MARGIN, 1024)
            self._scratch = aligned(needs.scratch_bytes, 64)
        except (MemoryError, ValueError, OverflowError) as error:
            raise LaunchError(
                "shared_bytes",
                f"no memory for a CTA of {warps} warps with {launch.shared_bytes} bytes of "
                f"dynamic shared memory: {error}",
            ) from None
        self._behind = self._shared[size:]
        self._contexts = contexts.reshape(warps, needs.context_bytes)
        _fill_contexts(self._contexts, launch.block)
        self._host = HostCalls(launch.silent)
        self._state = State(
            ntid=launch.block,
            warps=warps,
            shared_bytes=launch.shared_bytes,
            params=ctypes.addressof(self._params),
            shared=self._shared.ctypes.data,
            contexts=contexts.ctypes.data,
            scratch=self._scratch.ctypes.data,
            host=self._host.address,
        )
        if launch.attach is not None:
            launch.attach(self._state)

    def take(self, launch: Launch, stop: _Stop, steps: int) -> None:
        """Serve this launch next."""
        self._stop, self._steps, self._state.nctaid = stop, steps, launch.grid
        self._host.failure = self._host.error = None
        ctypes.memmove(self._params, launch.parameter_block, len(launch.parameter_block))

    def run(self, pieces: Iterator[tuple[int, int]]) -> None:
        """Run ranges of CTAs until there are no more, or another worker has failed."""
        try:
            self.busy = True
            for first, last in pieces:
                self._run_piece(first, last)
                if self._stop.asked:
                    return
        except BaseException:
            self._stop.asked = True
            raise
        finally:
            self.busy = False

    def check_shared(self) -> None:
        """Raise LaunchError where something was stored behind the CTA's shared memory."""
        if not self._behind.max():  # all zero, as it was; any() takes four times as long
            return
        first, last = np.flatnonzero(self._behind)[[0, -1]].tolist()
        raise LaunchError(
            "shared_bytes",
            f"the kernel stores {first} to {last} bytes behind the {self._state.shared_bytes} "
            "bytes of dynamic shared memory that a CTA is given",
            remedy='the sidecar\'s shared says what it needs, and the check "memory" which line '
            "it is",
        )

    def _run_piece(self, first: int, last: int) -> None:
        state = self._state
        state.cta, state.last, state.warp, state.phase = first, last, 0, FRESH
        state.idle = 0
        address = ctypes.addressof(state)
        cta, spent = first, 0
        over = True
        while over and not self._stop.asked:
            state.steps = given = min(_SLICE, self._steps)
            over = bool(self._call(address))
            if self._host.error is not None:
                raise self._host.error
            # What was spent on CTAs that are done by now does not count for this one.
            spent = spent + given - state.steps if state.cta == cta else 0
            cta = state.cta
            if state.fault or (over and spent > self._steps):
                raise self._stopped(spent)

    def _stopped(self, spent: int) -> StoppedError:
        state = self._state
        x, y, _ = state.nctaid
        number = state.fault_cta if state.fault else state.cta
        cta = (number % x, number // x % y, number // (x * y))
        # It counts the one that stopped as done.
        warp = state.fault_warp if state.fault else max(state.warp, 1) - 1
        words = self._contexts[warp].view(np.uint32)
        block = self._resume(words) & (WAITING - 1)
        places = self._places() if state.idle > IDLE_LIMIT else []
        return StoppedError(cta, warp, state.fault, block, spent, places, self._host.failure)

    def _resume(self, words: Words) -> int:
        """Block that a warp goes on with."""
        if not self._masked or words[RESUME // 4] == 0xFFFFFFFF:
            return int(words[RESUME // 4])
        # Lanes that went different ways have a next block each; the one furthest behind runs.
        return int(words[NEXT // 4 :][:LANES].min())

    def _places(self) -> list[Place]:
        places = []
        for words in self._contexts.view(np.uint32):
            address = int(words[WAIT_ADDRESS // 4])
            word = int.from_bytes(self._shared[address : address + 8].tobytes(), "little")
            parity = int(words[WAIT_PARITY // 4])
            places.append(Place(self._resume(words), address, parity, word))
        return places


def step_limit() -> int:
    """$FERRUM_CPU_STEPS, else STEPS."""
    text = os.environ.get("FERRUM_CPU_STEPS")
    if not text:
        return STEPS
    try:
        steps = int(float(text))
    except (ValueError, OverflowError):
        steps = 0
    if steps < 1:
        raise DeviceError("FERRUM_CPU_STEPS", "a number of instructions", f"{text!r}")
    return steps


def aligned(nbytes: int, alignment: int) -> Bytes:
    """Zeroed bytes at an aligned address."""
    memory = np.zeros(nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes]


def _fill_contexts(
    contexts: np.ndarray[tuple[int, int], np.dtype[np.uint8]], block: Sequence[int]
) -> None:
    """Write what a warp knows of itself: its number, its threads, which of them exist."""
    warps = len(contexts)
    thread = np.arange(warps * LANES, dtype=np.uint32).reshape(warps, LANES)
    x, y, z = block
    tid = np.stack([thread % x, thread // x % y, thread // (x * y)], axis=1)
    words = contexts.view(np.uint32)
    words[:, WARP // 4] = np.arange(warps)
    valid = (thread < x * y * z).astype(np.uint32) << np.arange(LANES, dtype=np.uint32)
    words[:, VALID // 4] = valid.sum(axis=1, dtype=np.uint32)
    words[:, TID // 4 : TID // 4 + 3 * LANES] = tid.reshape(warps, -1)
