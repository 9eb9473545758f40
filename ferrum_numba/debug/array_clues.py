"""Clues from the arrays of a launch: their places, their types, their contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..abi import Declaration
from ..abi.arrays import POINTEE_DTYPES
from ..errors import FerrumError
from ..gptq.misreadings import WORD_ORDERS
from .case import Case, CaseArray
from .hypothesis import Hypothesis
from .truth import truth
from .weight_clues import weight_guesses


def place_clues(case: Case) -> Iterator[Hypothesis]:
    """Arrays on other devices, too short, misaligned or over one another."""
    for name, array in case.arrays.items():
        if array.device and array.device != case.device:
            told = f"{name} lies on {array.device}, the launch is on {case.device}"
            yield Hypothesis("wrong-device", told, 1.0)
    for declaration in case.declared.params:
        if declaration.name not in case.arrays:
            continue
        array = case.arrays[declaration.name]
        if declaration.align and case.values.get(declaration.name, 0) % declaration.align:
            told = (
                f"{declaration.name} is {case.values[declaration.name]:#x}, the kernel was built "
                f"for an address that is a multiple of {declaration.align}"
            )
            yield Hypothesis("array-misaligned", told, 0.95)
        yield from _too_short(case, declaration, array)
    yield from _overlaps(case)


def _too_short(case: Case, declaration: Declaration, array: CaseArray) -> Iterator[Hypothesis]:
    right = truth(case)
    sizes = {**(case.declared.tile or {}), **right.values}
    try:
        extents = [rule(sizes) for rule in declaration.shape]
    except FerrumError:
        return
    if array.values.ndim != len(extents) or array.values.shape[1:] != tuple(extents[1:]):
        return
    if extents and array.values.shape[0] < extents[0]:
        told = (
            f"{declaration.name} has {array.values.shape[0]} rows, by the other arrays the kernel "
            f"needs {extents[0]} ({declaration.shape[0].text})"
        )
        yield Hypothesis("array-too-short", told, 0.93)


def _overlaps(case: Case) -> Iterator[Hypothesis]:
    outputs = {p.name for p in case.declared.params if p.role == "output"} or set(case.expected)
    for output in outputs & case.arrays.keys():
        first = case.arrays[output]
        for name, other in case.arrays.items():
            begin = max(first.address, other.address)
            end = min(first.address + first.nbytes, other.address + other.nbytes)
            if name != output and begin < end:
                told = f"{output} and {name} share {end - begin} bytes"
                apart = max(a.address + a.nbytes for a in case.arrays.values()) + 4096 & ~255
                moved = {**case.arrays, output: replace(first, address=apart)}
                remedy = replace(case, arrays=moved).with_values(**{output: apart})
                yield Hypothesis("arrays-overlap", told, 0.95, remedy, "an array of its own")


def exchange_clues(case: Case) -> Iterator[Hypothesis]:
    """Two arrays, each of the type and the number of axes that the other's parameter declares."""
    declared = {p.name: p for p in case.declared.params if p.name in case.arrays}
    for one, two in combinations(declared, 2):
        here, there = (POINTEE_DTYPES.get(declared[n].type or "") for n in (one, two))
        first, second = (case.arrays[n].values.dtype.name for n in (one, two))
        if here and there and here != there and (first, second) == (there, here):
            told = f"{one} is {case.arrays[one]}, as {two} should be, and {two} {case.arrays[two]}"
            yield Hypothesis("pointers-swapped", told, 0.97)


def type_clues(case: Case) -> Iterator[Hypothesis]:
    """Arrays of another element type, or in another shape, than is declared."""
    dissent = truth(case).dissent()
    for declaration in case.declared.params:
        array, expected = case.arrays.get(declaration.name), POINTEE_DTYPES.get(declaration.type)
        if array is None:
            continue
        if expected is not None and array.values.dtype.name != expected:
            told = f"{declaration.name} is {array}, the kernel reads {expected}"
            with np.errstate(over="ignore", invalid="ignore"):
                values = array.values.astype(_dtype(expected))
            remedy = case.with_array(declaration.name, values)
            mended = f"it converted to {expected}"
            packed = next((rule.text for rule in declaration.shape if "//" in rule.text), "")
            if packed and declaration.name in dissent:
                mended = f"it packed into {expected}, as its extent {packed} asks"
            yield Hypothesis("dtype-wrong", told, 0.95, remedy, mended)
        elif declaration.name in dissent and array.values.ndim == 2:
            yield from _transposed(case, declaration, array)


def _transposed(case: Case, declaration: Declaration, array: CaseArray) -> Iterator[Hypothesis]:
    right = truth(case).values
    try:
        extents = [rule({**(case.declared.tile or {}), **right}) for rule in declaration.shape]
    except FerrumError:
        return
    if tuple(extents) == array.values.shape[::-1] and extents[0] != extents[1]:
        told = (
            f"{declaration.name} has shape {list(array.values.shape)}, by the other arrays it "
            f"should be {extents}"
        )
        values = np.ascontiguousarray(array.values.T)
        strides = {
            rule.text: step
            for rule, step in zip(declaration.strides, (extents[1], 1), strict=True)
            if rule.text in case.values
        }
        remedy = case.with_array(declaration.name, values).with_values(**strides)
        yield Hypothesis("operand-transposed", told, 0.93, remedy, "it transposed")
    elif tuple(extents) != array.values.shape:
        yield from _of_another_layer(declaration, array, extents)


def _of_another_layer(
    declaration: Declaration, array: CaseArray, extents: list[int]
) -> Iterator[Hypothesis]:
    """An input whose columns are not those that the other arrays have; more rows may be meant."""
    shape = list(array.values.shape)
    if declaration.role == "output" or (shape[1] == extents[1] and shape[0] < extents[0]):
        return
    told = f"{declaration.name} has shape {shape}, by the other arrays it should be {extents}"
    sure = 0.95 if shape[1] != extents[1] else 0.5
    yield Hypothesis("array-of-another-layer", told, sure)


def content_clues(case: Case) -> Iterator[Hypothesis]:
    """Inputs that hold NaN, or nothing but zeros: what contents show by themselves."""
    outputs = {p.name for p in case.declared.params if p.role == "output"} | set(case.expected)
    for name, array in case.arrays.items():
        if name in outputs:
            continue
        if outputs and array.values.size > 1 and not array.values.any():
            told = f"{name}, {array}, is zero everywhere"
            yield Hypothesis("input-zero", told, 0.6)
        if array.values.dtype.kind not in "fV":
            continue
        wrong = ~np.isfinite(array.values.astype(np.float64))
        after = case.found.get(name)
        if after is not None and after.shape == wrong.shape:
            # What came out finite there was written, not read: memory that nobody had filled.
            wrong &= ~np.isfinite(after.astype(np.float64))
        if wrong.any():
            index = ", ".join(map(str, np.argwhere(wrong)[0]))
            told = f"{name}[{index}] is {array.values[tuple(np.argwhere(wrong)[0])]}"
            more = f", and so are {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
            yield Hypothesis("input-not-finite", told + more, 0.9)


def guesses(case: Case) -> Iterator[Hypothesis]:
    """Faults that contents do not show, tried where the expected result is known."""
    for name, array in case.arrays.items():
        if array.values.dtype == np.int32 and array.values.ndim == 2:
            yield from _packed_guesses(case, name, array)
    yield from weight_guesses(case)
    for name, array in case.arrays.items():
        values = array.values
        if values.ndim == 2 and min(values.shape) > 1 and name not in case.expected:
            told = f"{name} read as its transpose"
            flat = np.ascontiguousarray(values)
            for other in (flat.reshape(flat.shape[::-1]).T, flat.T):
                remedy = case.with_array(name, np.ascontiguousarray(other))
                yield Hypothesis("operand-transposed", told, 0.25, remedy, f"{name} transposed")


def _packed_guesses(case: Case, name: str, array: CaseArray) -> Iterator[Hypothesis]:
    """A packed array's nibbles in other orders."""
    for order, words in WORD_ORDERS.values():
        told = f"{name} read with the eight values of a word {words}"
        remedy = case.with_array(name, _words(_nibbles(array.values)[..., list(order)]))
        yield Hypothesis("nibble-order", told, 0.3, remedy, f"{name} put into GPTQ's order")
    rows, columns = array.values.shape
    if name not in case.expected and columns and columns % 8 == 0:
        told = f"{name} read as packed along its columns, 8 neighbours of a row a word"
        along = _nibbles(array.values.reshape(rows * 8, columns // 8)).reshape(rows, 8, columns)
        remedy = case.with_array(name, _words(along.transpose(0, 2, 1)))
        yield Hypothesis("nibble-order", told, 0.3, remedy, f"{name} packed along its rows")


def _nibbles(words: NDArray[Any]) -> NDArray[Any]:
    shifts = np.arange(8, dtype=np.uint32) * 4
    return (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts).astype(np.int64) & 15


def _words(nibbles: NDArray[Any]) -> NDArray[Any]:
    shifts = np.arange(8, dtype=np.uint32) * 4
    words: NDArray[Any] = np.bitwise_or.reduce(nibbles.astype(np.uint32) << shifts, axis=-1)
    return words.view(np.int32)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
