"""One CTA's place on the CPU: the contexts of its warps, its shared memory, and where it stands."""

from __future__ import annotations

import ctypes
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np

from ..errors import LaunchError
from .faults import faults
from .host_calls import Failure, HostCalls
from .layout import (
    FINISHED,
    FRESH,
    GAVE_WAY,
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
from .waits import Place, Wait

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Words = np.ndarray[tuple[int], np.dtype[np.uint32]]

# After so many instructions (some milliseconds) a CTA comes back to Python: for Ctrl-C, for errors
# of others.  One that may wait for other CTAs comes back after fewer, and then after more and more.
_SLICE, _FIRST_SLICE = 1 << 22, 1 << 11
# Slices after which a CTA that may wait for others gives way in any case.
_PATIENCE = 16
# Steps, for each byte of a CTA's state, between two looks at one that computes.
_STEPS_A_BYTE = 4
# States in which a CTA has come back last: one that comes back in one of them again is polling.
_KEPT = 64
_ENDED = FINISHED & 0xFFFFFFFF  # as an unsigned word
# Reads of whole words and vectors may pass an array's end by less than this many bytes.
_MARGIN = 128
LARGEST_SHARED = 227 * 1024
"""Bytes of shared memory that the largest GPU gives a CTA."""
LARGEST_STATIC = 48 * 1024
"""Bytes of them that a module may declare; the rest is dynamic."""


class StoppedError(Exception):
    """A CTA that cannot go on.

    fault: 1 + the index of a statement that could not be run as it should; 0: too many steps, and
    block is the one that a warp was to run next.
    places: where all warps stand, if all of them wait in vain.  failure: the assertion that failed.
    waits: where all CTAs stand that are left, if these wait for each other in vain.
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
        waits: Sequence[Wait] = (),
    ) -> None:
        super().__init__(cta, warp, fault, block, steps, places, failure, waits)
        self.cta, self.warp, self.fault, self.block, self.steps = cta, warp, fault, block, steps
        self.places, self.failure, self.waits = places, failure, waits


class Seat:
    """A CTA after the other sits here, all of launches of one function, block and shared memory.

    quiet: how many slices have ended, one after the other, in a state that was there before: then
    the CTA does nothing but poll.  spent: steps of the CTA so far.
    """

    def __init__(
        self,
        function: Function,
        block: Triple,
        shared_bytes: int,
        parameters: int,
        attach: Callable[[State], None] | None = None,
        silent: bool = False,
        shared: Bytes | None = None,
    ) -> None:
        """parameters: bytes of the parameter block.  attach, silent: see Launch (worker.py).

        shared: the CTA's memory, where it is part of a cluster's.
        """
        needs = function.needs
        x, y, z = block
        warps = -(-x * y * z // LANES)
        self._call, self._masked, self._name = function.call, needs.masked, function.name
        self._faults = faults()
        # With checks a step takes longer, and Ctrl-C should not have to wait.
        self._longest = _SLICE if attach is None else _SLICE >> 3
        self._first_slice = _FIRST_SLICE if needs.talks else self._longest
        self._params = ctypes.create_string_buffer(parameters + 1)
        try:
            contexts = aligned(warps * needs.context_bytes, 64)
            size = needs.static_shared + shared_bytes
            # As much as any GPU has: a launch that asks for too little does not hit other memory.
            room = max(size, LARGEST_SHARED) + _MARGIN
            self._shared = aligned(room, 1024) if shared is None else shared[:room]
            self._scratch = aligned(needs.scratch_bytes, 64)
        except (MemoryError, ValueError, OverflowError) as error:
            raise LaunchError(
                "shared_bytes",
                f"no memory for a CTA of {warps} warps with {shared_bytes} bytes of dynamic "
                f"shared memory: {error}",
            ) from None
        self._used, self._behind = self._shared[:size], self._shared[size:]
        self._nbytes = size + len(contexts)
        self._contexts = contexts.reshape(warps, needs.context_bytes)
        _fill_contexts(self._contexts, block)
        self._host = HostCalls(silent)
        self._barrier = np.zeros(2, np.uint32)  # of a cluster that is one CTA
        self._state = State(
            cluster=(1, 1, 1),
            cluster_ctas=1,
            cluster_barrier=self._barrier.ctypes.data,
            ntid=block,
            warps=warps,
            shared_bytes=shared_bytes,
            params=ctypes.addressof(self._params),
            shared=self._shared.ctypes.data,
            contexts=contexts.ctypes.data,
            scratch=self._scratch.ctypes.data,
            host=self._host.address,
        )
        if attach is not None:
            attach(self._state)
        self._limit = 0
        self._forget()

    def take(self, grid: Triple, parameter_block: bytes, workspace: int, limit: int) -> None:
        """Serve this launch next. workspace: address of the grid's; limit: steps of a CTA."""
        self._state.nctaid, self._limit = grid, limit
        self._state.workspace = workspace
        self._host.failure = self._host.error = None
        ctypes.memmove(self._params, parameter_block, len(parameter_block))

    def attach(self, attach: Callable[[State], None]) -> None:
        """Serve a launch with checks next, which must find what a new CTA would."""
        self._shared[:] = 0
        its = self._contexts[:, : TID + 12 * LANES].copy()
        self._contexts[:] = 0
        self._contexts[:, : TID + 12 * LANES] = its
        attach(self._state)

    def join(self, cluster: Triple, rank: int, barrier: Words) -> None:
        """Become the place of one CTA of each cluster. barrier: two words that all of it have."""
        x, y, z = cluster
        state, self._barrier = self._state, barrier
        state.cluster, state.cluster_ctas, state.cluster_rank = cluster, x * y * z, rank
        state.cluster_ctaid = (rank % x, rank // x % y, rank // (x * y))
        state.cluster_barrier = barrier.ctypes.data

    def begin(self, first: int, last: int) -> None:
        """Have CTAs take place here, from the first to the one before the last."""
        state = self._state
        state.cta, state.last, state.warp, state.phase = first, last, 0, FRESH
        state.idle = 0
        self._forget()

    def _forget(self) -> None:
        self.quiet = self.spent = 0
        self._polled = False  # in the slice before
        self._slice = self._first_slice
        self._unseen = 0  # steps since it was looked at
        self._seen: deque[int] = deque(maxlen=_KEPT)

    def run(self) -> bool:
        """Run for a slice; whether all CTAs are done.

        Raises StoppedError for one that cannot go on.
        """
        state = self._state
        cta = state.cta
        state.steps = given = min(self._slice, self._limit)
        last_poll, state.poll = state.poll, 0  # it tells whether this slice polls
        with self._faults.named(self._name, state) if self._faults else nullcontext():
            over = not self._call(ctypes.addressof(state))
        if self._host.error is not None:
            raise self._host.error
        if over and not state.fault:
            return True
        gave_way, new = state.steps <= GAVE_WAY // 2, state.cta != cta
        if new:  # what was spent on CTAs that are done does not count for this one
            self._forget()
        elif not gave_way:
            self.spent += given - state.steps
            self._unseen += given - state.steps
        polled = not new and (gave_way or state.poll != 0)
        state.poll = state.poll or last_poll
        if state.fault or (not over and self.spent > self._limit):
            raise self.stopped()
        again, self._polled = polled and self._polled, polled
        rest = self._slice < self._longest or self._unseen < _STEPS_A_BYTE * self._nbytes
        if again or self.quiet or not rest:
            self._look()
        else:  # it computes, and a look at all of its memory would take as long
            self._slice = min(2 * self._slice, self._longest)
        return False

    def _look(self) -> None:
        """See whether the CTA was in this state before, so that it only waits."""
        self._unseen = 0
        known = zlib.crc32(self._used.data, zlib.crc32(self._contexts.data))
        if known in self._seen:
            self.quiet += 1
            self._slice = min(self._slice, _FIRST_SLICE)
        else:
            self.quiet, self._slice = 0, min(2 * self._slice, self._longest)
            self._seen.append(known)

    @property
    def cta(self) -> int:
        """The number of the CTA that sits here."""
        return int(self._state.cta)

    @property
    def polls(self) -> bool:
        """True if the CTA should give way to others."""
        patient = self._first_slice == self._longest or self.spent < _PATIENCE * _SLICE
        return self.quiet >= 2 or not patient

    def leave_others(self) -> tuple[int, int]:
        """Keep the CTA that sits here; the first and the end of those that have not begun."""
        first, last = self._state.cta + 1, self._state.last
        self._state.last = first
        return first, last

    def wait(self) -> Wait:
        """Place where the CTA stands, and address that it polls."""
        state = self._state
        resumes = map(self._resume, self._contexts.view(np.uint32))
        first = next((place for place in resumes if place != _ENDED), 0)
        return Wait(self._cta(state.cta), first, state.polled, state.poll)

    def _cta(self, number: int) -> Triple:
        x, y, _ = self._state.nctaid
        return number % x, number // x % y, number // (x * y)

    def check_shared(self) -> None:
        """Raise LaunchError where something was stored behind the CTA's shared memory."""
        if not self._behind.max():  # all zero, as it was; any() takes four times as long
            return
        first, last = np.flatnonzero(self._behind)[[0, -1]].tolist()
        raise LaunchError(
            "shared_bytes",
            f"the kernel stores {first} to {last} bytes behind the {self._state.shared_bytes} "
            "bytes of dynamic shared memory that a CTA is given",
            remedy='give it what the sidecar states as shared; the check "memory" names the line',
        )

    def stopped(self, waits: Sequence[Wait] = ()) -> StoppedError:
        """The error of a CTA that cannot go on. waits: of all that wait for each other."""
        state = self._state
        cta = self._cta(state.fault_cta if state.fault else state.cta)
        # It counts the one that stopped as done.
        warp, block = self._place(state.fault_warp if state.fault else max(state.warp, 1) - 1)
        places = self._places() if state.idle > IDLE_LIMIT else []
        failure = self._host.failure
        return StoppedError(cta, warp, state.fault, block, self.spent, places, failure, waits)

    def _place(self, warp: int) -> tuple[int, int]:
        """A warp, and the block that it goes on with."""
        return warp, self._resume(self._contexts[warp].view(np.uint32)) & (WAITING - 1)

    def _resume(self, words: Words) -> int:
        """Block that a warp goes on with."""
        if not self._masked or words[RESUME // 4] == _ENDED:
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
