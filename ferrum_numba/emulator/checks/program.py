"""A program whose code carries checks, and one launch of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...abi.signature import Signature
from ...errors import LaunchError, PtxError
from ..host import Host
from ..layout import LANES, State
from ..parse import parse_entry
from ..program import Program
from ..ptx import Body
from ..translate import threads_of
from ..worker import Triple, aligned
from .arrays import Areas, LaunchArray
from .finding import Finding
from .memory import (
    CLOCK_BYTES,
    DOUBTS,
    KINDS,
    OBJECT_BYTES,
    OBJECTS,
    PRODUCT_HEAD,
    QUEUE_BYTES,
    RECORD,
    SITE_BYTES,
    CheckState,
)
from .report import Reporter
from .watch import Watch

_SHOWN = 4  # findings that the error of a launch names which was stopped
_MARGIN = 128  # of shared memory, behind what the kernel may use


class CheckedProgram:
    """One entry of a PTX text as native code that looks at every access.

    checks: of "memory", "init", "race" and "order".  Accesses outside the arrays of a launch are
    reported and left out whatever the checks are.
    """

    def __init__(
        self,
        text: str,
        entry: str,
        checks: Sequence[str],
        host: Host | None = None,
        watch: Callable[[frozenset[str], Body, int | None], Watch] = Watch,
    ) -> None:
        """watch: makes the hooks of the first run, where they do more than the checks."""
        self.checks = frozenset(checks)
        body = parse_entry(text, entry)
        signature = Signature.from_ptx(text, entry)
        host = host or Host.this()
        threads = threads_of(signature)
        self._watch = watch(self.checks, body, threads)
        self._unwatched = Watch(frozenset(), body, threads)
        self.program = Program(text, signature, host, self._watch)
        # Atomic operations come in an order that nothing fixes: there it is no mistake.
        self._ordered = "order" in self.checks and not self._watch.talks
        self.signature = signature
        self._text, self._host, self._body = text, host, body

    @cached_property
    def _plain(self) -> Program:
        """For the second run of "order", which comes where nothing was found and has to be safe."""
        if repr(self._watch) == repr(self._unwatched):
            return self.program
        return Program(self._text, self.signature, self._host, self._unwatched)

    def run(
        self,
        *,
        grid: Triple,
        block: Triple,
        shared_bytes: int,
        parameter_block: bytes,
        arrays: Sequence[LaunchArray],
        threads: int = 1,
        tape: int | None = None,
    ) -> list[Finding]:
        """Run a grid as Program.run does; return what the checks found.

        arrays: all that the kernel may touch; what lies in none of them is out of bounds.
        tape: address of a TapeState, for hooks that record (trace/tap.py).
        """
        outputs = [a for a in arrays if a.writable and a.role != "input" and a.nbytes]
        before = _copies(outputs) if self._ordered else []

        def memory_of(watch: Watch, reverse: bool) -> _Memory:
            return _Memory(self, arrays, grid, block, shared_bytes, watch, reverse, tape)

        def run(program: Program, memory: _Memory, only: Sequence[int] | None = None) -> None:
            program.run(
                grid=grid,
                block=block,
                shared_bytes=shared_bytes,
                parameter_block=parameter_block,
                threads=threads,
                attach=memory.attach,
                only=only,
            )

        memory = memory_of(self._watch, reverse=False)
        reporter = Reporter(self._body, memory.areas, memory.limit)
        try:
            run(self.program, memory)
        except (LaunchError, PtxError) as error:  # which may come of what was found before
            found = reporter.collect(memory.records)[:_SHOWN]
            raise type(error)("\n".join([str(error), *map(str, found)])) from None
        findings = reporter.collect(memory.records)
        if self._watch.init:
            findings += reporter.unwritten()
        if self._ordered and not findings:
            # In place, for a kernel may well store addresses.
            results = _copies(outputs)
            _restore(outputs, before)
            # Where marks tell who wrote what, some of the CTAs will do.
            marked = self._watch.init or self._watch.race
            some = _sample(grid[0] * grid[1] * grid[2]) if marked else None
            try:
                run(self._plain, memory_of(self._unwatched, reverse=True), some)
                findings = reporter.differing(outputs, results, some)
            finally:
                _restore(outputs, results)
        return findings

    def limit(self, shared_bytes: int) -> int:
        """Bytes of shared memory that a CTA has."""
        body = self._body
        return body.static_shared + shared_bytes if shared_bytes else body.static_end

    @property
    def statements(self) -> int:
        return len(self._body.statements)


class _Memory:
    """What the workers of one launch share, and what each has of its own."""

    def __init__(
        self,
        program: CheckedProgram,
        arrays: Sequence[LaunchArray],
        grid: Triple,
        block: Triple,
        shared_bytes: int,
        watch: Watch,
        reverse: bool = False,
        tape: int | None = None,
    ) -> None:
        talks = watch.ordering.talks
        self.areas = Areas(arrays, watch.init or watch.race, timed=talks)
        self._time = np.zeros(1, np.uint32)
        self.limit = program.limit(shared_bytes)
        self.records: list[NDArray[np.void]] = []
        self._keep: list[object] = []
        self._program, self._watch, self._reverse = program, watch, reverse
        self._tape = tape
        self._size = program._body.static_shared + shared_bytes
        self._warps = -(-block[0] * block[1] * block[2] // LANES)
        ctas = grid[0] * grid[1] * grid[2]
        self._released = np.zeros(ctas * self._warps if talks else 1, np.uint32)

    def attach(self, state: State) -> None:
        """Give a worker its own check state."""
        watch, statements = self._watch, self._program.statements
        records = np.zeros((statements, len(KINDS)), RECORD)
        sites = np.zeros(statements * SITE_BYTES, np.uint8)
        watched = watch.init or watch.race
        tags = np.zeros((self._size + _MARGIN) // watch.granule + 64 if watched else 1, np.uint32)
        registers = np.zeros(self._warps * len(watch.suspects) + 1, np.uint32)
        fences = np.zeros(self._warps, np.uint32)
        doubts = np.zeros(DOUBTS, np.uint8)
        words, warps = len(tags), self._warps
        ordering = watch.ordering
        clocks = aligned(warps * CLOCK_BYTES if ordering.clocks else 0, 64)
        objects = aligned(OBJECTS * OBJECT_BYTES if ordering.clocks else 0, 64)
        lane_tags = np.zeros(words if ordering.hands else 1, np.uint32)
        meetings = np.zeros(warps, np.uint32)
        planes = np.zeros(2 * warps * words if ordering.clocks else 1, np.uint32)
        latest, acquired = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
        product_bytes = PRODUCT_HEAD + 8 * len(ordering.sets)
        products = aligned(warps * product_bytes, 64)
        queues = np.zeros(self._warps * QUEUE_BYTES + 64 if watch.race else 64, np.uint8)
        checks = CheckState(
            worker=ctypes.addressof(state),
            areas=ctypes.addressof(self.areas.table),
            sites=sites.ctypes.data,
            records=records.ctypes.data,
            tags=tags.ctypes.data,
            registers=registers.ctypes.data,
            fences=fences.ctypes.data,
            doubts=doubts.ctypes.data,
            tape=self._tape,
            queues=-(-queues.ctypes.data // 64) * 64,
            clocks=clocks.ctypes.data,
            objects=objects.ctypes.data,
            planes=planes.ctypes.data,
            latest=latest.ctypes.data,
            lane_tags=lane_tags.ctypes.data,
            meetings=meetings.ctypes.data,
            acquired=acquired.ctypes.data,
            released=self._released.ctypes.data,
            time=self._time.ctypes.data,
            products=products.ctypes.data,
            product_bytes=product_bytes,
            plane_bytes=4 * words,
            tag_bytes=tags.nbytes,
            area_count=len(self.areas.arrays),
            limit=self.limit,
            dump=-(-self._size // 16) * 16,
            now=0xFFFFFFFF,
            reverse=self._reverse,
        )
        state.checks = ctypes.addressof(checks)
        self.records.append(records)
        self._keep += [state, sites, tags, queues, registers, fences, doubts, checks]
        self._keep += [clocks, objects, planes, latest, acquired, products, lane_tags, meetings]


def _sample(ctas: int) -> list[int]:
    """A sixteenth of the CTAs, but at least four, with the first and the last of all."""
    count = min(ctas, max(4, -(-ctas // 16)))
    return sorted({round(i * (ctas - 1) / max(count - 1, 1)) for i in range(count)})


def _copies(arrays: Sequence[LaunchArray]) -> list[NDArray[np.uint8]]:
    """The bytes of arrays."""
    return [
        np.frombuffer(ctypes.string_at(array.address, array.nbytes), np.uint8).copy()
        for array in arrays
    ]


def _restore(arrays: Sequence[LaunchArray], copies: Sequence[NDArray[np.uint8]]) -> None:
    for array, copy in zip(arrays, copies, strict=True):
        ctypes.memmove(array.address, copy.ctypes.data, array.nbytes)
