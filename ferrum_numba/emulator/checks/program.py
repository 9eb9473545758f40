"""A program whose code carries checks, and one launch of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...abi.signature import Signature
from ...errors import LaunchError, PtxError
from ..host import Host
from ..job import Job
from ..layout import State
from ..origin import has_origin, origins, pointers_of
from ..parse import parse_entry
from ..program import Program
from ..ptx import Body, Instruction
from ..seat import aligned
from ..translate import threads_of
from ..worker import WORKSPACE, cluster_windows
from .arrays import Areas, LaunchArray
from .check import Kept, Room
from .finding import Finding
from .order import copies, restore, sample
from .report import Reporter
from .state import RECORD, check_state, kinds
from .watch import Watch

_SHOWN = 4  # findings that the error of a launch names which was stopped
_MARGIN = 128  # of shared memory, behind what the kernel may use


class CheckedProgram:
    """One entry of a PTX text as native code that looks at every access.

    checks: names in CHECKS.  Accesses outside the arrays of a launch are
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
        self.program = Program(text, signature, host, self._watch)
        # Atomic operations come in an order that nothing fixes: there it is no mistake.
        self._ordered = "order" in self.checks and not self._watch.talks
        self.signature = signature
        self._text, self._host, self._body = text, host, body
        self._threads = threads

    @cached_property
    def _pointers(self) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        """Parameters that global memory is read and written through; None: any."""
        return pointers_of(self._text, self.signature.entry)

    @cached_property
    def _again(self) -> tuple[Program, Watch]:
        """The second run of "order": by the same code, which takes long to make, or by that which
        keeps no tape."""
        watch = Watch(self.checks, self._body, self._threads)
        if repr(self._watch) == repr(watch):
            return self.program, self._watch
        return Program(self._text, self.signature, self._host, watch), watch

    def run(
        self, job: Job, arrays: Sequence[LaunchArray], tape: int | None = None
    ) -> list[Finding]:
        """Run a grid as Program.run does; return what the checks found.

        arrays: all that the kernel may touch; what lies in none of them is out of bounds.
        tape: address of a TapeState, for hooks that record (trace/tap.py).
        """
        outputs = [a for a in arrays if a.writable and a.role != "input" and a.nbytes]
        before = copies(outputs) if self._ordered else []
        workspace = aligned(WORKSPACE, 64)
        its = ("the grid's barrier", workspace.ctypes.data, WORKSPACE)
        arrays = [*arrays, LaunchArray(*its, role="shared")]
        windows = None
        if job.cluster != (1, 1, 1):  # generic addresses reach the shared memory of all of it
            windows = cluster_windows(job.cluster)
            its = ("the cluster's shared memory", windows.ctypes.data, windows.nbytes)
            arrays.append(LaunchArray(*its, role="shared"))

        run = partial(Program.run, job=job, workspace=workspace, windows=windows)
        owners = self._owners(arrays, job.parameter_block)
        memory_of = partial(self._memory, arrays=arrays, owners=owners, job=job, tape=tape)
        memory = memory_of(self._watch)
        reporter = Reporter(self._body, memory.areas, memory.limit, self._watch.checks, owners)
        try:
            run(self.program, attach=memory.attach)
        except (LaunchError, PtxError) as error:  # which may come of what was found before
            found = reporter.collect(memory.kept)[:_SHOWN]
            raise type(error)("\n".join([str(error), *map(str, found)])) from None
        findings = reporter.collect(memory.kept)
        if self._watch.subject.init:
            findings += reporter.unwritten()
        if self._ordered and not findings:
            # In place, for a kernel may well store addresses.
            results = copies(outputs)
            restore(outputs, before)
            # Where marks tell who wrote what, some of the CTAs will do.
            some = sample(job.ctas) if self._watch.subject.tagged else None
            program, watch = self._again
            attach = memory_of(watch, reverse=True).attach
            try:
                run(program, attach=attach, only=some, silent=True)
                findings = reporter.differing(outputs, results, some)
            finally:
                restore(outputs, results)
        return findings

    def _memory(
        self,
        watch: Watch,
        reverse: bool = False,
        *,
        arrays: Sequence[LaunchArray],
        owners: NDArray[np.uint32],
        job: Job,
        tape: int | None,
    ) -> _Memory:
        """Memory of the checks of one run."""
        race = watch.subject.race
        slotted = self._slotted(arrays, job.parameter_block) if race else ()
        timed = race and watch.subject.talks
        tagged, init = watch.subject.tagged, watch.subject.init
        areas = Areas(arrays, tagged, init, timed, slotted)
        return _Memory(self._body, areas, owners, job, watch, reverse, tape)

    def _owners(self, arrays: Sequence[LaunchArray], parameter_block: bytes) -> NDArray[np.uint32]:
        """Number of the one array, plus 1, that addresses of each statement are computed from; 0:
        from several, from none, or from what the kernel has loaded."""
        numbers = {}
        for parameter in self.signature.params:
            if parameter.size == 8:
                at = parameter_block[parameter.offset : parameter.offset + 8]
                place = int.from_bytes(at, "little")
                around = [
                    (a.nbytes, i)
                    for i, a in enumerate(arrays)
                    if 0 <= place - a.address < a.nbytes and a.role != "shared"
                ]
                if around:
                    numbers[parameter.name] = max(around)[1] + 1
        owners = np.zeros(len(self._body.statements), np.uint32)
        for index, names in self._pointed:
            found = {numbers[name] for name in names if name in numbers}
            if len(found) == 1:
                (owners[index],) = found
        return owners

    @cached_property
    def _pointed(self) -> list[tuple[int, frozenset[str]]]:
        """Statements that access global memory, by index, with the pointers that their addresses
        are computed from.  Bulk copies may go on from one array to the next."""
        pointers = {p.name for p in self.signature.params if p.size == 8}
        of = origins(self._text, self.signature.entry)
        return [
            (s.index, of[s.line].address & pointers)
            for s in self._body.statements
            if isinstance(s, Instruction) and s.line in of and has_origin(s)
            if "bulk" not in s.opcode.base
        ]

    def _slotted(
        self, arrays: Sequence[LaunchArray], parameter_block: bytes
    ) -> Sequence[LaunchArray]:
        """Arrays that the entry may both read and write."""
        reads, writes = self._pointers
        stores = self._behind(writes, arrays, parameter_block)
        loads = self._behind(reads, arrays, parameter_block)
        return [a for a in loads if any(map(a.overlaps, stores))]

    def written(
        self, arrays: Sequence[LaunchArray], parameter_block: bytes
    ) -> Sequence[LaunchArray]:
        """Arrays that the entry may write."""
        found = self._behind(self._pointers[1], arrays, parameter_block)
        return [a for a in found if a.writable and a.role != "input"]

    def _behind(
        self,
        names: frozenset[str] | None,
        arrays: Sequence[LaunchArray],
        parameter_block: bytes,
    ) -> Sequence[LaunchArray]:
        """Arrays that pointers lead to; all, where it is not known of each of them."""
        pointers = {p.name: p.offset for p in self.signature.params if p.size == 8}
        places = [pointers[name] for name in names or () if name in pointers]
        addresses = [int.from_bytes(parameter_block[at : at + 8], "little") for at in places]
        found = [a for a in arrays if any(0 <= x - a.address < a.nbytes for x in addresses)]
        return arrays if names is None or len(found) < len(places) else found


class _Memory:
    """Memory of the checks: shared by the workers of one launch, and each worker's own."""

    def __init__(
        self,
        body: Body,
        areas: Areas,
        owners: NDArray[np.uint32],
        job: Job,
        watch: Watch,
        reverse: bool,
        tape: int | None,
    ) -> None:
        self.areas = areas
        size = body.static_shared + job.shared_bytes
        self.limit = size if job.shared_bytes else body.static_end
        self.kept: list[Kept] = []
        self._watch, self._reverse, self._tape, self._owners = watch, reverse, tape, owners
        self._room = Room(
            ctas=job.ctas,
            warps=job.warps,
            nbytes=size,
            words=(size + _MARGIN) // watch.subject.granule + 64,
            statements=len(body.statements),
        )
        self._shared: dict[str, NDArray[Any] | int] = {}
        for check in watch.checks:
            self._shared.update(check.share(self._room))
        self._states: list[object] = []

    def attach(self, state: State) -> None:
        """Give a worker its own check state."""
        records = np.zeros((self._room.statements, len(kinds())), RECORD)
        kept: dict[str, Any] = {
            **self._shared,
            "worker": ctypes.addressof(state),
            "records": records,
            "found": np.zeros(1, np.uint32),
            "tape": self._tape,
            "reverse": self._reverse,
            "owners": self._owners,
            "areas": ctypes.addressof(self.areas.table),
            "area_count": len(self.areas.arrays),
            "limit": self.limit,
            "slotted": self.areas.slotted,
            "slotted_end": self.areas.slotted_end,
        }
        for check in self._watch.checks:
            kept.update(check.keep(self._room))
        fields = {k: v.ctypes.data if isinstance(v, np.ndarray) else v for k, v in kept.items()}
        checks = check_state()(**fields)
        state.checks = ctypes.addressof(checks)
        self.kept.append(kept)
        self._states += [state, checks]
