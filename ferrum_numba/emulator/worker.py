"""Running CTAs: a thread of the host takes one after the other; those that wait take turns."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, LaunchError
from .job import Job
from .layout import CLUSTER_STRIDE, State, Triple
from .native import Function
from .seat import Seat, aligned

# Instructions that a CTA's warps may run in all.  A big layer's need 10^6, and 10^8 where one CTA
# computes the whole of it; an empty loop comes to it in seconds.
STEPS = 1 << 32
MOST_WAITING = 148 * 32
"""CTAs that may wait for others at once: more than that no GPU holds."""
# Turns in a row that all CTAs which are left come back from as they were: they will for ever.
_STILL = 16
WORKSPACE = 64
"""Bytes that a grid's barrier uses, of a cooperative launch."""


@dataclass(frozen=True)
class Launch:
    """Order to all workers of one launch.

    attach: called with the state of each worker before it runs, where checks are on.
    only: the CTAs that are run, counted along x, then y, then z; None: all.
    silent: whether what they print is dropped.
    workspace: zeroed memory of the grid's barrier, WORKSPACE bytes.
    windows: shared memory of a cluster's CTAs, CLUSTER_STRIDE bytes each; None: new.
    """

    function: Function
    job: Job
    attach: Callable[[State], None] | None
    only: Sequence[int] | None
    silent: bool
    workspace: NDArray[np.uint8]
    windows: NDArray[np.uint8] | None

    def run(self) -> None:
        """Run the CTAs.

        Raises StoppedError for one that cannot go on, LaunchError for stores behind shared memory.
        """
        if self.job.cluster != (1, 1, 1):
            self._run_clusters()
            return
        ctas = self.job.ctas
        threads = max(1, min(self.job.threads, ctas))
        one_by_one = [(i, i + 1) for i in self.only or ()]
        pieces = iter(_pieces(ctas, threads) if self.only is None else one_by_one)
        seats = _Seats(self)
        if threads == 1:
            _Worker(seats, pieces).run()
        else:
            _run_together([_Worker(seats, pieces) for _ in range(threads)], seats)
        if seats.waiting:
            _take_turns(seats, sorted(seats.waiting, key=lambda seat: seat.cta))
        if self.attach is None:  # else the checks have found it, and left it out
            for seat in seats.all:
                seat.check_shared()
        if not self.silent:
            seats.idle.extend(seats.all[: 2 * threads])

    def _run_clusters(self) -> None:
        """Run one cluster after the other; its CTAs take turns."""
        seats, cluster = _Seats(self), self.job.cluster
        windows = self.windows if self.windows is not None else cluster_windows(cluster)
        cx, cy, cz = cluster
        barrier = np.zeros(2, np.uint32)
        members = []
        for rank in range(cx * cy * cz):
            start = rank * CLUSTER_STRIDE
            members.append(seats.take(windows[start : start + CLUSTER_STRIDE]))
            members[-1].join(cluster, rank, barrier)
        gx, gy, gz = self.job.grid
        for z, y, x in product(range(0, gz, cz), range(0, gy, cy), range(0, gx, cx)):
            barrier[:] = 0
            for rank, seat in enumerate(members):
                at = (x + rank % cx, y + rank // cx % cy, z + rank // (cx * cy))
                cta = at[0] + gx * (at[1] + gy * at[2])
                seat.begin(cta, cta + 1)
            _take_turns(seats, members)
        if self.attach is None:
            for seat in members:
                seat.check_shared()


def _pieces(ctas: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of CTAs, each half of a thread's share of what is left, down to an eighth of a share.

    They are few, as a thread waits for the interpreter's lock before each; and the last ones are
    short, so that a thread that is held up leaves work to the others.
    """
    if threads == 1:
        return [(0, ctas)]
    cuts, least = [0], -(-ctas // (8 * threads))
    while cuts[-1] < ctas:
        cuts.append(min(ctas, cuts[-1] + max(least, (ctas - cuts[-1]) // (2 * threads))))
    return [*pairwise(cuts)]


class _Seats:
    """The seats of a launch. asked: whether all of it is to stop: a plain flag, which Ctrl-C cannot
    half set.

    all: every one.  waiting: those whose CTA waits for others.  idle: those that launches like this
    one have left.
    """

    asked = False

    def __init__(self, launch: Launch) -> None:
        self._launch, self._limit = launch, step_limit()
        self.all: list[Seat] = []
        self.waiting: list[Seat] = []
        self.idle: list[Seat] = []
        if not launch.silent:
            like, kept = (launch.job.block, launch.job.shared_bytes), launch.function.idle
            if like not in kept:  # those of other launches are given up
                kept = launch.function.idle = {like: []}
            self.idle = kept[like]

    def take(self, window: NDArray[np.uint8] | None = None) -> Seat:
        """Take a free seat, or a new one. window: the shared memory of a new one."""
        launch, job = self._launch, self._launch.job
        try:
            seat = self.idle.pop() if window is None else None
        except IndexError:
            seat = None
        if seat is None:
            its = (launch.function, job.block, job.shared_bytes, len(job.parameter_block))
            seat = Seat(*its, launch.attach, launch.silent, window)
        elif launch.attach is not None:
            seat.attach(launch.attach)
        workspace = launch.workspace.ctypes.data
        seat.take(job.grid, job.parameter_block, workspace, self._limit)
        self.all.append(seat)
        return seat

    def set_aside(self, seat: Seat) -> None:
        """Let the CTA of a seat wait for others."""
        if len(self.waiting) >= MOST_WAITING:
            raise LaunchError(
                "grid",
                f"{MOST_WAITING} CTAs wait for others that have not begun; no GPU holds as many "
                "at once, so there the launch would not end",
                remedy="launch fewer CTAs",
            )
        self.waiting.append(seat)


def cluster_windows(cluster: Triple) -> NDArray[np.uint8]:
    """Shared memory of a cluster's CTAs."""
    return aligned(math.prod(cluster) * CLUSTER_STRIDE, 1024)


def _take_turns(seats: _Seats, left: list[Seat]) -> None:
    """Run CTAs that wait for each other, for a slice each.

    Where all of them come back as they were, again and again, and none has ended in the meantime,
    nobody will ever write what they poll.
    """
    still = 0
    while left and not seats.asked:
        before, left = left, [seat for seat in left if not seat.run()]
        is_still = len(left) == len(before) and all(seat.quiet for seat in left)
        still = still + 1 if is_still else 0
        if still >= _STILL:
            raise left[0].stopped([seat.wait() for seat in left])


def _run_together(workers: Sequence[_Worker], seats: _Seats) -> None:
    """Run each worker in a thread, the first in this one."""
    first, *others = workers
    try:
        with suppress(RuntimeError):  # no threads are had once the interpreter is ending
            _threads().run(others)
        first.run()
        for worker in others:
            if not worker.cancel():
                error = worker.ended.get()
                if error is not None:
                    raise error
    except BaseException:  # Ctrl-C may come while this thread waits
        seats.asked = True
        for worker in others:
            worker.cancel()
        raise
    finally:
        _settle(others)


class _Threads:
    """Threads that are kept for the next launch.

    Executors of the standard library wait in Python code, which Ctrl-C may leave with a lock taken;
    this one only calls what Ctrl-C cannot break off halfway.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Worker] = SimpleQueue()
        self._count = 0

    def run(self, tasks: Sequence[_Worker]) -> None:
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


class _Worker:
    """Runner of CTAs in one thread of the host.

    busy: whether native code runs, or is about to.  ended: takes the error in which the worker
    ended in another thread, or None.
    """

    def __init__(self, seats: _Seats, pieces: Iterator[tuple[int, int]]) -> None:
        """pieces: ranges of CTAs, for all workers of the launch."""
        self._seats, self._pieces, self.busy = seats, pieces, False
        self.ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._claim = threading.Lock()  # taken by the thread that runs it, or calls it off

    def cancel(self) -> bool:
        """Call it off; False where it has begun, or been called off."""
        return self._claim.acquire(blocking=False)

    def __call__(self) -> None:
        """Run in another thread, unless it was called off."""
        if self._claim.acquire(blocking=False):
            error = None
            try:
                self.run()
            except BaseException as raised:
                error = raised
            self.ended.put(error)

    def run(self) -> None:
        """Run ranges of CTAs until there are no more, or another worker has failed."""
        seats = self._seats
        try:
            self.busy = True
            seat = None
            for first, last in self._pieces:
                while first < last and not seats.asked:
                    seat = seat or seats.take()
                    seat.begin(first, last)
                    while not (over := seat.run()) and not seats.asked and not seat.polls:
                        pass
                    if over:
                        break
                    if not seats.asked:  # the CTAs behind it may be what it waits for
                        first, last = seat.leave_others()
                        seats.set_aside(seat)
                        seat = None
                if seats.asked:
                    return
        except BaseException:
            seats.asked = True
            raise
        finally:
            self.busy = False


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
