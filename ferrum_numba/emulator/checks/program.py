"""A program whose code carries checks, and one launch of it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...abi.signature import Signature
from ..host import Host
from ..layout import LANES, State
from ..parse import parse_entry
from ..program import Program
from ..translate import threads_of
from ..worker import Triple
from .arrays import Areas, LaunchArray
from .finding import Finding
from .memory import (
    DOUBTS,
    KINDS,
    QUEUE_BYTES,
    RECORD,
    SITE_BYTES,
    CheckState,
)
from .report import Reporter
from .watch import Watch

_MARGIN = 128  # of shared memory, behind what the kernel may use


class CheckedProgram:
    """One entry of a PTX text as native code that looks at every access.

    checks: of "memory", "init", "race" and "order".  Accesses outside the arrays of a launch are
    reported and left out whatever the checks are.
    """

    def __init__(
        self, text: str, entry: str, checks: Sequence[str], host: Host | None = None
    ) -> None:
        self.checks = frozenset(checks)
        body = parse_entry(text, entry)
        signature = Signature.from_ptx(text, entry)
        start = time.perf_counter()
        host = host or Host.this()
        threads = threads_of(signature)
        self._watch = Watch(self.checks, body, threads)
        self._unwatched = Watch(frozenset(), body, threads)
        self.program = Program(text, signature, host, self._watch)
        # The second run of "order" only has to be safe.
        self._plain = self.program
        if "order" in self.checks and (self._watch.init or self._watch.race):
            self._plain = Program(text, signature, host, self._unwatched)
        self.compile_seconds = time.perf_counter() - start
        self.signature = signature
        self._body = body

    def run(
        self,
        *,
        grid: Triple,
        block: Triple,
        shared_bytes: int,
        parameter_block: bytes,
        arrays: Sequence[LaunchArray],
        threads: int = 1,
    ) -> list[Finding]:
        """Run a grid as Program.run does; return what the checks found.

        arrays: all that the kernel may touch; what lies in none of them is out of bounds.
        """
        outputs = [a for a in arrays if a.writable and a.role != "input" and a.nbytes]
        before = _copies(outputs) if "order" in self.checks else []

        def run(program: Program, watch: Watch, reverse: bool) -> _Memory:
            memory = _Memory(self, arrays, block, shared_bytes, watch, reverse)
            program.run(
                grid=grid,
                block=block,
                shared_bytes=shared_bytes,
                parameter_block=parameter_block,
                threads=threads,
                attach=memory.attach,
            )
            return memory

        memory = run(self.program, self._watch, reverse=False)
        reporter = Reporter(self._body, memory.areas, memory.limit)
        findings = reporter.collect(memory.records)
        if self._watch.init:
            findings += reporter.unwritten()
        # Atomic operations come in an order that nothing fixes: there it is no mistake.
        if "order" in self.checks and not findings and not self._watch.talks:
            # In place, for a kernel may well store addresses.
            results = _copies(outputs)
            _restore(outputs, before)
            try:
                run(self._plain, self._unwatched, reverse=True)
                findings = reporter.differing(outputs, results)
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
        block: Triple,
        shared_bytes: int,
        watch: Watch,
        reverse: bool = False,
    ) -> None:
        self.areas = Areas(arrays, shadowed=watch.init or watch.race)
        self.limit = program.limit(shared_bytes)
        self.records: list[NDArray[np.void]] = []
        self._keep: list[object] = []
        self._program, self._watch, self._reverse = program, watch, reverse
        self._size = program._body.static_shared + shared_bytes
        self._warps = -(-block[0] * block[1] * block[2] // LANES)

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
            queues=-(-queues.ctypes.data // 64) * 64,
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


def _copies(arrays: Sequence[LaunchArray]) -> list[NDArray[np.uint8]]:
    """The bytes of arrays."""
    return [
        np.frombuffer(ctypes.string_at(array.address, array.nbytes), np.uint8).copy()
        for array in arrays
    ]


def _restore(arrays: Sequence[LaunchArray], copies: Sequence[NDArray[np.uint8]]) -> None:
    for array, copy in zip(arrays, copies, strict=True):
        ctypes.memmove(array.address, copy.ctypes.data, array.nbytes)
