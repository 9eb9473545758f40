"""Running a case on the CPU, safely: its block is not trusted, nor are its sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ptx_digest
from ..devices import tensor_map
from ..emulator import Job
from ..emulator.checks import CheckedProgram, Finding, LaunchArray
from ..errors import FerrumError
from .case import Case, CaseArray, read_block

# Instructions of a CTA, since wrong sizes make endless loops: these, or so many a byte of its
# arrays, where that is more.  GEMMs take less than one.
_STEPS, _STEPS_A_BYTE = 1 << 20, 4
_MAX_CTAS = 4096
_ALIGN = 256  # what cuMemAlloc guarantees
_GAP = 1 << 16  # between arrays, so that what leaves one is not in the next
ALL_CHECKS = ("memory", "init", "race")

# ||found - expected|| / ||expected|| that is right: some roundings of the output's dtype.
_RIGHT = {"float16": 2.0**-7, "bfloat16": 2.0**-5, "float32": 2.0**-12, "float64": 2.0**-24}


@dataclass(frozen=True, eq=False)
class Outcome:
    """Outcome of a run: outputs by name, findings of the checks, and what it raised, with the
    error's code."""

    outputs: Mapping[str, NDArray[Any]]
    findings: Sequence[Finding] = ()
    error: str = ""
    code: str = ""

    @property
    def clean(self) -> bool:
        """True if it ended, and the checks found nothing."""
        return not self.error and not self.findings


def run(case: Case, checks: Sequence[str] = ("memory",)) -> Outcome:
    """Run a case; accesses outside its arrays are left out, and loops without end are ended."""
    if case.config.ctas > _MAX_CTAS:
        return Outcome({}, error=f"{case.config.ctas} CTAs are too many to try")
    if len(case.block) != case.signature.nbytes:
        return Outcome({}, error=f"a block of {len(case.block)} bytes cannot be run")
    places = {name: _place(array) for name, array in case.arrays.items()}
    block, scratch = _translated(case, places)
    arrays = [
        LaunchArray(
            name,
            view.ctypes.data,
            case.arrays[name].nbytes,
            view.itemsize,
            _role(case, name),
            shape=view.shape if min(view.strides, default=0) >= 0 else (),
            strides=view.strides if min(view.strides, default=0) >= 0 else (),
        )
        for name, view in places.items()
        if view.size
    ]
    arrays += [LaunchArray("scratch", s.ctypes.data, s.nbytes, role="scratch") for s in scratch]
    try:
        program = _program(ptx_digest(case.ptx), case.ptx, case.signature.entry, tuple(checks))
        nbytes = sum(array.nbytes for array in case.arrays.values())
        with _few_steps(max(_STEPS, _STEPS_A_BYTE * nbytes)):
            job = Job(
                grid=case.config.grid,
                block=case.config.block,
                shared_bytes=min(case.config.shared_bytes, 228 * 1024),
                parameter_block=block,
            )
            findings = program.run(job, arrays)
    except FerrumError as error:
        return Outcome(places, error=f"{type(error).__name__}: {error}", code=error.code)
    return Outcome(places, findings)


def is_right(case: Case, outputs: Mapping[str, NDArray[Any]]) -> bool:
    """True if all expected outputs came out, up to rounding."""
    return bool(case.expected) and all(
        name in outputs and distance(outputs[name], expected) <= tolerance(outputs[name], expected)
        for name, expected in case.expected.items()
    )


def distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """||found - expected|| / ||expected||, infinite where a shape or a number is none.

    found may have more rows than are expected.
    """
    if found.ndim == expected.ndim and found.shape[1:] == expected.shape[1:]:
        found = found[: len(expected)]
    if found.size != expected.size:
        return np.inf
    ours = np.asarray(found, np.float64).reshape(-1)
    theirs = np.asarray(expected, np.float64).reshape(-1)
    if not np.isfinite(ours).all() and np.isfinite(theirs).all():
        return np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.linalg.norm(np.nan_to_num(ours - theirs)))
    return error / (float(np.linalg.norm(np.nan_to_num(theirs))) or 1.0)


def tolerance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The distance that is right: of the coarser of both types, as references are often finer."""
    return max(_RIGHT.get(values.dtype.name, 0.0) for values in (found, expected))


@lru_cache(maxsize=32)
def _program(digest: str, text: str, entry: str, checks: tuple[str, ...]) -> CheckedProgram:
    return CheckedProgram(text, entry, checks)


@contextmanager
def _few_steps(steps: int) -> Iterator[None]:
    """The limit on a CTA's instructions lowered, unless somebody has set one."""
    if "FERRUM_CPU_STEPS" in os.environ:
        yield
        return
    os.environ["FERRUM_CPU_STEPS"] = str(steps)
    try:
        yield
    finally:
        del os.environ["FERRUM_CPU_STEPS"]


def _place(array: CaseArray) -> NDArray[Any]:
    """A copy of an array with its strides, aligned as its address was, room around it."""
    values = array.values
    memory = np.zeros(array.nbytes + 2 * _GAP + _ALIGN, np.uint8)
    start = _GAP + -(memory.ctypes.data + _GAP) % _ALIGN + array.address % _ALIGN
    whole = memory[start : start + array.nbytes]
    view: NDArray[Any] = np.ndarray(values.shape, values.dtype, whole, 0, values.strides)
    view[...] = values
    return view


def _translated(
    case: Case, places: Mapping[str, NDArray[Any]]
) -> tuple[bytes, list[NDArray[np.uint8]]]:
    """The block with addresses of this process; scratch and maps as the sidecar demands them."""
    block, scratch = bytearray(case.block), []
    demanded = {s.role: s for s in case.declared.scratch if s.size}
    for p in case.signature.params:
        if p.size != 8 or p.count is not None:
            continue
        value = int.from_bytes(block[p.offset : p.offset + 8], "little")
        demand = demanded.get(p.role)
        own = [name for name in (p.name,) if name in case.arrays]
        owner = next((n for n in [*own, *case.arrays] if case.arrays[n].holds(value)), None)
        if demand is not None and value:
            buffer = np.zeros(case.config.ctas * demand.size + demand.align, np.uint8)
            scratch.append(buffer)
            value = -(-buffer.ctypes.data // demand.align) * demand.align
        elif owner is not None:
            value = places[owner].ctypes.data + value - case.arrays[owner].address
        elif p.is_pointer:
            value = value & 0xFFFF  # an address of nobody: never one of this process by chance
        block[p.offset : p.offset + 8] = value.to_bytes(8, "little")
    for name, made in _maps(case, bytes(block)).items():
        p = case.signature[name]
        block[p.offset : p.offset + p.size] = made
    return bytes(block), scratch


def _maps(case: Case, block: bytes) -> dict[str, bytes]:
    """The tensor maps that the launcher makes of arrays at a block's addresses."""
    values = read_block(block, case.signature.params)
    arrays = {
        name: replace(array.reference("cpu"), address=values[name])
        for name, array in case.arrays.items()
        if values.get(name)
    }
    sizes = {name: value for name, value in values.items() if type(value) is int}
    sizes = {**(case.declared.tile or {}), **sizes}
    return tensor_map.maps_of(case.declared, arrays, sizes)


def _role(case: Case, name: str) -> str:
    role = case.signature[name].role if name in {p.name for p in case.signature.params} else ""
    return role if role == "output" else ""
