"""Clues from the PTX about arrays that no sidecar declares: how far apart their elements are,
and which numbers an access beyond one goes by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..abi import Signature
from ..abi.arrays import POINTEE_DTYPES
from ..emulator.checks import Finding
from ..emulator.origin import Origin, element_nbytes, origins
from ..errors import FerrumError
from .case import Case
from .hypothesis import Hypothesis

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS: Mapping[int, np.dtype[Any]] = {
    2: np.dtype(np.float16),
    4: np.dtype(np.float32),
    8: np.dtype(np.float64),
}


def element_clues(case: Case) -> Iterator[Hypothesis]:
    """Arrays whose elements are not as far apart as the kernel steps, all of them mended."""
    apart = _element_nbytes(case)
    wrong = {n: size for n, size in apart.items() if case.arrays[n].values.itemsize != size}
    if not wrong:
        return
    name, size = next(iter(wrong.items()))
    told = (
        f"{name} is {case.arrays[name]}, {case.arrays[name].values.itemsize} bytes an element, "
        f"the kernel steps {size}"
    )
    if len(wrong) > 1:
        told += f"; so it is for {', '.join(list(wrong)[1:])}"
    converted = {n: _of_size(case.arrays[n].values, size) for n, size in wrong.items()}
    known = {n: values for n, values in converted.items() if values is not None}
    types = sorted({values.dtype.name for values in known.values()})
    mended = f"{', '.join(known)} converted to {' and '.join(types)}"
    yield Hypothesis("dtype-wrong", told, 0.8, _with_arrays(case, known), mended)


def type_guesses(case: Case) -> Iterator[Hypothesis]:
    """16-bit floats of the other kind: all arrays that nobody declares, or one array's bytes."""
    halves = {n: a for n, a in case.arrays.items() if _is_half(a.values)}
    if not case.declared.params and halves:
        values = {n: _to_half(a.values, _other(a.values.dtype)) for n, a in halves.items()}
        kind = _other(next(iter(halves.values())).values.dtype).name
        told = f"{', '.join(halves)} converted to {kind}"
        yield Hypothesis("dtype-wrong", told, 0.25, _with_arrays(case, values), told)
    for name, array in halves.items():
        if name in case.expected:
            continue
        other = _other(array.values.dtype)
        values = {name: _to_half(array.values.view(other), array.values.dtype)}
        told = f"{name} read as {other.name}, though its dtype says {array.values.dtype.name}"
        mended = f"{name}'s bytes taken as {other.name} and converted"
        yield Hypothesis("input-mislabelled", told, 0.25, _with_arrays(case, values), mended)


def beyond(case: Case, finding: Finding, told: str) -> Hypothesis:
    """An access outside the arrays, with the numbers that its address and its mask go by."""
    if case.declared.params:  # whose sizes and strides other clues look at
        return Hypothesis("missing-mask", told, 0.5)
    try:
        origin = origins(case.ptx, case.signature.entry).get(finding.line or 0)
    except FerrumError:
        origin = None
    if origin is not None:
        told += _goes_by(case, origin)
    return Hypothesis("out-of-bounds", told, 0.55)


def _goes_by(case: Case, origin: Origin) -> str:
    names = _names(case)

    def shown(parameters: frozenset[str]) -> str:
        numbers = sorted(
            (names[p] for p in parameters if p in names), key=list(names.values()).index
        )
        return ", ".join(
            name if name in case.arrays else f"{name} = {case.values.get(name)}" for name in numbers
        )

    parts = [f"; its address goes by {shown(origin.address)}"] if origin.address else []
    parts += [f"; what was loaded from {shown(origin.contents)}"] if origin.contents else []
    parts += [f"; its mask by {shown(origin.mask)}"] if origin.mask else ["; it has no mask"]
    return "".join(parts)


def _element_nbytes(case: Case) -> dict[str, int]:
    """Bytes between elements by the PTX, of the undeclared arrays of which it shows."""
    declared = {p.name for p in case.declared.params if p.type in POINTEE_DTYPES}
    params = case.signature.params
    found = element_nbytes(case.ptx, case.signature.entry).items()
    names = {params[index].name: nbytes for index, nbytes in found}
    return {n: nbytes for n, nbytes in names.items() if n in case.arrays and n not in declared}


def _names(case: Case) -> Mapping[str, str]:
    """The names that the PTX has for parameters, and those of the case."""
    plain = Signature.from_ptx(case.ptx, case.signature.entry).params
    return {p.name: q.name for p, q in zip(plain, case.signature.params, strict=True)}


def _of_size(values: NDArray[Any], nbytes: int) -> NDArray[Any] | None:
    """Converted to the type of its kind that has so many bytes; None where there is none."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind in "iu":
            return values.astype(np.dtype(f"{values.dtype.kind}{nbytes}"))
        if nbytes not in _FLOATS:
            return None
        converted: NDArray[Any] = values.astype(_FLOATS[nbytes])
        return converted


def _is_half(values: NDArray[Any]) -> bool:
    return values.dtype in (np.dtype(np.float16), _BFLOAT16)


def _other(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float16) if dtype == _BFLOAT16 else _BFLOAT16


def _to_half(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(dtype)


def _with_arrays(case: Case, arrays: Mapping[str, NDArray[Any]]) -> Case:
    for name, values in arrays.items():
        case = case.with_array(name, values)
    return case
