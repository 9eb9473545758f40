"""Notes on errors: the likely cause of a launch whose arguments were refused."""

from __future__ import annotations

import difflib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ..abi import ArrayReference, LaunchConfig, Parameter
from ..devices import Launchable
from ..devices.observer import RefusedLaunch
from .case import Case, CaseArray
from .causes import CAUSES
from .recording import numpy_dtype

_TELLING = 0.75  # the weight of evidence that is worth a note


def add_cause(launch: RefusedLaunch) -> None:
    """Add to an error the cause that its launch's arguments show, if they show one."""
    if hasattr(launch.error, "add_note"):  # since Python 3.11
        found = likely_cause(launch)
        if found is not None:
            launch.error.add_note(f"likely cause: {found[1]}")


def likely_cause(launch: RefusedLaunch) -> tuple[str, str] | None:
    """The cause that a launch's arguments show, by its name in `CAUSES` and in words."""
    kernel, config, positional, named, _ = launch
    names = [p.name for p in kernel.signature.arguments]
    for found in _miscounted(kernel, positional, named):
        return found
    for wrong in named.keys() - set(names):
        for near in difflib.get_close_matches(wrong, set(names) - named.keys(), 1, 0.5):
            return "argument-misspelt", f"{wrong} is misspelt for {near}"
    with suppress(Exception):  # a note is no reason for another error
        case = _case(kernel, config, dict(zip(names, positional, strict=False)) | dict(named))
        return _strongest(case)
    return None


def _miscounted(
    kernel: Launchable, positional: Sequence[object], named: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Arguments that no launch takes, or that no sidecar says are scratch."""
    signature, sidecar = kernel.signature, kernel.sidecar
    constants = {**(sidecar.constants or {}), **(sidecar.tile or {})}
    for name in sorted(named.keys() & constants.keys()):
        told = f"{name} is a constant of this build ({constants[name]}), no parameter: leave it out"
        yield "parameter-extra", told
    more = len(positional) - len(signature.arguments)
    scratch = len(signature.scratch)
    if more > 0 and more == scratch and not any(positional[-more:]):
        told = f"the last {more} are the scratch pointers, which are filled in: leave them out"
        yield "parameter-extra", told
    elif more > 0:
        told = "a tl.constexpr is compiled in and is no parameter: leave such arguments out"
        yield "parameter-extra", told
    tail = signature.arguments[-2:]
    silent = not scratch and all(p.size == 8 and p.is_pointer for p in tail)
    if more < 0 and not named and silent and -more == len(tail):
        told = (
            f"{' and '.join(p.name for p in tail)} look like Triton's scratch pointers, which only "
            "the sidecar (Triton's .json) tells: give it to load_module, or pass None for each"
        )
        yield "scratch-missing", told


def _strongest(case: Case) -> tuple[str, str] | None:
    from .array_clues import exchange_clues, place_clues, type_clues
    from .block_clues import integer_clues, number_clues
    from .launch_clues import configuration_clues

    clues = (
        *(exchange_clues, integer_clues, type_clues, place_clues),
        *(configuration_clues, number_clues),
    )
    found = [h for clue in clues for h in clue(case) if h.weight >= _TELLING]
    if not found:
        return None
    first = max(found, key=lambda h: h.weight)
    mended = f"; with {first.mended} it would agree" if first.mended else ""
    cause = CAUSES[first.cause]
    return first.cause, f"{first.cause}: {cause.what}\n  {first.evidence}{mended}"


def _case(kernel: Launchable, config: LaunchConfig, arguments: Mapping[str, Any]) -> Case:
    """The launch as it was asked for; its arrays' contents are not looked at."""
    device, block, arrays = kernel.module.device, b"", {}
    sizes = {name: value for name, value in arguments.items() if type(value) is int}
    arguments = {**kernel.sidecar.derived(sizes), **arguments}
    for p in kernel.signature.params:
        value = arguments.get(p.name, 0)
        if hasattr(value, "shape"):
            reference = device.describe(p.name, value)
            arrays[p.name] = CaseArray(_outline(reference), reference.address, reference.device)
            value = reference.address
        block = block.ljust(p.offset, b"\0") + _field(p, value)
    case = Case(kernel.module.text, block, config, arrays, kernel.signature.entry)
    return replace(case, sidecar=kernel.sidecar, device=device.name)


def _outline(reference: ArrayReference) -> Any:
    """An array of this shape and these strides, of zeros."""
    dtype = numpy_dtype(reference.dtype)
    strides = reference.strides
    if strides is None:
        after = [reference.shape[i + 1 :] for i in range(len(reference.shape))]
        strides = tuple(math.prod(shape) * dtype.itemsize for shape in after)
    zeros = np.zeros(reference.available, np.uint8)  # of which no page is there until it is read
    return np.ndarray(reference.shape, dtype, zeros, 0, strides)


def _field(p: Parameter, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value.ljust(p.size, b"\0")[: p.size]
    if isinstance(value, float):
        return struct.pack("<f" if p.size == 4 else "<d", value)
    return (int(value or 0) % (1 << 8 * p.size)).to_bytes(p.size, "little")
