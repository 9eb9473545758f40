"""One mutant run: what it really did, and what was found.

What it did is seen without the checks' help: the arrays lie in one piece of memory with poison
between them, all of which the kernel may touch; the result and the poison are compared afterwards,
for both orders of the warps, and for copies that land at once and at the wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ferrum_numba.abi import ArrayReference, Binder, LaunchConfig
from ferrum_numba.devices import tensor_map
from ferrum_numba.devices.cpu.checked import check_layout
from ferrum_numba.emulator import Job
from ferrum_numba.emulator.checks import CheckedProgram, Finding
from ferrum_numba.emulator.checks.watch import Watch
from ferrum_numba.emulator.parse import parse_entry
from ferrum_numba.emulator.ptx import Body
from ferrum_numba.errors import AbiError, LaunchError, PtxError

from .mutations import Mutant
from .subjects import Arena, Subject

ALL = ("memory", "init", "race")


@dataclass(frozen=True)
class Outcome:
    """changed: the result, or memory outside the arrays, is not what the intact kernel leaves.

    outside: an access outside the arrays.  found: which checks found it; "abi" where a launch
    with a sidecar is refused, "layout" by shapes and strides, "stopped" where the run was stopped.
    """

    subject: str
    kind: str
    label: str
    changed: bool
    outside: bool
    found: tuple[str, ...]

    @property
    def effective(self) -> bool:
        return self.changed or self.outside

    @property
    def missed(self) -> bool:
        return self.effective and not self.found


class Trial:
    """Runs mutants of one subject."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.arena = Arena(subject)
        body = parse_entry(subject.text, self._entry)
        self._talks = Watch(frozenset(), body, None).talks
        self.intact = self._outputs(Mutant("intact", ""))
        findings, _ = self.run(Mutant("intact", ""), ALL)
        assert not findings, f"false alarm on {subject.name}: {findings[0]}"
        findings, _ = self.run(Mutant("intact", ""), ("order",), whole=True)
        assert not findings, f"false alarm on {subject.name}: {findings[0]}"

    def judge(self, mutant: Mutant) -> Outcome:
        found: set[str] = set()
        changed, outside = False, False
        if self._abi_refuses(mutant):
            found.add("abi")
        if self._layout_differs(mutant):
            found.add("layout")
        try:
            ordered, outputs = self.run(mutant, ("order",), whole=True)
            changed = outputs != self.intact or bool(ordered)
            if not self._talks and any(f.kind == "order" for f in ordered):
                found.add("order")
            findings, outputs = self.run(mutant, ALL)
            found |= {f.check for f in findings}
            outside = any(f.kind in ("out-of-bounds", "read-only") for f in findings)
            changed = changed or outputs != self.intact
        except (LaunchError, PtxError):
            found.add("stopped")
            changed = True
        order = ("abi", "layout", "memory", "init", "race", "order", "stopped")
        names = tuple(name for name in order if name in found)
        return Outcome(self.subject.name, mutant.kind, mutant.label, changed, outside, names)

    def run(
        self, mutant: Mutant, checks: tuple[str, ...], whole: bool = False
    ) -> tuple[list[Finding], bytes]:
        """Findings, and what lies in memory afterwards."""
        self.arena.reset()
        program = _program(mutant.text or self.subject.text, self._entry, checks)
        config = self.subject.config
        shared = config.shared_bytes if mutant.shared_bytes is None else mutant.shared_bytes
        if whole:  # a smaller buffer would change nothing but what is beyond it
            shared = config.shared_bytes
        job = Job(
            grid=config.grid,
            block=config.block,
            shared_bytes=shared,
            parameter_block=self._block(mutant),
        )
        findings = program.run(job, self.arena.whole() if whole else self.arena.arrays())
        return findings, self.arena.result()

    @property
    def _entry(self) -> str:
        return self.subject.signature.entry

    def _outputs(self, mutant: Mutant) -> bytes:
        return self.run(mutant, ("order",), whole=True)[1]

    def _block(self, mutant: Mutant) -> bytes:
        values: dict[str, int] = {**self.subject.integers, **mutant.integers}
        for name in self.subject.shapes:
            values[name] = self.arena.address(name) + mutant.pointers.get(name, 0)
        if mutant.swapped:
            first, second = mutant.swapped
            values[first], values[second] = values[second], values[first]
        signature, sidecar = self.subject.signature, self.subject.sidecar
        values = sidecar.numbers_for(values)
        maps = tensor_map.maps_of(sidecar, self._references(mutant), values)
        block = bytearray(signature.nbytes)
        for p in signature.params:
            value = values.get(p.name, 0) % (1 << 8 * p.size)
            data = maps.get(p.name) or value.to_bytes(p.size, "little")
            block[p.offset : p.offset + p.size] = data
        return bytes(block)

    def _references(self, mutant: Mutant) -> dict[str, ArrayReference]:
        found = {}
        for name, array in self.subject.shapes.items():
            if name in self.subject.lent:  # no caller names it
                continue
            found[name] = ArrayReference(
                self.arena.address(name),
                array.shape,
                array.strides,
                array.dtype.name,
                array.itemsize,
                array.nbytes,
                "cpu",
            )
        if mutant.swapped and found.keys() >= set(mutant.swapped):
            first, second = mutant.swapped
            found[first], found[second] = found[second], found[first]
        for name, shift in mutant.pointers.items():  # a pointer has no shape
            if name in found:
                found[name] = _shifted(found[name], shift)
        return found

    def _abi_refuses(self, mutant: Mutant) -> bool:
        """True if a launch with these values, arrays and shared memory raises AbiError."""
        references = self._references(mutant)
        config = self.subject.config
        if mutant.shared_bytes is not None:
            config = LaunchConfig(config.grid, config.block, mutant.shared_bytes)
        named: Mapping[str, Any] = {**references, **self.subject.integers, **mutant.integers}
        binder = Binder(
            self.subject.signature,
            self.subject.sidecar,
            lambda _, value: value,  # type: ignore[arg-type,return-value]
            partial(tensor_map.encode, "cpu"),
        )
        try:
            binder.bind(config, (), named)
        except AbiError:
            return True
        return False

    def _layout_differs(self, mutant: Mutant) -> bool:
        integers = {**(self.subject.sidecar.tile or {}), **self.subject.integers}
        arrays = self._references(mutant)
        for name in mutant.pointers:
            arrays.pop(name, None)
        return bool(check_layout(self.subject.sidecar, {**integers, **mutant.integers}, arrays))


def _shifted(array: ArrayReference, shift: int) -> ArrayReference:
    """Rest of an array behind a shifted start, as a flat view of it would be."""
    left = array.available - max(shift, 0)
    return ArrayReference(
        array.address + shift,
        (left // array.itemsize,),
        (array.itemsize,),
        array.dtype,
        array.itemsize,
        left,
        array.device,
    )


class _Steady(Watch):
    """For kernels whose CTAs talk to each other too, the run in reverse order is compared.

    The check leaves them out, for sums may come in any order; those that are mutated here store
    the same bits in every order.
    """

    def __init__(self, checks: frozenset[str], body: Body, threads: int | None) -> None:
        super().__init__(checks, body, threads)
        self.talks = False


@lru_cache(maxsize=4)
def _program(text: str, entry: str, checks: tuple[str, ...]) -> CheckedProgram:
    return CheckedProgram(text, entry, checks, watch=_Steady if checks == ("order",) else Watch)


def same(a: bytes, b: bytes) -> bool:
    return bool(np.array_equal(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)))
